"""Where the daemon's log goes: with priorities to the journal, plain to a terminal, else into a bounded file."""

import logging
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kraynd import __main__ as program
from tests.service.test_restart import environ, reached

__all__ = ["environ"]
pytestmark = pytest.mark.timeout(180)
PLAIN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO kraynd: serving ")
COMMAND = [sys.executable, "-P", "-m", "kraynd"]


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for one in list(root.handlers):
        root.removeHandler(one)
        if one not in before:
            one.close()
    for one in before:
        root.addHandler(one)
    root.setLevel(level)


def test_the_journal_gets_a_priority_on_each_line(environ: dict[str, str]) -> None:
    settings = Path(environ["KRAYNE_HOME"]) / "kraynd.yaml"
    settings.parent.mkdir(mode=0o700)
    settings.write_text("ports: {low: 1}\nprune: perhaps\n")  # two mistakes: an error of more than one line
    environ["JOURNAL_STREAM"] = "8:1"
    with subprocess.Popen(COMMAND, env=environ, cwd="/", stderr=subprocess.PIPE, text=True) as process:
        reached(process).close()  # type: ignore[arg-type]
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1].splitlines()
    assert said[-1] == "<6>kraynd: stopped"
    assert any(line.startswith("<6>kraynd: serving ") for line in said)
    assert all(re.match(r"<[3-7]>", line) for line in said), said
    assert sum(line.startswith("<3>") for line in said) >= 1
    assert not (Path(environ["KRAYNE_HOME"]) / "logs").exists()


def test_a_terminal_gets_plain_lines(environ: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(COMMAND, env=environ, cwd="/", stderr=theirs) as process:
        os.close(theirs)
        said = ""
        while not PLAIN.search(said):
            said += os.read(ours, 4096).decode()
        process.terminate()
        assert process.wait(60) == 0
    os.close(ours)


@pytest.mark.usefixtures("logging_restored")
def test_the_file_is_rotated_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LOG_BYTES", 1000)
    file = tmp_path / "logs" / "kraynd.log"
    program._log_to("info", str(file))
    for number in range(100):
        logging.getLogger("kraynd").info("line %d %s", number, "x" * 80)
    found = sorted(file.parent.iterdir())
    assert [one.name for one in found] == ["kraynd.log", "kraynd.log.1", "kraynd.log.2", "kraynd.log.3"]
    assert all(one.stat().st_size <= 1000 for one in found)
    assert "line 99 " in file.read_text()
    logging.getLogger("aiohttp").info("a body with a token")
    assert "body" not in file.read_text()
