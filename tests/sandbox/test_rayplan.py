"""What the sandbox's operator decides, against the real store: plans end, bounds hold, dead heads are replaced."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krayne_sandbox.core.meta import name_of
from krayne_sandbox.core.rayplan import HEAD, WORKER, labels_of, of_type, replicas_of
from krayne_sandbox.core.raystatus import condition_of, status_of
from krayne_sandbox.core.rules import Rules
from krayne_sandbox.definitions import ray_definition
from krayne_sandbox.kinds import EVENTS, PODS, RAYCLUSTERS, SERVICES
from krayne_sandbox.operator.loop import keep
from krayne_sandbox.store import Store


def cluster(**group: Any) -> dict[str, Any]:
    containers = [{"name": "ray", "image": "ray", "ports": [{"name": "client", "containerPort": 10001}]}]
    template = {"spec": {"containers": containers}}
    groups = [{"groupName": "worker", "template": template, "rayStartParams": {}, **group}]
    spec = {"headGroupSpec": {"template": template, "rayStartParams": {"num-cpus": "0"}}, "workerGroupSpecs": groups}
    return {"metadata": {"name": "demo", "namespace": "default"}, "spec": spec}


@pytest.fixture
def store() -> Any:
    made = Store.open(":memory:", clock=lambda: 1_000_000.0)
    yield made
    made.close()


def pods(store: Store, kind: str) -> list[dict[str, Any]]:
    return of_type(store.list(PODS, "default"), kind)


def set_spec(store: Store, **spec: Any) -> None:
    one = store.get(RAYCLUSTERS, "default", "demo")
    store.update(RAYCLUSTERS, {**one, "spec": {**one["spec"], **spec}})
    keep(store, "default", "demo")


def set_phase(store: Store, pod: dict[str, Any], phase: str) -> None:
    status = "True" if phase == "Running" else "False"
    told = {"phase": phase, "conditions": [{"type": "Ready", "status": status}]}
    store.update(PODS, {**store.get(PODS, "default", name_of(pod)), "status": told}, subresource="status")
    keep(store, "default", "demo")


def test_a_cluster_becomes_a_head_a_service_and_its_workers(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=2, maxReplicas=3))
    keep(store, "default", "demo")
    assert (len(pods(store, HEAD)), len(pods(store, WORKER))) == (1, 2)
    assert [name_of(one) for one in store.list(SERVICES, "default")] == ["demo-head-svc"]
    head = labels_of(pods(store, HEAD)[0])
    assert head["ray.io/group"] == "headgroup"
    assert head["ray.io/cluster"] == "demo"
    told = {one["reason"] for one in store.list(EVENTS, "default")}
    assert told == {"CreatedHeadPod", "CreatedWorkerPod", "CreatedService", "Scheduled"}


def test_what_was_carried_out_is_not_carried_out_again(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=2))
    keep(store, "default", "demo")
    keep(store, "default", "demo")
    before = store.revision
    keep(store, "default", "demo")
    assert store.revision == before


def test_ready_is_told_once_all_pods_are(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=1))
    keep(store, "default", "demo")
    for one in store.list(PODS, "default"):
        assert store.get(RAYCLUSTERS, "default", "demo")["status"].get("state") is None
        set_phase(store, one, "Running")
    found = store.get(RAYCLUSTERS, "default", "demo")
    assert found["status"]["state"] == "ready"
    assert condition_of(found, "HeadPodReady")["reason"] == "HeadPodRunningAndReady"
    assert condition_of(found, "RayClusterProvisioned")["status"] == "True"
    assert found["status"]["readyWorkerReplicas"] == 1


def test_a_dead_head_is_deleted_and_replaced(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=0))
    keep(store, "default", "demo")
    old = pods(store, HEAD)[0]
    set_phase(store, old, "Failed")
    keep(store, "default", "demo")
    assert [name_of(one) for one in pods(store, HEAD)] != [name_of(old)]
    assert len(pods(store, HEAD)) == 1
    assert "DeletedHeadPod" in {one["reason"] for one in store.list(EVENTS, "default")}


def test_the_named_workers_go_first(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=3))
    keep(store, "default", "demo")
    for one in pods(store, WORKER):
        set_phase(store, one, "Running")
    chosen = name_of(pods(store, WORKER)[1])
    group = {**cluster()["spec"]["workerGroupSpecs"][0], "replicas": 2, "scaleStrategy": {"workersToDelete": [chosen]}}
    set_spec(store, workerGroupSpecs=[group])
    left = [one for one in pods(store, WORKER) if not one["metadata"].get("deletionTimestamp")]
    assert len(left) == 2
    assert chosen not in map(name_of, left)


def test_the_autoscaler_runs_beside_the_head_and_alone_names_who_goes(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=2))
    set_spec(store, enableInTreeAutoscaling=True)
    head = pods(store, HEAD)[0]
    assert [one["name"] for one in head["spec"]["containers"]][1:] == ["autoscaler"]
    told = {one["name"]: one.get("value") for one in head["spec"]["containers"][0]["env"]}
    assert "--no-monitor" in told["KUBERAY_GEN_RAY_START_CMD"]
    assert told["RAY_enable_autoscaler_v2"] == "1"
    for one in pods(store, WORKER):
        set_phase(store, one, "Running")
        assert len(one["spec"]["containers"]) == 1
    group = {**cluster()["spec"]["workerGroupSpecs"][0], "replicas": 1}
    set_spec(store, workerGroupSpecs=[group])
    assert [one for one in pods(store, WORKER) if one["metadata"].get("deletionTimestamp")] == []
    chosen = name_of(pods(store, WORKER)[0])
    set_spec(store, workerGroupSpecs=[{**group, "scaleStrategy": {"workersToDelete": [chosen]}}])
    gone = [one for one in pods(store, WORKER) if one["metadata"].get("deletionTimestamp")]
    assert [name_of(one) for one in gone] == [chosen]


def test_suspended_and_resumed(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=1))
    keep(store, "default", "demo")
    set_spec(store, suspend=True)
    for one in store.list(PODS, "default"):  # the node's part
        store.remove(PODS, "default", name_of(one))
    keep(store, "default", "demo")
    found = store.get(RAYCLUSTERS, "default", "demo")
    assert found["status"]["state"] == "suspended"
    assert condition_of(found, "RayClusterSuspended")["status"] == "True"
    set_spec(store, suspend=False)
    assert len(store.list(PODS, "default")) == 2
    assert store.get(RAYCLUSTERS, "default", "demo")["status"].get("state") is None


def test_what_it_owns_goes_with_it(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=1))
    keep(store, "default", "demo")
    store.delete(RAYCLUSTERS, "default", "demo")
    assert store.list(SERVICES, "default") == []
    assert all(one["metadata"]["deletionTimestamp"] for one in store.list(PODS, "default"))


@pytest.mark.parametrize(
    ("name", "group", "reason"),
    [
        ("x" * 54, {}, "InvalidRayClusterMetadata"),
        ("1st", {}, "InvalidRayClusterMetadata"),
        ("demo", {"minReplicas": 3, "maxReplicas": 2}, "InvalidRayClusterSpec"),
        ("demo", {"minReplicas": -1}, "InvalidRayClusterSpec"),
        ("demo", {"template": {"spec": {"containers": []}}}, "InvalidRayClusterSpec"),
    ],
)
def test_what_kuberay_refuses_is_told_by_an_event_alone(
    store: Store, name: str, group: dict[str, Any], reason: str
) -> None:
    store.create(RAYCLUSTERS, {**cluster(**group), "metadata": {"name": name, "namespace": "default"}})
    keep(store, "default", name)
    (event,) = store.list(EVENTS, "default")
    assert (event["type"], event["reason"]) == ("Warning", reason)
    assert not store.list(PODS, "default")
    assert "status" not in store.get(RAYCLUSTERS, "default", name)


def test_a_pod_that_cannot_be_made_is_an_event_and_the_head_is_there_all_the_same(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(groupName="Big_Group", replicas=1))
    keep(store, "default", "demo")
    assert len(pods(store, HEAD)) == 1
    (failed,) = [one for one in store.list(EVENTS, "default") if one["type"] == "Warning"]
    assert failed["reason"] == "FailedToCreateWorkerPod"
    assert "Big_Group" in failed["message"]
    set_phase(store, pods(store, HEAD)[0], "Running")
    assert condition_of(store.get(RAYCLUSTERS, "default", "demo"), "HeadPodReady")["status"] == "True"


def test_its_pods_are_as_the_api_would_have_made_them(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=0))
    keep(store, "default", "demo")
    (head,) = pods(store, HEAD)
    noted = {**head, "metadata": {**head["metadata"], "annotations": {"by": "hand"}}}
    again = Rules(ray_definition()).prepared(PODS, noted, new=False).thing
    Rules(ray_definition()).check(PODS, again, head)  # as PATCH does: nothing of its spec changed
    assert head["spec"]["tolerations"]


bound = st.none() | st.integers(0, 9)


@given(replicas=bound, least=st.integers(0, 5), more=st.integers(0, 5))
def test_replicas_stay_within_their_bounds(replicas: int | None, least: int, more: int) -> None:
    group = {"replicas": replicas, "minReplicas": least, "maxReplicas": least + more}
    assert least <= replicas_of(group) <= least + more
    assert replicas is None or not least <= replicas <= least + more or replicas_of(group) == replicas


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["Running", "Failed", "Pending"])), max_size=6))
def test_whatever_happens_the_wanted_number_lives(steps: list[tuple[int, str]]) -> None:
    store = Store.open(":memory:", clock=lambda: 1_000_000.0)
    store.create(RAYCLUSTERS, cluster(replicas=1))
    keep(store, "default", "demo")
    for wanted, phase in steps:
        if workers := pods(store, WORKER):
            set_phase(store, workers[0], phase)
        set_spec(store, workerGroupSpecs=[{**cluster()["spec"]["workerGroupSpecs"][0], "replicas": wanted}])
        keep(store, "default", "demo")
        alive = [one for one in pods(store, WORKER) if not one["metadata"].get("deletionTimestamp")]
        assert len(alive) == wanted
        assert len(pods(store, HEAD)) == 1
    store.close()


def test_a_status_without_news_is_the_old_one(store: Store) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=1))
    keep(store, "default", "demo")
    found = store.get(RAYCLUSTERS, "default", "demo")
    assert status_of(found, store.list(PODS, "default"), "2030-01-01T00:00:00Z") == found["status"]
