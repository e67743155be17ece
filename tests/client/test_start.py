"""Starting the daemon: once, whoever asks; and a daemon that dies is quoted."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from krayne.errors import DaemonUnreachableError
from krayne_client.connection import connect

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
# Counts itself, serves the socket as the real one does, and ends when the test says so.
STUB = """
import json, os, socket, sys, time
from kraynd.local.control import bind_control_socket
with open(sys.argv[1], "a") as spawned:
    spawned.write(f"{os.getpid()}\\n")
time.sleep(float(sys.argv[2]))
listener = bind_control_socket(os.environ["KRAYNE_SOCKET"])
listener.setblocking(True)
while True:
    connection, _ = listener.accept()
    request = json.loads(connection.makefile("rb").readline() or b"{}")
    if request:
        answer = {"jsonrpc": "2.0", "id": request["id"], "result": {"pid": os.getpid()}}
        connection.sendall(json.dumps(answer).encode() + b"\\n")
    connection.close()
"""
ASK = """
import sys
from krayne_client.start import ensure_daemon
from krayne.errors import KrayneError
try:
    with ensure_daemon(command=sys.argv[1:], say=lambda text: print(text, file=sys.stderr)) as daemon:
        print(daemon.call("daemon.hello")["pid"])
except KrayneError as error:
    print(error.kind, error.message, error.hint, sep="|")
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def spawned(tmp_path: Path) -> Iterator[Path]:
    """Where stubs note their pids; they are ended afterwards."""
    (tmp_path / "run").mkdir(mode=0o700)
    notes = tmp_path / "spawned"
    notes.touch()
    yield notes
    for pid in notes.read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def environ(tmp_path: Path) -> dict[str, str]:
    run = {"KRAYNE_HOME": str(tmp_path / "home"), "KRAYNE_SOCKET": str(tmp_path / "run" / "s")}
    return {**os.environ, "PYTHONPATH": str(ROOT), **run}


async def ask(tmp_path: Path, *command: str) -> "subprocess.CompletedProcess[bytes]":
    return await anyio.run_process(
        [sys.executable, "-c", ASK, *command], env=environ(tmp_path), stderr=subprocess.PIPE, check=False
    )


async def test_twenty_at_once_spawn_one(tmp_path: Path, spawned: Path) -> None:
    answers: list[bytes] = []

    async def one() -> None:
        done = await ask(tmp_path, sys.executable, "-c", STUB, str(spawned), "0.2")
        answers.append(done.stdout.strip() or done.stderr)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(one)
    (pid,) = spawned.read_text().split()
    assert answers == [pid.encode()] * 20


async def test_a_slow_start_is_announced_once_and_leaves_us_alone(tmp_path: Path, spawned: Path) -> None:
    done = await ask(tmp_path, sys.executable, "-c", STUB, str(spawned), "0.6")
    assert done.stderr == b"starting the daemon ...\n"
    (pid,) = spawned.read_text().split()
    assert done.stdout.strip().decode() == pid
    assert os.getsid(int(pid)) == int(pid), "its own session: closing our terminal does not end it"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    locks = [os.readlink(one.path) for one in os.scandir(f"/proc/{pid}/fd")]
    assert not [name for name in locks if name.endswith("start.lock")], "an inherited lock would outlive us"


async def test_a_stale_socket_does_not_stop_a_start(tmp_path: Path, spawned: Path) -> None:
    from kraynd.local.control import bind_control_socket

    bind_control_socket(str(tmp_path / "run" / "s")).close()
    done = await ask(tmp_path, sys.executable, "-c", STUB, str(spawned), "0")
    assert done.stdout.strip() in spawned.read_bytes()


async def test_a_daemon_that_dies_is_quoted_at_once(tmp_path: Path) -> None:
    done = await ask(
        tmp_path, sys.executable, "-c", "import sys; print('first', flush=True); sys.exit('the home is on fire')"
    )
    kind, message, hint = done.stdout.decode().strip().split("|")
    assert kind == "daemon-unreachable"
    assert message == "the daemon ended at once with code 1: the home is on fire"
    assert hint == "krayne daemon run"


async def test_a_missing_interpreter_is_said(tmp_path: Path) -> None:
    done = await ask(tmp_path, str(tmp_path / "no-such-python"))
    assert b"the daemon cannot be started" in done.stdout


async def test_an_unusable_home_is_said(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    done = await ask(tmp_path, sys.executable, "-c", "pass")
    assert done.stdout.startswith(b"home-unusable|the home folder ")


def test_a_daemon_that_takes_nobody_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    monkeypatch.setenv("KRAYNE_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX) as full, ExitStack() as held:
        full.bind(str(path))
        full.listen(0)
        held.enter_context(connect(0.0) or ExitStack())
        with pytest.raises(DaemonUnreachableError, match="takes no clients"):
            held.enter_context(connect(0.0) or ExitStack())


def test_a_silent_daemon_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    monkeypatch.setenv("KRAYNE_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        found = connect()
        assert found is not None
        with found, pytest.raises(DaemonUnreachableError, match="does not answer"):
            found.call("daemon.hello", seconds=0.02)
