"""init, context and doctor against a real API server."""

import json
import os
from pathlib import Path

import pytest

from tests.cluster.conftest import Krayne
from tests.cluster.using import condition, home_with
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


def two_contexts(plane: ControlPlane, folder: Path) -> Path:
    """The plane's kubeconfig with a second context that leads nowhere."""
    config = json.loads(plane.kubectl("config", "view", "--raw", "-o", "json"))
    name = config["current-context"]
    first = next(one["context"] for one in config["contexts"] if one["name"] == name)
    config["clusters"].append({"name": "off", "cluster": {"server": "https://127.0.0.1:9"}})
    config["contexts"].append({"name": "off", "context": {**first, "cluster": "off"}})
    path = folder / "two.yaml"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    return path


def test_init_and_context_choose_where_the_daemon_connects(plane: ControlPlane, krayne: Krayne) -> None:
    path = two_contexts(plane, krayne.home)
    names = [one["name"] for one in krayne("context", "-o", "json", KUBECONFIG=str(path)).json()["contexts"]]
    (real,) = set(names) - {"off"}
    krayne("daemon", "stop")
    krayne.env["KUBECONFIG"] = os.devnull  # from here on only what is saved can lead anywhere
    assert "is not a file" in krayne("init", code=1).err
    done = krayne("init", "--kubeconfig", str(path), "--context", "off", code=1)
    assert "unreachable" in done.out
    assert str(path) in (krayne.folder / "config.yaml").read_text()
    done = krayne("context", real)
    assert "ready: connected to" in done.out
    assert condition(krayne, "ready")["context"] == real
    assert f"* {real}" in krayne("context").out
    assert "there is no context nope" in krayne("context", "nope", code=1).err
    assert condition(krayne, "ready")["context"] == real


def test_doctor_finds_all_well(krayne: Krayne) -> None:
    krayne("ls")
    condition(krayne, "ready")
    found = krayne("doctor", "-o", "json").json()
    assert {one["state"] for one in found} == {"ok"}, found
    names = {one["name"] for one in found}
    assert {"daemon", "connection", "kubeconfig", "API server", "clock", "KubeRay", "local ports"} <= names
    assert {"may patch rayclusters", "may create pods/portforward", "may list events"} <= names


def test_doctor_names_the_rights_that_are_missing(plane: ControlPlane, namespace: str) -> None:
    rules = [{"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "list", "watch"]}]
    with home_with(plane.kubeconfig_for(f"reader-{namespace}", rules=rules)) as krayne:
        done = krayne("doctor", "-o", "json", code=1)
        states = {one["name"]: one["state"] for one in done.json()}
        assert states["may list rayclusters"] == "ok"
        assert states["may patch rayclusters"] == states["may create pods/portforward"] == "fail"
        assert states["may list events"] == "warn"
        assert states["daemon"] == "warn", "a look starts nothing"
