"""The unit under a real `systemd --user`: installed, killed, hung, restarted, reloaded, stopped, taken away."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from krayne_client.connection import Connection
from tests.service.test_reload import kubeconfig
from tests.service.test_restart import Visitors
from tests.service.usermanager import NEEDS_SYSTEMD, UNIT, UserManager, user_manager

pytestmark = [pytest.mark.real, pytest.mark.timeout(600), NEEDS_SYSTEMD]
RESTARTS = 5


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[UserManager]:
    with user_manager(tmp_path) as made:
        made.krayne("daemon", "install")
        made.until("the daemon", lambda: made.show("ActiveState") == "active")
        yield made


def hello(manager: UserManager) -> int:
    """The pid that answers on the socket, however long the connection waits in its backlog."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(120)
        one.connect(manager.api)
        with Connection(one) as found:
            return int(found.call("daemon.hello", seconds=120)["pid"])


def ports(manager: UserManager) -> list[dict[str, Any]]:
    """The forwards of the one cluster, once there are some."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = json.loads(manager.krayne("ports", "-o", "json"))
        return bool(found) and all(one["local_port"] for one in found)

    manager.until("forwards", there)
    return found


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_installed_it_is_ready_says_so_and_installing_again_changes_nothing(manager: UserManager) -> None:
    unit = manager.home / ".config" / "systemd" / "user" / UNIT
    assert manager.show("Type") == "notify"
    assert manager.show("StatusText").startswith("0 clusters")
    assert manager.show("UnitFileState") == "enabled"
    assert int(manager.show("NFileDescriptorStore")) > 0
    before, pid = unit.read_text(), manager.daemon()
    manager.krayne("daemon", "install")
    assert (unit.read_text(), manager.daemon()) == (before, pid)
    assert hello(manager) == pid
    manager.krayne("daemon", "stop")
    assert manager.show("ActiveState") == "inactive"
    assert manager.show("Result") == "success"
    manager.krayne("daemon", "uninstall")
    assert not unit.exists()
    assert manager.show("LoadState") == "not-found"


def test_killed_it_is_back_and_who_connected_meanwhile_is_served(manager: UserManager) -> None:
    pid = manager.daemon()
    visitors = Visitors(manager.api)
    visitors.start()
    try:
        manager.signal("KILL")
        manager.until("another daemon", lambda: manager.daemon() not in (0, pid))
        assert hello(manager) == manager.daemon()
    finally:
        visitors.over.set()
        visitors.join()
    assert visitors.refused == []
    assert manager.show("NRestarts") == "1"


def test_hung_it_is_ended_by_the_watchdog_and_started_again(manager: UserManager) -> None:
    change = manager.home / ".config" / "systemd" / "user" / f"{UNIT}.d" / "quick.conf"
    change.parent.mkdir()
    change.write_text("[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n")
    manager.systemctl("daemon-reload")
    manager.systemctl("restart", UNIT)
    pid = manager.daemon()
    assert hello(manager) == pid
    manager.signal("STOP")
    manager.until("another daemon", lambda: manager.daemon() not in (0, pid))
    assert manager.show("NRestarts") == "1"
    assert hello(manager) == manager.daemon()


def test_nobody_is_refused_while_the_manager_restarts_it(manager: UserManager) -> None:
    """Neither at the API nor at a forward, whose cluster is one of the sandbox: it need not run."""
    manager.krayne("sandbox", "up")
    try:
        manager.krayne("create", "demo")
        port = next(one["local_port"] for one in ports(manager) if one["service"] == "dashboard")
        manager.until("an open door", lambda: is_open(port))
        unix = f"{os.path.dirname(manager.api)}/default.demo.dashboard.sock"
        assert os.path.exists(unix)
        visitors = Visitors(manager.api, ("127.0.0.1", port), unix)
        visitors.start()
        try:
            for _ in range(RESTARTS):
                pid = manager.daemon()
                with socket.create_connection(("127.0.0.1", port), timeout=60):  # one that is there when it stops
                    manager.systemctl("restart", UNIT)
                assert manager.daemon() not in (0, pid)
            manager.signal("KILL")
            manager.until("another daemon", lambda: manager.daemon() not in (0, pid))
            assert hello(manager) == manager.daemon()
        finally:
            visitors.over.set()
            visitors.join()
        assert visitors.refused == []
        pid = manager.daemon()
        manager.krayne("daemon", "restart")
        assert hello(manager) == manager.daemon() == pid, "in the same process"
        assert [one["local_port"] for one in ports(manager) if one["service"] == "dashboard"] == [port]
        manager.krayne("daemon", "stop")
        assert not os.path.exists(unix)
        assert manager.show("Result") == "success"
    finally:
        manager.krayne("sandbox", "down", code=None)


def test_reloaded_it_takes_the_settings_and_stays(manager: UserManager) -> None:
    pid = manager.daemon()
    (manager.home / ".krayne" / "kraynd.yaml").write_text("locks: {web: false}\n")
    manager.systemctl("reload", UNIT)
    manager.until("active again", lambda: manager.show("ActiveState") == "active")
    assert manager.daemon() == pid
    manager.until("the new settings", lambda: "locks.web is off" in manager.krayne("status"))
    assert "serving" in manager.krayne("daemon", "logs", "-n", "50")


def test_a_socket_unit_starts_it_and_keeps_its_path(manager: UserManager) -> None:
    """For who wants it; here beside the home that the manager's user has, so it listens where the daemon would."""
    path = manager.api.removeprefix(f"/proc/{manager.pid}/root")
    manager.krayne("daemon", "stop")
    text = (Path(__file__).parents[2] / "systemd" / "kraynd.socket").read_text()
    unit = manager.home / ".config" / "systemd" / "user" / "kraynd.socket"
    unit.write_text(text.replace("%t/krayne/kraynd.sock", path))
    manager.systemctl("daemon-reload")
    manager.systemctl("start", "kraynd.socket")
    outside = f"/proc/{manager.pid}/root{path}"
    for _ in range(2):
        assert manager.show("ActiveState") == "inactive"
        assert os.path.exists(outside)
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(120)
            one.connect(outside)
            with Connection(one) as found:
                assert found.call("daemon.hello", seconds=120)["pid"] == manager.daemon()
        manager.systemctl("stop", UNIT)


def test_another_shells_path_is_taken_over_by_a_restart(manager: UserManager) -> None:
    assert b"/opt/plugins" not in environment(manager)
    pid = manager.daemon()
    manager.environ["PATH"] += ":/opt/plugins"
    manager.krayne("daemon", "restart")
    assert manager.daemon() not in (0, pid)
    assert b":/opt/plugins" in environment(manager)
    pid = manager.daemon()
    manager.krayne("daemon", "restart")
    assert manager.daemon() == pid, "in place: nothing differs any more"


def test_a_plugin_is_found_by_the_way_runs_under_the_units_hardening_and_is_found_again_after_a_kill(
    manager: UserManager, tmp_path: Path
) -> None:
    version = "client.authentication.k8s.io/v1"
    answer = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": "none"}}
    folder = tmp_path / "plugins"
    folder.mkdir()
    plugin = folder / "cloud-login"
    plugin.write_text(f"#!/bin/sh\necho run >> {folder}/runs\nmkdir -p ~/.cache/cloud\necho '{json.dumps(answer)}'\n")
    plugin.chmod(0o700)
    config = kubeconfig("https://127.0.0.1:1")
    config["users"][0]["user"] = {"exec": {"apiVersion": version, "command": plugin.name}}
    (manager.home / ".kube").mkdir()
    (manager.home / ".kube" / "config").write_text(json.dumps(config))
    manager.until("the plugin missed", lambda: f"{plugin.name} was not found" in manager.krayne("status"))

    manager.environ["PATH"] += f":{folder}"
    manager.krayne("ls")
    manager.until("the plugin run", lambda: (folder / "runs").exists())
    assert (manager.home / ".cache" / "cloud").is_dir()
    assert "was not found" not in manager.krayne("status")

    (folder / "runs").unlink()
    pid = manager.daemon()
    manager.signal("KILL")
    manager.until("another daemon", lambda: manager.daemon() not in (0, pid))
    manager.until("the plugin run", lambda: (folder / "runs").exists())


def environment(manager: UserManager) -> bytes:
    """What the daemon was started with."""
    return manager.run("cat", f"/proc/{manager.daemon()}/environ").encode()
