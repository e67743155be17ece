"""`krayne daemon logs` as a process: how many lines, on across a rotation, and the journal where our unit runs."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from tests.client.test_cli import RUN, Shell

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
# A service manager and a journal as far as they are asked here: they say what they were asked.
SYSTEMCTL = '#!/bin/sh\n[ "$2" = is-active ] && echo active\n'
JOURNALCTL = '#!/bin/sh\necho "$@"\n'


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


async def test_the_journal_where_our_unit_runs(alone: Shell, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = alone.folder / "bin"
    programs.mkdir()
    for name, text in (("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("HOME", str(alone.folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(alone.folder / "config"))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    unit = alone.folder / "config" / "systemd" / "user" / "kraynd.service"
    unit.parent.mkdir(parents=True)
    unit.write_text((await alone.run("daemon install --dry-run"))[1])
    assert (await alone.run("daemon logs -f -n 7"))[1] == "--user -u kraynd.service --no-pager -n 7 -f\n"
