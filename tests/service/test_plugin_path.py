"""A credential plugin that the daemon's PATH lacks and a client's has: named, learned by the way, and recorded."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from krayne import api
from krayne.api import aio
from krayne.errors import KubeConnectionError
from krayne_client import service
from tests.service.test_reload import kubeconfig, until
from tests.service.test_restart import daemon, environ, reached, restart_once

__all__ = ["environ"]
pytestmark = pytest.mark.timeout(300)
PLUGIN = "cloud-login"
ANSWER = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "canary-5d21"}}


@pytest.fixture
def shell(environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A user's environment: its PATH has the plugin. The kubeconfig asks for it; its server is down."""
    config = kubeconfig("https://127.0.0.1:1")
    config["users"][0]["user"] = {"exec": {"apiVersion": ANSWER["apiVersion"], "command": PLUGIN}}
    Path(environ["KUBECONFIG"]).write_text(json.dumps(config))
    folder = tmp_path / "plugins"
    folder.mkdir()
    for name, body in ((PLUGIN, f"echo '{json.dumps(ANSWER)}'; echo ran >> {tmp_path / 'runs'}"), ("systemctl", ":")):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o700)
    return {**environ, "HOME": str(tmp_path), "PATH": f"{folder}:{environ['PATH']}"}


def krayne(shell: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "krayne_client.main", *words]
    return subprocess.run(command, env=shell, cwd="/", capture_output=True, text=True, timeout=120, check=False)


def lacks(status: dict[str, Any]) -> bool:
    """Whether the plugin is not found, and the sentence says which and where it was looked for."""
    world = status["world"]
    found = bool(world["condition"] == "login-needed")
    assert not found or f"{PLUGIN} was not found; searched {os.environ['PATH']}" in world["reason"]
    return found


def test_a_clients_path_is_taken_over_where_it_has_what_was_missing(
    environ: dict[str, str], shell: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    unit = service.unit_path()
    unit.parent.mkdir(parents=True)
    unit.write_text(service.render())
    with daemon(environ) as process:
        with reached(process) as found:
            until(found, lacks)
        shown = krayne(environ | {"HOME": str(tmp_path)}, "ls")
        assert f"{PLUGIN} was not found" in shown.stderr, "another PATH without it changes nothing"
        assert "this shell's PATH" not in shown.stderr
        assert unit.read_text() == service.render()

        shown = krayne(shell, "ls")
        assert "looks for it in this shell's PATH now" in shown.stderr
        assert f"{PLUGIN} was not found" not in shown.stderr, "asked once more, after it was found"
        assert (tmp_path / "runs").exists()
        with reached(process) as found:
            assert not lacks(found.call("daemon.status", seconds=60))
        monkeypatch.setenv("PATH", shell["PATH"])
        assert unit.read_text() == service.render(), "and nothing else in it differs"
        assert "this shell's PATH" not in krayne(shell, "ls").stderr

        restart_once(process)  # its successor has it too
        with reached(process) as found:
            until(found, lambda one: one["world"]["condition"] == "unreachable")


@pytest.mark.parametrize("way", ["blocking", "awaited"])
def test_the_sdk_gives_it_too(
    environ: dict[str, str], shell: dict[str, str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    with daemon(environ) as process:
        with reached(process) as found:
            until(found, lacks)
        missed = os.environ["PATH"]
        monkeypatch.setenv("PATH", shell["PATH"])
        with contextlib.suppress(KubeConnectionError):  # its server is down
            api.list_clusters() if way == "blocking" else anyio.run(aio.list_clusters)
        monkeypatch.setenv("PATH", missed)
        with reached(process) as found:
            assert not lacks(found.call("daemon.status", seconds=60))


def test_a_changing_command_and_a_wait_give_it_too(environ: dict[str, str], shell: dict[str, str]) -> None:
    for words in (["create", "demo"], ["wait", "demo", "--timeout", "1s"]):
        with daemon(environ) as process:
            with reached(process) as found:
                until(found, lacks)
            assert "this shell's PATH" in krayne(shell, *words).stderr
            with reached(process) as found:
                assert not lacks(found.call("daemon.status", seconds=60))
            process.terminate()
            assert process.wait(60) == 0
