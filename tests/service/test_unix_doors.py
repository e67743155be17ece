"""The Unix sockets of forwards outlast the daemon: nobody is refused at one, and none is left when it is closed."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kraynd.local.listen import bind_unix
from krayne import paths
from krayne_client.connection import Connection, connect
from tests.service.test_reload import kubeconfig
from tests.service.test_restart import Manager, Visitors, daemon, environ, manager, reached, restart_once

__all__ = ["environ", "manager"]
pytestmark = pytest.mark.timeout(600)
RESTARTS = 10
LIMIT = 60.0


@pytest.fixture
def declared(environ: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A cluster is declared in a world whose server is down: its forwards are on, and hold who comes."""
    Path(environ["KUBECONFIG"]).write_text(json.dumps(kubeconfig("https://127.0.0.1:1")))
    clusters = tmp_path / "home" / "clusters"
    clusters.mkdir(mode=0o700, parents=True)
    (clusters / "demo.yaml").write_text("name: demo\n")
    low = 15_000 + os.getpid() % 200 * 40  # not those of another such daemon: the same cluster has the same ports
    (tmp_path / "home" / "kraynd.yaml").write_text(f"ports: {{low: {low}, high: {low + 39}}}\n")
    return environ


def doors(found: Connection) -> dict[str, tuple[str, int]]:
    """Each forward's Unix socket and port, once all are open."""
    pause = threading.Event()
    for _ in range(600):
        forwards = found.call("forward.list", {}, seconds=LIMIT)["forwards"]
        if forwards and all(one["socket"] for one in forwards):
            return {one["service"]: (one["socket"], one["local_port"]) for one in forwards}
        pause.wait(0.1)
    raise AssertionError(f"the forwards do not open: {forwards}")


def test_nobody_is_refused_at_a_forwards_unix_socket_across_restarts(declared: dict[str, str]) -> None:
    with daemon(declared) as process:
        with reached(process) as found:
            before = doors(found)
        inodes = {path: os.lstat(path).st_ino for path, _ in before.values()}
        path, port = before["dashboard"]
        visitors = Visitors(path, ("127.0.0.1", port))
        visitors.start()
        try:
            for _ in range(RESTARTS):
                restart_once(process)
            with reached(process) as found:
                assert doors(found) == before
        finally:
            visitors.over.set()
            visitors.join()
        assert visitors.refused == []
        assert visitors.made > RESTARTS
        assert {path: os.lstat(path).st_ino for path in inodes} == inodes, "the very same sockets"
        process.terminate()
        assert process.wait(LIMIT) == 0
    assert not any(os.path.exists(path) for path in inodes), "the last one takes them away"


@contextmanager
def successor(environ: dict[str, str], manager: Manager) -> Iterator["subprocess.Popen[bytes]"]:
    """A daemon that a manager starts with what it keeps."""
    kept = [(name, fd) for name, fds in manager.stored.items() for fd in fds]
    high = [500 + at for at in range(len(kept))]  # away from the numbers they are to have
    script = (
        f"import os; [os.dup2(fd, at) for fd, at in zip({[fd for _, fd in kept]}, {high})]; "
        f"[os.dup2(at, 3 + n) for n, at in enumerate({high})]; os.closerange(500, 600); "
        f"os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='{len(kept)}', "
        f"LISTEN_FDNAMES='{':'.join(name for name, _ in kept)}'); "
        "import runpy; runpy.run_module('kraynd', run_name='__main__')"
    )
    command = [sys.executable, "-P", "-c", script]
    fds = [fd for _, fd in kept]
    with subprocess.Popen(command, env=environ, pass_fds=fds, cwd="/", stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_manager_keeps_it_while_the_daemon_is_gone_until_it_is_stopped(
    declared: dict[str, str], manager: Manager
) -> None:
    declared["NOTIFY_SOCKET"] = manager.path
    with daemon(declared) as process:
        with reached(process) as found:
            before = doors(found)
        unix = [one for one in manager_names(manager, len(before)) if one.startswith("unix-")]
        assert len(unix) == len(before)
        manager.await_word(f"STATUS=1 clusters, {len(before)} forwards; Kubernetes: unreachable")
        process.terminate()  # for all it knows, another one follows
        assert process.wait(LIMIT) == 0
    paths_of = [path for path, _ in before.values()]
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(before["dashboard"][0])  # nobody runs, and nobody is refused
        with successor(declared, manager) as process:
            with reached(process) as found:
                assert doors(found) == before
                found.call("daemon.stop", seconds=LIMIT)
            assert process.wait(LIMIT) == 0
    assert not any(os.path.exists(path) for path in paths_of), "stopped by its user: nobody follows"
    assert connect() is None


def manager_names(manager: Manager, forwards: int) -> list[str]:
    """What is stored, once that is two doors a forward."""
    pause = threading.Event()
    for _ in range(600):
        names = [one for one in list(manager.stored) if one != "control"]
        if len(names) == 2 * forwards:
            return names
        pause.wait(0.1)
    raise AssertionError(f"not stored: {list(manager.stored)}")


def test_a_dead_daemons_sockets_are_taken_away(declared: dict[str, str]) -> None:
    """Its forwards' that are wanted no more; those that are wanted are bound anew, others' files stay."""
    folder = Path(paths.run_dir())
    bind_unix(str(folder / "default.gone.ssh.sock")).close()
    (folder / "note").write_text("")
    other = bind_unix(str(folder / "listened.sock"))
    try:
        with daemon(declared) as process, reached(process) as found:
            opened = {path for path, _ in doors(found).values()}
            pause = threading.Event()
            for _ in range(600):
                if not (folder / "default.gone.ssh.sock").exists():
                    break
                pause.wait(0.1)
            left = {str(one) for one in folder.iterdir()}
            assert left - {paths.socket_path()} == opened | {str(folder / "note"), str(folder / "listened.sock")}
    finally:
        other.close()
