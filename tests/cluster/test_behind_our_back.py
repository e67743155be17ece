"""What others do to clusters while krayne looks away: put back where it is ours, and never touched where it is not."""

import json

import pytest

from tests.cluster.conftest import Krayne
from tests.cluster.using import COLLECTED, Json, becomes, declare, home_with, live, until, workers, writes
from tests.controlplane.plane import ControlPlane
from tests.golden.cases import manifest

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
ALL: list[dict[str, list[str]]] = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]


def path(namespace: str, name: str = "demo") -> str:
    return f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/{name}"


def somebody_makes(plane: ControlPlane, namespace: str, name: str = "demo") -> Json:
    """A RayCluster that bears none of krayne's marks."""
    body = manifest("bare", namespace=namespace)
    body["metadata"] = {"name": name, "namespace": namespace}
    made: Json = plane.api.request("POST", path(namespace, ""), body)
    return made


def cluster(namespace: str, *, replicas: int = 1, autoscaling: bool = False) -> str:
    return (
        f"name: demo\nnamespace: {namespace}\nautoscaler: {{enabled: {str(autoscaling).lower()}}}\n"
        f"worker_groups:\n  - {{name: gpu, replicas: {replicas}, min_replicas: 0, max_replicas: 5}}\n"
    )


def patch(plane: ControlPlane, namespace: str, field: str, value: object) -> None:
    """What an autoscaler, or kubectl, does to the first worker group."""
    ops = [{"op": "replace", "path": f"/spec/workerGroupSpecs/0/{field}", "value": value}]
    plane.kubectl("patch", "raycluster", "demo", "-n", namespace, "--type=json", "-p", json.dumps(ops))


def test_a_deleted_cluster_comes_back_and_says_why(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    krayne("create", "demo", "-n", namespace, "--wait", "--timeout", "60s")
    before = krayne.cluster("demo")
    uid = (live(plane, namespace, "demo") or {})["metadata"]["uid"]
    plane.kubectl("delete", "raycluster", "demo", "-n", namespace)
    until(
        "another one", lambda: (live(plane, namespace, "demo") or {}).get("metadata", {}).get("uid") not in (None, uid)
    )
    row = becomes(
        krayne, "demo", lambda row: row["phase"] == "ready" and "deleted outside krayne" in row["reason"], COLLECTED
    )
    assert "deleted outside krayne" in krayne("ls", "-n", namespace).out
    ports = [[one["local_port"] for one in of["services"]] for of in (before, row)]
    assert ports[0] == ports[1]


def test_what_somebody_else_made_is_left_alone_until_it_is_adopted(plane: ControlPlane, namespace: str) -> None:
    user = f"me-{namespace}"
    theirs = somebody_makes(plane, namespace)
    with home_with(plane.kubeconfig_for(user, rules=ALL)) as krayne:
        refused = krayne("create", "demo", "-n", namespace, code=1)
        assert "exists" in refused.err
        assert f"krayne adopt demo -n {namespace}" in refused.err
        assert not list((krayne.folder / "clusters").rglob("demo.yaml"))
        for words in (["delete", "demo", "-n", namespace, "--yes"], ["scale", "demo", "2", "-n", namespace]):
            refused = krayne(*words, code=1)
            assert "krayne adopt demo" in refused.err

        # Declaring it by a file says the same in the list.
        file = declare(krayne, "demo.yaml", cluster(namespace))
        row = becomes(krayne, "demo", lambda row: bool(row["declared"]))
        row = becomes(krayne, "demo", lambda row: "krayne adopt demo" in row["reason"])
        assert "exists, not ours" in row["reason"]
        file.unlink()
        becomes(krayne, "demo", lambda row: not row["declared"])
        assert writes(plane, namespace, user) == []
        now = live(plane, namespace, "demo") or {}
        assert now["metadata"]["uid"] == theirs["metadata"]["uid"]
        assert now["metadata"]["generation"] == theirs["metadata"]["generation"]

        krayne("adopt", "demo", "-n", namespace)
        krayne("wait", "demo", "-n", namespace, "--for=ready", "--timeout", "60s")
        row = krayne.cluster("demo")
        assert row["declared"]
        assert row["owner"] == ""
        now = live(plane, namespace, "demo") or {}
        assert now["metadata"]["uid"] == theirs["metadata"]["uid"]
        assert now["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "krayne"
        assert {verb for verb, _ in writes(plane, namespace, user)} == {"patch"}
        krayne("delete", "demo", "-n", namespace, "--yes", "--wait", "--timeout", "60s")
        assert live(plane, namespace, "demo") is None


def test_a_second_home_sees_the_owner_and_writes_nothing(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    user = f"second-{namespace}"
    declare(krayne, "demo.yaml", cluster(namespace, replicas=1))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    mine = len(writes(plane, namespace, refused=False))
    with home_with(plane.kubeconfig_for(user, rules=ALL)) as other:
        declare(other, "demo.yaml", cluster(namespace, replicas=4))
        row = becomes(other, "demo", lambda row: "owned by" in row["reason"])
        assert "@" in row["owner"]
        assert row["declared"]
        assert f"belongs to {row['owner']}" in other("ls", "-n", namespace).out
        refused = other("create", "demo", "-n", namespace, code=1)
        assert row["owner"] in refused.err
        refused = other("delete", "demo", "-n", namespace, "--yes", code=1)
        assert row["owner"] in refused.err
        patch(plane, namespace, "replicas", 2)  # both see a change, one puts it back
        until("put back", lambda: workers(plane, namespace, "demo") == 1)
        assert writes(plane, namespace, user) == []
    # The kubectl patch and the first home's own; one that met a newer version was refused and planned again.
    assert len(writes(plane, namespace, refused=False)) == mine + 2
    assert krayne.cluster("demo")["owner"] == ""


def test_a_vanished_file_deletes_nothing(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    file = declare(krayne, "demo.yaml", cluster(namespace))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    before = krayne.cluster("demo")
    wrote = writes(plane, namespace)
    file.unlink()
    row = becomes(krayne, "demo", lambda row: not row["declared"])
    assert row["phase"] == "ready"
    assert "file gone: still running; krayne delete or krayne confirm" in krayne("ls", "-n", namespace).out
    assert [one["local_port"] for one in row["services"]] == [one["local_port"] for one in before["services"]]
    # Not after a restart either, which sees the folder for the first time.
    krayne("daemon", "restart")
    row = becomes(krayne, "demo", lambda row: bool(row["phase"] == "ready"))
    assert not row["declared"]
    assert writes(plane, namespace) == wrote
    assert "file gone" in krayne("ls", "-n", namespace).out
    krayne("delete", "demo", "-n", namespace, "--yes", "--wait", "--timeout", "60s")
    assert live(plane, namespace, "demo") is None
    until("forgotten", lambda: krayne.clusters("-n", namespace) == [])


def test_a_vanished_file_that_comes_back_goes_on(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    file = declare(krayne, "demo.yaml", cluster(namespace))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    uid = (live(plane, namespace, "demo") or {})["metadata"]["uid"]
    file.unlink()
    becomes(krayne, "demo", lambda row: not row["declared"])
    declare(krayne, "moved/elsewhere.yaml", cluster(namespace, replicas=2))
    row = becomes(krayne, "demo", lambda row: bool(row["declared"]))
    assert row["source"] == "moved/elsewhere.yaml"
    until("two workers", lambda: workers(plane, namespace, "demo") == 2)
    assert (live(plane, namespace, "demo") or {})["metadata"]["uid"] == uid


def test_the_autoscalers_counts_are_left_alone(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    file = declare(krayne, "demo.yaml", cluster(namespace, autoscaling=True))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    wrote = len(writes(plane, namespace, refused=False))
    patch(plane, namespace, "replicas", 3)
    becomes(krayne, "demo", lambda row: bool(row["workers"]["ready"] == 3))
    # An edit of another field proves that the reconciler has been there since.
    file.write_text(cluster(namespace, autoscaling=True).replace("max_replicas: 5", "max_replicas: 6"))
    until("the edit", lambda: (live(plane, namespace, "demo") or {})["spec"]["workerGroupSpecs"][0]["maxReplicas"] == 6)
    assert workers(plane, namespace, "demo") == 3
    assert len(writes(plane, namespace, refused=False)) == wrote + 2
    krayne("daemon", "restart")
    becomes(krayne, "demo", lambda row: bool(row["phase"] == "ready"))
    assert workers(plane, namespace, "demo") == 3
    assert len(writes(plane, namespace, refused=False)) == wrote + 2


def test_without_an_autoscaler_counts_are_put_back(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    declare(krayne, "demo.yaml", cluster(namespace))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    patch(plane, namespace, "replicas", 4)
    until("put back", lambda: workers(plane, namespace, "demo") == 1)
    becomes(krayne, "demo", lambda row: bool(row["workers"] == {"ready": 1, "desired": 1, "min": 0, "max": 5}))


def test_somebody_elses_field_is_left_alone(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    file = declare(krayne, "demo.yaml", cluster(namespace))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    plane.kubectl("annotate", "raycluster", "demo", "-n", namespace, "team/cost=42")
    plane.kubectl("label", "raycluster", "demo", "-n", namespace, "team=blue")
    file.write_text(cluster(namespace, replicas=2))
    until("the edit", lambda: workers(plane, namespace, "demo") == 2)
    metadata = (live(plane, namespace, "demo") or {})["metadata"]
    assert metadata["labels"]["team"] == "blue"
    assert metadata["annotations"]["team/cost"] == "42"


def test_a_cluster_that_loses_its_mark_is_no_longer_ours(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    file = declare(krayne, "demo.yaml", cluster(namespace))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    plane.kubectl("label", "raycluster", "demo", "-n", namespace, "app.kubernetes.io/managed-by-")
    becomes(krayne, "demo", lambda row: "krayne adopt demo" in row["reason"])
    wrote = writes(plane, namespace)
    file.write_text(cluster(namespace, replicas=2))
    refused = krayne("delete", "demo", "-n", namespace, "--yes", code=1)
    assert "adopt" in refused.err
    assert writes(plane, namespace) == wrote
    krayne("adopt", "demo", "-n", namespace)
    until("the edit", lambda: workers(plane, namespace, "demo") == 2)
    assert "adopt" not in krayne.cluster("demo")["reason"]


def test_a_cluster_deleted_while_no_daemon_ran_comes_back(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    krayne("create", "demo", "-n", namespace, "--wait", "--timeout", "60s")
    krayne("daemon", "stop")
    plane.kubectl("delete", "raycluster", "demo", "-n", namespace)
    row = becomes(krayne, "demo", lambda row: bool(row["phase"] == "ready"), COLLECTED)
    assert "deleted outside krayne" in row["reason"]


def test_a_namesake_in_its_place_is_not_taken_for_it(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    krayne("create", "demo", "-n", namespace, "--wait", "--timeout", "60s")
    krayne("daemon", "stop")
    plane.kubectl("delete", "raycluster", "demo", "-n", namespace)
    theirs = somebody_makes(plane, namespace)
    wrote = writes(plane, namespace)
    row = becomes(krayne, "demo", lambda row: "krayne adopt demo" in row["reason"])
    assert row["declared"]
    refused = krayne("delete", "demo", "-n", namespace, "--yes", code=1)
    assert "adopt" in refused.err
    assert writes(plane, namespace) == wrote
    assert (live(plane, namespace, "demo") or {})["metadata"]["uid"] == theirs["metadata"]["uid"]
