"""A restart under clients that come all the time: who connects is never refused, and the doors go from hand to hand."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from krayne import paths
from krayne_client.connection import Connection, connect

ROOT = Path(__file__).parents[2]
RESTARTS = 50
EVERY = 0.03  # every visit stays in the handed door's backlog, where nobody accepts: 4096 must outlast the test
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("KRAYNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KRAYNE_SOCKET", str(tmp_path / "run" / "s"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("NOTIFY_SOCKET", "JOURNAL_STREAM", "LISTEN_FDS"):
        monkeypatch.delenv(name, raising=False)
    yield dict(os.environ)
    shutil.rmtree(paths.run_dir(), ignore_errors=True)  # this home's alone, and perhaps not below it


class Manager:
    """A stand-in for systemd's notify socket: it keeps what is stored, under its name."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.stored: dict[str, list[int]] = {}
        self.said: list[str] = []
        self.ready = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(0.2)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 65_536, 16)
            except TimeoutError:
                continue
            words = dict(line.split("=", 1) for line in data.decode().splitlines())
            if "FDSTORE" in words:
                self.stored.setdefault(words["FDNAME"], []).extend(fds)
            if "FDSTOREREMOVE" in words:
                self._drop(words["FDNAME"])
            self.said.append(data.decode())
            if "READY" in words:
                self.ready.set()

    def _drop(self, name: str) -> None:
        for fd in self.stored.pop(name, []):
            os.close(fd)

    def await_word(self, word: str, times: int = 1) -> None:
        """Wait until it was said so often."""
        pause = threading.Event()
        for _ in range(600):
            if self.said.count(word) >= times:
                return
            pause.wait(0.1)
        raise AssertionError(f"never said {times} times: {word!r}; said: {self.said}")

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()
        for name in list(self.stored):
            self._drop(name)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


@contextlib.contextmanager
def daemon(
    environ: dict[str, str], *fds: int, before: tuple[str, ...] = (), more: tuple[str, ...] = ()
) -> Iterator["subprocess.Popen[bytes]"]:
    command = [*before, sys.executable, "-P", "-m", "kraynd", *more]
    with subprocess.Popen(command, env=environ, pass_fds=fds, cwd="/", stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def reached(process: "subprocess.Popen[bytes]") -> Connection:
    """The daemon, once it answers."""
    pause = threading.Event()
    for _ in range(600):
        found = connect()
        if found is not None:
            return found
        assert process.poll() is None, "the daemon ended"
        pause.wait(0.1)
    raise AssertionError("the daemon does not come up")


class Visitors(threading.Thread):
    """Connects to each address every 30 ms, and counts who was not let in."""

    def __init__(self, *addresses: "str | tuple[str, int]") -> None:
        super().__init__()
        self.addresses, self.made, self.refused, self.over = addresses, 0, list[str](), threading.Event()

    def run(self) -> None:
        while not self.over.wait(EVERY):
            for address in self.addresses:
                family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
                with socket.socket(family) as one:
                    one.settimeout(30)
                    try:
                        one.connect(address)
                        self.made += 1
                    except OSError as error:
                        self.refused.append(f"{address}: {error}")


def restart_once(process: "subprocess.Popen[bytes]") -> None:
    with reached(process) as found:
        assert found.call("daemon.restart", seconds=30)["pid"] == process.pid
        assert found.wait_closed(30)


def test_nobody_is_refused_across_restarts(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as door:
        port = door.getsockname()[1]
        environ["KRAYND_HANDED"] = f"forward={door.fileno()}"
        with daemon(environ, door.fileno()) as process:
            with reached(process) as found:
                found.call("daemon.hello")
            door.close()
            visitors = Visitors(environ["KRAYNE_SOCKET"], ("127.0.0.1", port))
            visitors.start()
            try:
                for _ in range(RESTARTS):
                    restart_once(process)
                with reached(process) as found:
                    assert found.call("daemon.hello", seconds=30)["pid"] == process.pid
            finally:
                visitors.over.set()
                visitors.join()
            assert visitors.refused == []
            assert visitors.made > RESTARTS
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert not os.path.exists(environ["KRAYNE_SOCKET"]), "the last one takes its socket away"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_another_shells_path_is_taken_over(environ: dict[str, str]) -> None:
    def recorded(pid: int) -> list[str]:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return [entry.decode() for entry in entries if entry.startswith(b"PATH=")]

    wanted = environ["PATH"] + ":/opt/plugins"
    command = [sys.executable, "-m", "krayne_client.main", "daemon", "restart"]
    with daemon(environ) as process:
        reached(process).close()
        assert recorded(process.pid) == [f"PATH={environ['PATH']}"]
        subprocess.run(command, env={**environ, "PATH": wanted}, cwd="/", check=True, timeout=120)
        with reached(process) as found:
            assert found.call("daemon.hello", seconds=60)["pid"] == process.pid
        assert recorded(process.pid) == [f"PATH={wanted}"]


def test_the_manager_keeps_the_control_socket_of_a_killed_daemon(environ: dict[str, str], manager: Manager) -> None:
    environ["NOTIFY_SOCKET"] = manager.path
    with daemon(environ) as process:
        assert manager.ready.wait(60)
        process.kill()
        process.wait()
    waiting = connect()
    assert waiting is not None, "it waits in the backlog"
    kept = manager.stored["control"][0]
    script = (
        f"import os; os.dup2({kept}, 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', "
        "LISTEN_FDNAMES='control'); import runpy; runpy.run_module('kraynd', run_name='__main__')"
    )
    command = [sys.executable, "-P", "-c", script]
    with subprocess.Popen(command, env=environ, pass_fds=(kept,), cwd="/", stderr=subprocess.DEVNULL) as successor:
        try:
            with waiting:
                assert waiting.call("daemon.hello", seconds=60)["pid"] == successor.pid
        finally:
            successor.kill()
    manager.await_word("STATUS=0 clusters, 0 forwards; Kubernetes: connecting")


def test_the_watchdog_is_fed(environ: dict[str, str], manager: Manager) -> None:
    environ |= {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "300000"}
    with daemon(environ) as process:
        assert manager.ready.wait(60)
        restart_once(process)
        with reached(process) as found:
            found.call("daemon.hello", seconds=30)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert sum(said == "WATCHDOG=1" for said in manager.said) >= 2
    assert [one for one in manager.said if not one.startswith(("WATCHDOG=", "STATUS="))][-1] == "STOPPING=1"
