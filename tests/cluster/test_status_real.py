"""The ten steps of the honest status, each made real: real operator and scheduler, pod statuses as a kubelet writes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kraynd.local.home import Home
from tests.cluster.keeping import Keeper, keeping
from tests.controlplane import pods
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.timeout(400)]


@pytest.fixture
async def keeper(plane: ControlPlane, namespace: str, home: Home) -> AsyncIterator[Keeper]:
    async with keeping(plane, namespace) as kept:
        yield kept


def workers(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "worker", "replicas": count, "max_replicas": 5, "memory": "1Gi", **more}]


async def test_9_ready_and_then_its_head_and_workers(keeper: Keeper) -> None:
    state = await keeper.keep(worker_groups=workers(2))
    head = state.status.head  # it may be ready before our own write is on disk
    assert state.status.phase in {"pending", "starting"} or (head is not None and head.ready)
    state = await keeper.status("ready", "head and 2 workers ready")
    assert state.status.workers.ready == 2
    assert state.status.head is not None
    assert state.status.head.ready
    assert state.status.restart_needed == ()


async def test_1_absent_and_deleting(keeper: Keeper) -> None:
    await keeper.keep()
    await keeper.status("ready", "head ready")
    keeper.declare()
    await keeper.meddle([{"op": "add", "path": "/metadata/finalizers", "value": ["tests.krayne.dev/hold"]}])
    await keeper.kubectl("delete", "raycluster", "demo", "--wait=false")
    await keeper.status("deleting", "finalizers tests.krayne.dev/hold")
    await keeper.meddle([{"op": "remove", "path": "/metadata/finalizers"}])
    await keeper.until(lambda: keeper.key not in keeper.reconciler.statuses, "waited for it to be forgotten")


async def test_2_what_the_operator_refuses_is_invalid(keeper: Keeper) -> None:
    made = keeper.manifest(keeper.config())
    made["metadata"]["name"] = "x" * 55  # stored by the API server, and then only an Event says what is wrong
    await keeper.api("POST", keeper.path.removesuffix("/demo"), made)
    keeper.key = type(keeper.key)(keeper.namespace, "x" * 55)
    state = await keeper.status("invalid", "")
    assert any("InvalidRayCluster" in event for event in state.events)


async def test_2_no_operator(keeper: Keeper, plane: ControlPlane) -> None:
    plane.stop_operator()
    try:
        await keeper.keep()
        await keeper.status("pending", "waiting for the KubeRay operator")
        await keeper.status("pending", "the KubeRay operator is not running, or does not watch namespace")
    finally:
        plane.start_operator()
    await keeper.status("ready", "head ready")


async def test_3_suspended_and_back(keeper: Keeper) -> None:
    await keeper.keep(worker_groups=workers(1))
    await keeper.status("ready", "head and 1 worker ready")
    await keeper.meddle([{"op": "add", "path": "/spec/suspend", "value": True}])
    await keeper.status("suspended", "suspended: no pods run")
    await keeper.meddle([{"op": "replace", "path": "/spec/suspend", "value": False}])
    await keeper.status("ready", "head and 1 worker ready")


def quota(cpu: str) -> dict[str, Any]:
    return {"metadata": {"name": "team"}, "spec": {"hard": {"limits.cpu": cpu}}}


@pytest.mark.whole("resource quotas")
async def test_4_a_quota_that_refuses_the_head(keeper: Keeper) -> None:
    await keeper.api("POST", f"/api/v1/namespaces/{keeper.namespace}/resourcequotas", quota("0"))
    await keeper.keep()
    await keeper.status("pending", "quota: exceeded quota: team")


@pytest.mark.whole("resource quotas")
async def test_4_a_quota_that_refuses_workers(keeper: Keeper) -> None:
    await keeper.keep()
    await keeper.status("ready", "head ready")
    await keeper.api("POST", f"/api/v1/namespaces/{keeper.namespace}/resourcequotas", quota("1600m"))
    await keeper.keep(worker_groups=workers(2, min_replicas=2))
    await keeper.status("degraded", "quota: exceeded quota: team")


async def test_5_a_terminating_head_is_no_head(keeper: Keeper) -> None:
    await keeper.keep()
    await keeper.status("ready", "head ready")
    head = await keeper.head()
    hold = '{"metadata":{"finalizers":["tests.krayne.dev/hold"]}}'
    await keeper.kubectl("patch", "pod", head, "--type=merge", "-p", hold)
    await keeper.kubectl("delete", "pod", head, "--wait=false")
    await keeper.status("pending", f"waiting for the old head to stop: {head}")
    live = await keeper.live()
    assert live["status"]["state"] == "ready", "the lie that is not believed"
    await keeper.kubectl("patch", "pod", head, "--type=json", "-p", '[{"op":"remove","path":"/metadata/finalizers"}]')
    await keeper.status("ready", "head ready")
    assert await keeper.head() != head


@pytest.mark.whole("scheduler")
async def test_6_unschedulable(keeper: Keeper) -> None:
    await keeper.keep(head={"cpus": "500"})
    await keeper.status("pending", "head: unschedulable: 0/3 nodes are available: 3 Insufficient cpu")


async def test_6_image_and_missing_secret(keeper: Keeper) -> None:
    await keeper.hold("head")
    await keeper.keep(head={"image": "rayproject/ray:9.9"})
    head = await keeper.head()
    await keeper.pod_status(head, pods.image_pull_backoff("ray-head", "rayproject/ray:9.9"))
    await keeper.status("pending", "head: image pull back-off: rayproject/ray:9.9")
    await keeper.pod_status(head, pods.config_error("ray-head"))
    await keeper.status("pending", 'head: container ray-head: secret "token" not found')


async def test_7_crash_loop_and_failed_hook(keeper: Keeper) -> None:
    await keeper.hold("head")
    await keeper.keep(autoscaler={"enabled": False})
    head = await keeper.head()
    await keeper.pod_status(head, pods.crash_loop("ray-head", 137, reason="OOMKilled"))
    await keeper.status("degraded", "head: container ray-head: crash loop: OOMKilled (exit code 137)")
    await keeper.pod_status(head, pods.hook_error("ray-head"))
    await keeper.status("degraded", "its postStart hook failed")


async def test_7_heads_that_die_and_are_replaced_are_counted(keeper: Keeper) -> None:
    await keeper.hold("head")
    await keeper.keep()
    for _ in range(3):
        head = await keeper.head()
        await keeper.pod_status(head, pods.oom_killed("ray-head"))
        await keeper.until(
            lambda dead=head: any(  # type: ignore[misc]
                pod["metadata"]["name"] != dead and "deletionTimestamp" not in pod["metadata"]
                for pod in keeper.pods("head")
            )
            and all(pod["metadata"]["name"] != dead for pod in keeper.pods("head")),
            "waited for the operator to replace the head",
        )  # fmt: skip
    await keeper.status("degraded", "4 heads in 10 minutes; the last one ended by OOMKilled (exit code 137)")


@pytest.mark.whole("pause between a dead head and the next one")
async def test_7_an_evicted_head(keeper: Keeper) -> None:
    await keeper.keep(autoscaler={"enabled": False})
    await keeper.status("ready", "head ready")
    head = await keeper.head()
    await keeper.pod_status(head, pods.evicted())
    await keeper.until(lambda: any("node was low on resource: memory" in one for one in keeper.reasons), "eviction")
    await keeper.status("ready", "head ready")
    assert await keeper.head() != head


async def test_8_starting_and_a_lost_node(keeper: Keeper) -> None:
    await keeper.hold("head")
    await keeper.keep()
    head = await keeper.head()
    await keeper.pod_status(head, pods.unhealthy("ray-head"))
    state = await keeper.status("starting", "the head is starting")
    assert state.status.next_check is not None
    await keeper.pod_status(head, pods.node_lost("ray-head"))
    await keeper.status("degraded", "is not ready")
    assert "node " in keeper.state.status.reason


async def test_9_workers_pending_and_failing(keeper: Keeper) -> None:
    await keeper.keep()
    await keeper.status("ready", "head ready")
    await keeper.hold("worker")
    await keeper.keep(worker_groups=workers(2))
    await keeper.status("ready", "worker: 2 workers pending")
    await keeper.until(lambda: len(keeper.pods("worker")) == 2, "waited for two workers")
    one = keeper.pods("worker")[0]["metadata"]["name"]
    await keeper.pod_status(one, pods.image_pull_backoff("ray-worker"))
    state = await keeper.status("degraded", "failing: image pull back-off")
    assert state.status.groups[0].pending == 2


@pytest.mark.whole("scheduler")
async def test_9_unschedulable_workers_say_what_they_lack(keeper: Keeper) -> None:
    await keeper.keep(worker_groups=workers(1, cpus="500"))
    await keeper.status("ready", "worker: 1 worker pending: unschedulable: 0/3 nodes are available: 3 Insufficient cpu")


async def test_9_orphans_of_a_group_that_somebody_took_out(keeper: Keeper) -> None:
    await keeper.keep(worker_groups=workers(1))
    await keeper.status("ready", "head and 1 worker ready")
    keeper.declare()
    await keeper.meddle([{"op": "remove", "path": "/spec/workerGroupSpecs/0"}])
    await keeper.status("degraded", "worker: 1 pod of a removed group still run")
