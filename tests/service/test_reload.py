"""SIGHUP on the real daemon: its settings are read anew, and the service manager hears of the beginning and the end."""

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from krayne_client.connection import Connection
from tests.service.test_restart import Manager, daemon, environ, manager, reached

__all__ = ["environ", "manager"]
pytestmark = pytest.mark.timeout(180)


def until(found: Connection, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    pause = threading.Event()
    for _ in range(600):
        status: dict[str, Any] = found.call("daemon.status", seconds=60.0)
        if holds(status):
            return status
        pause.wait(0.1)
    raise AssertionError(f"the daemon does not come to say so: {status}")


def test_a_reload_is_told_and_applied(environ: dict[str, str], manager: Manager, tmp_path: Path) -> None:
    environ["NOTIFY_SOCKET"] = manager.path
    file = tmp_path / "home" / "kraynd.yaml"
    with daemon(environ) as process, reached(process) as found:
        assert manager.ready.wait(60)
        del manager.said[:]
        manager.ready.clear()
        file.write_text("locks: {web: false}\nports: {low: 20000}\n")
        process.send_signal(signal.SIGHUP)
        assert manager.ready.wait(60)
        begun = next(one for one in manager.said if one.startswith("RELOADING=1\n"))
        assert begun.splitlines()[1].removeprefix("MONOTONIC_USEC=").isdecimal()
        notes = " ".join(found.call("daemon.status", seconds=60.0)["notes"])
        assert "locks.web is off" in notes
        assert "ports changed; krayne daemon restart" in notes

        file.write_text("locks: {web: perhaps}\n")
        status = until(found, lambda one: bool(one["problems"]))
        assert f"{file}:1" in status["problems"][0]["message"]
        assert any("locks.web is off" in one for one in status["notes"]), "the last good one holds"


def test_the_command_lines_log_level_is_over_the_files(environ: dict[str, str], tmp_path: Path) -> None:
    file, log = tmp_path / "home" / "kraynd.yaml", tmp_path / "home" / "logs" / "kraynd.log"
    with daemon(environ, more=("--log-level", "warning")) as process, reached(process) as found:
        file.write_text("log_level: debug\nlocks: {web: false}\n")
        process.send_signal(signal.SIGHUP)
        until(found, lambda one: bool(one["notes"]))
        file.write_text("locks: {web: perhaps}\n")
        process.send_signal(signal.SIGHUP)
        until(found, lambda one: bool(one["problems"]))
        said = log.read_text()
    assert "ERROR kraynd.settingsfile: kraynd.yaml is not used" in said
    assert "INFO" not in said
    assert "DEBUG" not in said


def world(found: Connection) -> dict[str, Any]:
    """What the daemon says of Kubernetes after a question about clusters."""
    found.call("cluster.list", seconds=60.0)
    told: dict[str, Any] = found.call("daemon.status", seconds=60.0)["world"]
    return told


def test_a_kubeconfig_that_is_there_by_now_counts_for_the_very_next_question(environ: dict[str, str]) -> None:
    with daemon(environ) as process, reached(process) as found:
        assert "there is no kubeconfig" in world(found)["reason"]
        for port in range(1, 4):
            server = f"https://127.0.0.1:{port}"
            Path(environ["KUBECONFIG"]).write_text(json.dumps(kubeconfig(server)))
            assert world(found)["server"] == server


def kubeconfig(server: str) -> dict[str, Any]:
    """One that leads to a server."""
    return {
        "current-context": "there",
        "contexts": [{"name": "there", "context": {"cluster": "there", "user": "me"}}],
        "clusters": [{"name": "there", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": {"token": "none"}}],
    }
