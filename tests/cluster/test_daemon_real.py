"""The daemon as a process: one per home whoever asks, found again after any end, silent about secrets."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.conftest import Krayne
from tests.cluster.using import becomes, condition, declare, home_with, status, until
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
CLIENTS = 20
STOP_LIMIT = 5.0  # seconds an orderly stop may take, as promised


def by_hand(krayne: Krayne, **env: str) -> subprocess.CompletedProcess[str]:
    """`kraynd` typed in a shell."""
    return subprocess.run(
        [sys.executable, "-m", "kraynd"],
        env={**krayne.env, **env},
        cwd=krayne.home,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie nobody asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def daemons(krayne: Krayne) -> list[int]:
    """Every kraynd of this home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environ = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"kraynd" in words and f"KRAYNE_HOME={krayne.folder}".encode() in environ:
            found.append(int(folder.name))
    return [pid for pid in found if is_alive(pid)]


def answers(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def test_a_second_daemon_says_who_runs_and_leaves(krayne: Krayne) -> None:
    krayne("ls")
    pid = status(krayne)["pid"]
    second = by_hand(krayne)
    assert second.returncode == 1
    assert f"pid {pid}" in second.stderr
    assert "already running" in second.stderr
    assert "Traceback" not in second.stderr
    assert by_hand(krayne, INVOCATION_ID="0" * 32).returncode == 0  # a service manager must not try again and again
    assert status(krayne)["pid"] == pid
    assert daemons(krayne) == [pid]


def test_stale_files_of_a_dead_daemon_are_taken_over(krayne: Krayne) -> None:
    krayne("ls")
    first = status(krayne)
    os.kill(first["pid"], signal.SIGKILL)
    until("its end", lambda: not is_alive(first["pid"]))
    path = Path(first["socket"])
    assert path.is_socket()
    assert str(first["pid"]) in (krayne.folder / "kraynd.lock").read_text()
    gone = krayne("status", code=3)
    assert "not running" in gone.err
    krayne("ls")
    assert status(krayne)["pid"] != first["pid"]
    assert answers(path)


def test_a_kill_loses_nothing(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    krayne("create", "demo", "-n", namespace, "--workers", "1", "--wait", "--timeout", "60s")
    krayne("tun-open", "demo", "9000")
    krayne("tun-close", "demo", "notebook")
    before = becomes(
        krayne,
        "demo",
        lambda row: row["workers"]["ready"] == 1 and all(one["state"] != "holding" for one in row["services"]),
    )
    uid = plane.api.get(f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/demo")["metadata"]["uid"]
    pid = status(krayne)["pid"]
    for _ in range(3):
        os.kill(pid, signal.SIGKILL)
        until("its end", lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
        after = becomes(krayne, "demo", lambda row: bool(row["phase"] == "ready"))
        shown = [(one["name"], one["local_port"], one["url"], one["state"] == "off") for one in before["services"]]
        assert [
            (one["name"], one["local_port"], one["url"], one["state"] == "off") for one in after["services"]
        ] == shown
        assert {**after, "services": [], "since": 0} == {**before, "services": [], "since": 0}
        pid, last = status(krayne)["pid"], pid
        assert pid != last
    assert plane.api.get(f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/demo")["metadata"]["uid"] == uid


def test_a_kill_in_the_middle_of_a_create_leaves_one_cluster_of_ours(
    plane: ControlPlane, namespace: str, krayne: Krayne
) -> None:
    krayne("ls")
    for number in range(5):
        name = f"demo-{number}"
        pid = status(krayne)["pid"]
        creating = subprocess.Popen(
            [sys.executable, "-m", "krayne_client.main", "create", name, "-n", namespace],
            env=krayne.env,
            cwd=krayne.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        file = krayne.folder / "clusters" / namespace / f"{name}.yaml"
        until("the declaration", file.exists)
        os.kill(pid, signal.SIGKILL)
        creating.communicate(timeout=60)
        krayne("wait", name, "-n", namespace, "--for=ready", "--timeout", "60s")
        row = krayne.cluster(name)
        assert row["owner"] == ""
        assert "adopt" not in row["reason"]


def test_twenty_clients_at_once_start_one_daemon(krayne: Krayne) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        ran = list(pool.map(lambda _: krayne("ls", "-o", "json", code=None), range(CLIENTS)))
    assert [(one.code, one.json()) for one in ran] == [(0, [])] * CLIENTS
    assert daemons(krayne) == [status(krayne)["pid"]]
    served = [line for line in (krayne.folder / "logs" / "kraynd.log").read_text().splitlines() if "serving" in line]
    assert len(served) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_in_time(
    plane: ControlPlane, namespace: str, krayne: Krayne, number: signal.Signals
) -> None:
    krayne("create", "demo", "-n", namespace, "--wait", "--timeout", "60s")
    port = krayne.port("demo", "dashboard")
    about = status(krayne)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        until("the connection", lambda: _connections(krayne) == 1)
        os.kill(about["pid"], number)
        until("its end", lambda: not is_alive(about["pid"]), STOP_LIMIT)
        client.settimeout(10)
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert not Path(about["socket"]).exists()
    assert not (krayne.folder / "daemon.json").exists()
    log = (krayne.folder / "logs" / "kraynd.log").read_text()
    assert f"{number.name}: stopping" in log
    assert log.rstrip().endswith("stopped")
    assert "Traceback" not in log
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)
    assert krayne("status", code=3).out == ""
    assert krayne.port("demo", "dashboard") == port  # and the next client starts it again


def _connections(krayne: Krayne) -> int:
    found = json.loads(krayne("ports", "-o", "json").out)
    return sum(one["total"] for one in found)


def test_what_it_logs_is_in_the_log_file_and_nowhere_else(krayne: Krayne) -> None:
    krayne("ls")
    log = krayne.folder / "logs" / "kraynd.log"
    assert "serving" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    assert (krayne.folder / "start.log").read_text() == ""
    assert "serving" in krayne("daemon", "logs").out


def test_no_token_is_ever_written_down_or_said(plane: ControlPlane, namespace: str) -> None:
    user = f"canary-{namespace}"
    config = plane.kubeconfig_for(user, rules=[{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}], auth="token")
    text = config.read_text()
    token = str(json.loads(text)["users"][0]["user"]["token"])
    said = []
    with home_with(config) as krayne:
        krayne.folder.mkdir()
        declare(krayne, "../kraynd.yaml", "log_level: debug\n")
        said.append(krayne("create", "demo", "-n", namespace, "--wait", "--timeout", "60s"))
        with socket.create_connection(("127.0.0.1", krayne.port("demo", "dashboard")), timeout=10):
            until("the connection", lambda: _connections(krayne) == 1)
        for words in (["ls"], ["status"], ["describe", "demo"], ["ports"]):
            said += [krayne(*words), krayne(*words, "-o", "json")]
        # Every way it can fail with the token in its hands.
        plane.node.revoke_token(token)
        until("401", lambda: "must be logged in" in plane.kubectl("get", "pods", check=False, kubeconfig=config))
        krayne("daemon", "restart")
        condition(krayne, "login-needed")
        said += [krayne("status"), krayne("create", "other", "-n", namespace, code=None), krayne("ls")]
        config.write_text(text.replace('"token"', '"tokem"'))
        until("another reason", lambda: status(krayne)["world"]["condition"] != "ready")
        config.write_text(text[:-20])
        krayne("daemon", "restart")  # a running one keeps what it read last
        condition(krayne, "misconfigured")
        said += [krayne("status"), krayne("ls")]
        broken = status(krayne)["world"]["reason"]
        config.write_text(text.replace(token, f"{token}\\n{token}"))
        until("a strange token", lambda: status(krayne)["world"]["reason"] != broken)
        said.append(krayne("status"))
        log = (krayne.folder / "logs" / "kraynd.log").read_text()
        assert "serving" in log
        assert all(token not in one.out + one.err for one in said)
        for file in krayne.folder.rglob("*"):
            assert not file.is_file() or token.encode() not in file.read_bytes(), file
