"""Suspend, resume, events, diff and edit against Kubernetes and KubeRay."""

import pytest

from tests.cluster.conftest import Krayne
from tests.cluster.using import becomes, live, service, until, workers
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


def test_a_suspended_cluster_stays_declared_and_comes_back(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    krayne("create", "demo", "-n", namespace, "--workers", "1", "--wait", "--timeout", "60s")
    before = krayne.cluster("demo")
    krayne("suspend", "demo", "--wait", "--timeout", "60s")
    until("no pods", lambda: not plane.pods(namespace, "demo"))
    row = becomes(krayne, "demo", lambda row: service(row, "dashboard")["state"] == "holding")
    assert (row["phase"], row["declared"]) == ("suspended", True)
    assert "krayne resume demo" in " ".join(row["notes"])
    assert "suspend" in service(row, "dashboard")["reason"]
    spec = (live(plane, namespace, "demo") or {})["spec"]
    assert spec["suspend"] is True
    krayne("daemon", "restart")
    assert becomes(krayne, "demo", lambda row: row["phase"] == "suspended")["declared"]

    krayne("resume", "demo", "--wait", "--timeout", "60s")
    after = becomes(krayne, "demo", lambda row: bool(row["workers"]["ready"] == 1))
    assert (after["phase"], after["workers"]["ready"]) == ("ready", 1)
    ports = [[(one["name"], one["local_port"]) for one in row["services"]] for row in (before, after)]
    assert ports[0] == ports[1]
    assert "resume" not in " ".join(after["notes"])


def test_events_diff_and_edit(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    krayne("create", "demo", "-n", namespace, "--workers", "1", "--wait", "--timeout", "60s")
    found: list[dict[str, str]] = []

    def told() -> bool:
        found[:] = krayne("events", "demo", "-o", "json").json()
        return {"CreatedHeadPod", "Scheduled"} <= {one["reason"] for one in found}

    until("the events", told)
    assert any(one["object"].startswith("pod/demo-head") for one in found)
    assert krayne("diff", "demo").out == ""

    path = krayne.folder / "clusters" / namespace / "demo.yaml"
    wanted = krayne.home / "wanted.yaml"
    wanted.write_text(path.read_text().replace("replicas: 1", "replicas: 3") + "# mine\n")
    differs = krayne("diff", "-f", str(wanted), code=1)
    assert "workerGroupSpecs" in differs.out
    assert "  + 3" in differs.out
    assert workers(plane, namespace, "demo") == 1
    krayne("edit", "demo", EDITOR=f"cp {wanted}", code=0)
    assert path.read_text().endswith("# mine\n")
    until("the scaling", lambda: workers(plane, namespace, "demo") == 3)
    fresh = krayne.home / "fresh.yaml"
    fresh.write_text(f"name: fresh\nnamespace: {namespace}\n")
    assert "+ kind: RayCluster" in krayne("diff", "-f", str(fresh), code=1).out
