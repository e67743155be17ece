"""`krayne daemon logs` as a process: how many lines, on across a rotation; and when it is the journal's."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from krayne_client import daemonlog, service
from tests.client.test_cli import RUN, Shell

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture
def log(alone: Shell) -> Path:
    path = alone.folder / "home" / "logs" / "kraynd.log"
    path.parent.mkdir(parents=True)
    path.write_text("one\ntwo\nthree\n")
    return path


@pytest.fixture
def following(alone: Shell, log: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [*RUN, "daemon", "logs", "-f", "-n", "1"]
    env = alone.env | {"HOME": str(alone.folder)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield process
        process.kill()


async def test_the_last_lines(alone: Shell, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(alone.folder))
    assert (await alone.run("daemon logs -n 2"))[:2] == (0, "two\nthree\n")
    assert (await alone.run("daemon logs --lines 1"))[:2] == (0, "three\n")
    assert (await alone.run("daemon logs"))[1] == log.read_text()
    code, _, err = await alone.run("daemon logs -n few")
    assert (code, "'few' is no number of lines" in err) == (2, True)
    log.unlink()
    assert (await alone.run("daemon logs"))[0] == 1


async def test_following_goes_on_in_the_new_file(following: "subprocess.Popen[str]", log: Path) -> None:
    assert following.stdout is not None
    with anyio.fail_after(60):
        assert await to_thread.run_sync(following.stdout.readline) == "three\n"
        log.rename(log.with_suffix(".log.1"))
        log.write_text("four\n")
        assert await to_thread.run_sync(following.stdout.readline) == "four\n"


@pytest.mark.skipif(sys.platform == "darwin", reason="systemd's")
def test_the_journal_where_our_unit_is_installed_and_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not run: why it does not is what one wants to read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KRAYNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    file = tmp_path / "home" / "logs" / "kraynd.log"
    file.parent.mkdir(parents=True)
    file.write_text("of an earlier day\n")
    monkeypatch.setattr(daemonlog, "JOURNAL", str(tmp_path / "journal"))
    unit = service.unit_path()
    unit.parent.mkdir(parents=True)
    unit.write_text(service.render())
    assert daemonlog.reader("7", follow=True) == ["tail", "-n", "7", "-F", str(file)]
    (tmp_path / "journal").touch()
    journal = ["journalctl", "--user", "-u", "kraynd.service", "--no-pager", "-n", "7", "-f"]
    assert daemonlog.reader("7", follow=True) == journal
    unit.unlink()
    assert daemonlog.reader("7", follow=False) == ["tail", "-n", "7", str(file)]
