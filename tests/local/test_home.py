"""The home folder: modes, owner, lock, marker, and writes that are whole or absent."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kraynd.local import home as subject
from kraynd.local.home import AlreadyRunningError, Home, UnsafeFileError, atomic_write, read_own_file
from krayne import paths
from krayne.errors import StateError


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_new_home_is_private(home: Home, home_path: Path) -> None:
    assert mode(home_path) == 0o700
    assert mode(home.clusters) == 0o700
    assert mode(paths.run_dir()) == 0o700


def test_an_open_home_is_closed_to_others_again(home_path: Path) -> None:
    home_path.mkdir(mode=0o755)
    Home.open()
    assert mode(home_path) == 0o700


def test_the_id_is_made_once(home: Home) -> None:
    assert Home.open().id == home.id
    assert len(home.id) == 16


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_home_of_another_user_is_refused(home_path: Path) -> None:
    home_path.mkdir()
    os.chown(home_path, 12345, 12345)
    with pytest.raises(StateError, match="belongs to uid 12345"):
        Home.open()


def test_a_home_that_cannot_be_made_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KRAYNE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(StateError, match="file/home cannot be made"):
        Home.open()


def test_a_second_daemon_learns_who_holds_the_lock(home: Home) -> None:
    home.lock()
    with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}"):
        Home.open().lock()
    home.unlock()
    Home.open().lock()


def test_a_killed_daemon_leaves_no_lock(home: Home, home_path: Path) -> None:
    code = "import os; from kraynd.local.home import Home; Home.open().lock(); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "KRAYNE_HOME": str(home_path)}, check=False)
    assert done.returncode == -9
    home.lock()


def test_the_lock_is_not_inherited(home: Home) -> None:
    home.lock()
    held = home._lock_fd
    assert held is not None
    assert not os.get_inheritable(held)


def test_a_healthy_home_carries_its_own_marker(home: Home) -> None:
    assert home.healthy()
    (Path(home.clusters) / subject.MARKER).write_text("another\n")
    assert not home.healthy()


def test_an_empty_folder_of_an_old_home_is_not_trusted(home: Home) -> None:
    """The disk that held the cluster files is not mounted: an empty folder stands in its place."""
    Path(paths.state_file()).write_text("{}")
    (Path(home.clusters) / subject.MARKER).unlink()
    assert not Home.open().healthy()
    home.mark()
    assert home.healthy()


def test_a_missing_clusters_folder_is_unhealthy(home: Home) -> None:
    os.unlink(os.path.join(home.clusters, subject.MARKER))
    os.rmdir(home.clusters)
    assert not home.healthy()


def test_atomic_write_replaces_whole_and_leaves_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "state"
    atomic_write(str(target), b"one")
    atomic_write(str(target), b"two")
    assert target.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
    assert mode(target) == 0o600


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_write_that_fails_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A full or dying disk at either durable step."""
    target = tmp_path / "state"
    atomic_write(str(target), b"old")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, broken)
    with pytest.raises(OSError, match="No space"):
        atomic_write(str(target), b"new")
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_links_pipes_folders_and_open_files_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("token")
    (tmp_path / "link.yaml").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    loose = tmp_path / "loose.yaml"
    loose.write_text("x")
    loose.chmod(0o666)
    for name, why in {
        "link.yaml": "link",
        "pipe.yaml": "regular",
        "folder.yaml": "regular",
        "loose.yaml": "other users",
    }.items():
        with pytest.raises(UnsafeFileError, match=why):
            read_own_file(str(tmp_path / name), 1024)


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 2049)
    with pytest.raises(UnsafeFileError, match="larger than 2 KiB"):
        read_own_file(str(tmp_path / "big"), 2048)
