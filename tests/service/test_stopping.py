"""How the daemon stops: short changes finish, a second signal ends it at once, an activator's socket stays."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from krayne_client.connection import connect
from tests.service.test_reload import kubeconfig
from tests.service.test_restart import daemon, environ, reached

__all__ = ["environ"]
pytestmark = pytest.mark.timeout(300)
LIMIT = 120.0


@pytest.fixture
def deaf(environ: dict[str, str]) -> Iterator[None]:
    """The kubeconfig leads to a server that lets everybody in and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"https://127.0.0.1:{server.getsockname()[1]}"
        Path(environ["KUBECONFIG"]).write_text(json.dumps(kubeconfig(address)))
        yield


class Choosing(threading.Thread):
    """A change that lasts: the choice of a context, which waits for its server this long."""

    def __init__(self, milliseconds: int) -> None:
        super().__init__()
        self._wait = milliseconds
        self.answer: dict[str, Any] = {}
        self.error: Exception | None = None

    def run(self) -> None:
        found = connect()
        assert found is not None
        with found:
            try:
                self.answer = found.call("setup.use", {"context": "there", "wait_ms": self._wait}, seconds=LIMIT)
            except Exception as error:
                self.error = error


def begun(environ: dict[str, str]) -> None:
    """Wait until the choice is saved: the change is under way."""
    pause, saved = threading.Event(), Path(environ["KRAYNE_HOME"]) / "config.yaml"
    for _ in range(1200):
        if saved.exists():
            return
        pause.wait(0.05)
    raise AssertionError("the change does not begin")


@pytest.mark.usefixtures("deaf")
def test_a_short_change_finishes_before_the_daemon_stops(environ: dict[str, str]) -> None:
    with daemon(environ) as process:
        reached(process).close()
        choosing = Choosing(1500)
        choosing.start()
        begun(environ)
        process.send_signal(signal.SIGTERM)
        choosing.join(LIMIT)
        assert choosing.error is None
        assert choosing.answer["context"] == "there"
        assert process.wait(LIMIT) == 0


@pytest.mark.usefixtures("deaf")
def test_a_second_signal_ends_it_at_once(environ: dict[str, str]) -> None:
    with daemon(environ) as process:
        reached(process).close()
        choosing = Choosing(20_000)
        choosing.start()
        begun(environ)
        log = Path(environ["KRAYNE_HOME"]) / "logs" / "kraynd.log"
        process.send_signal(signal.SIGTERM)
        pause = threading.Event()
        while "SIGTERM: stopping" not in log.read_text() and process.poll() is None:
            pause.wait(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == -signal.SIGTERM, "not its own orderly end"
        choosing.join(LIMIT)
        assert choosing.error is not None


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd is not on this machine")
def test_activated_by_its_socket_it_serves_and_leaves_the_path(environ: dict[str, str]) -> None:
    path = Path(environ["KRAYNE_SOCKET"])
    passed = [f"--setenv={name}" for name in environ if name.startswith(("KRAYNE", "KUBE", "PYTHON", "PATH", "HOME"))]
    activate = ["systemd-socket-activate", f"--listen={path}", *passed]
    command = [*activate, sys.executable, "-P", "-m", "kraynd"]
    with subprocess.Popen(command, env=environ, cwd="/", stderr=subprocess.DEVNULL) as process:
        try:
            with reached(process) as found:
                assert found.call("daemon.hello", seconds=LIMIT)["pid"] == process.pid
                assert found.call("daemon.stop", seconds=LIMIT)["pid"] == process.pid
            assert process.wait(LIMIT) == 0
            assert path.is_socket(), "it is the activator's"
        finally:
            process.kill()
