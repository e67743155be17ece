"""Our ssh files: whole, private, touched only when they change, and rebuilt when they are not ours to read."""

import os
import stat
from pathlib import Path

import pytest

from kraynd.local.sshfiles import SshFiles
from krayne import paths


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KRAYNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_they_are_written_once_for_each_change() -> None:
    files = SshFiles()
    files.update(known_hosts="a\n", config="b\n")
    path = Path(paths.known_hosts_file())
    assert (path.read_text(), Path(paths.ssh_config_file()).read_text()) == ("a\n", "b\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    before = path.stat().st_ino
    files.update(known_hosts="a\n", config="c\n")
    assert path.stat().st_ino == before
    assert Path(paths.ssh_config_file()).read_text() == "c\n"
    again = SshFiles()
    assert (again.known_hosts, again.config) == ("a\n", "c\n")
    again.update(known_hosts="d\n", config="c\n")
    assert path.read_text() == "d\n"
    assert path.stat().st_ino != before


def test_a_link_in_their_place_is_not_followed(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine\n")
    (home / "ssh").mkdir(parents=True)
    os.symlink(other, paths.known_hosts_file())
    files = SshFiles()
    assert files.known_hosts == ""
    files.update(known_hosts="a\n", config="")
    assert other.read_text() == "mine\n"
    assert Path(paths.known_hosts_file()).read_text() == "a\n"


def test_a_folder_that_takes_nothing_is_told_and_tried_again(home: Path) -> None:
    home.mkdir()
    (home / "ssh").write_text("in the way")
    files = SshFiles()
    files.update(known_hosts="a\n", config="b\n")
    assert "cannot be" in files.trouble
    (home / "ssh").unlink()
    files.update(known_hosts="a\n", config="b\n")
    assert files.trouble == ""
    assert (files.known_hosts, files.config) == ("a\n", "b\n")
    assert Path(paths.known_hosts_file()).read_text() == "a\n"
