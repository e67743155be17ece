"""Reconciling on the real API server with the real operator: ours, others', the autoscaler's, and what comes back."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio import to_thread

from kraynd.core.manifest import Owner
from kraynd.core.plan import CAME_BACK, asked_to_adopt, asked_to_delete
from kraynd.local.home import Home
from krayne.errors import ClusterForeignError, ConflictError, KrayneError
from tests.cluster.keeping import Keeper, keeping
from tests.cluster.using import until
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.timeout(400)]
OTHER = Owner("another-home", "desk", "bob")


@pytest.fixture
async def keeper(plane: ControlPlane, namespace: str, home: Home) -> AsyncIterator[Keeper]:
    async with keeping(plane, namespace) as kept:
        yield kept


def group(name: str = "worker", replicas: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "replicas": replicas, "max_replicas": 5, "cpus": "1", "memory": "1Gi", **more}


def writes(plane: ControlPlane, namespace: str) -> list[str]:
    """Every write to RayClusters of a namespace that the API server saw from our side, by verb."""
    found = []
    for entry in plane.audit():
        ref = entry.get("objectRef") or {}
        ours = "krayne" in str(entry.get("userAgent", "")).lower() or "fieldManager=krayne" in entry["requestURI"]
        mutating = entry["verb"] in {"create", "patch", "update", "delete"} and not ref.get("subresource")
        if ref.get("resource") == "rayclusters" and ref.get("namespace") == namespace and ours and mutating:
            found.append(entry["verb"])
    return found


def _without_status(live: Any) -> Any:
    """All of a cluster but what the operator goes on writing after its head is ready."""
    kept = {key: one for key, one in live["metadata"].items() if key not in ("resourceVersion", "managedFields")}
    return {**live, "metadata": kept, "status": None}


async def test_what_is_created_rests(keeper: Keeper, plane: ControlPlane) -> None:
    await keeper.keep(worker_groups=[group(replicas=2)])
    await keeper.status("ready", "head and 2 workers ready")
    live = await keeper.live()
    assert live["metadata"]["generation"] == 1, "nothing was patched after the create: defaults are no drift"
    for _ in range(5):
        keeper.reconciler.wake()
        await keeper.reconciler.settle(keeper.key, 10)
    assert (await keeper.live())["metadata"]["generation"] == 1
    assert writes(plane, keeper.namespace) in ([], ["create"])  # empty where the audit does not tell clients apart


async def test_an_edit_reaches_the_spec_and_asks_for_a_restart(keeper: Keeper) -> None:
    await keeper.keep()
    await keeper.status("ready", "head ready")
    head = await keeper.head()
    state = await keeper.keep(head={"cpus": "2"}, autoscaler={"idle_timeout_seconds": 7})
    live = await keeper.live()
    container = live["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["cpu"] == "2"
    assert live["spec"]["autoscalerOptions"]["idleTimeoutSeconds"] == 7
    assert state.status.restart_needed == ("head: cpu",)
    await keeper.kubectl("delete", "pod", head)
    await keeper.until(lambda: keeper.state.status.restart_needed == (), "a new head has the new template")
    await keeper.status("ready", "head ready")


async def test_the_autoscaler_patches_by_index_during_our_updates(keeper: Keeper) -> None:
    await keeper.keep(worker_groups=[group("a"), group("b")])
    await keeper.status("ready", "head ready")
    done = anyio.Event()

    async def autoscaler() -> None:
        for count in range(40):
            await keeper.meddle(
                [
                    {"op": "replace", "path": "/spec/workerGroupSpecs/1/replicas", "value": count % 3 + 1},
                    {"op": "add", "path": "/spec/workerGroupSpecs/1/scaleStrategy", "value": {"workersToDelete": []}},
                ]
            )
        await keeper.meddle([{"op": "replace", "path": "/spec/workerGroupSpecs/1/replicas", "value": 3}])
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(autoscaler)
        most = 5
        while not done.is_set():
            most = 5 + (most - 4) % 20
            with contextlib.suppress(ConflictError):  # ten in a row: retried by itself, which the end shows
                await keeper.keep(worker_groups=[group("a"), group("b") | {"max_replicas": most}])
    await keeper.reconciler.settle(keeper.key, 10)
    live = await keeper.live()
    assert [one["groupName"] for one in live["spec"]["workerGroupSpecs"]] == ["a", "b"]
    assert live["spec"]["workerGroupSpecs"][1]["maxReplicas"] == most
    assert live["spec"]["workerGroupSpecs"][1]["replicas"] == 3, "the autoscaler's last word stands"
    await keeper.status("ready", "head and 3 workers ready")


async def test_a_removed_group_is_drained_and_the_others_stay(keeper: Keeper) -> None:
    await keeper.keep(worker_groups=[group("old", 2), group("keep", 1)])
    await keeper.status("ready", "head and 3 workers ready")
    kept = {pod["metadata"]["uid"] for pod in keeper.pods("worker") if "keep" in pod["metadata"]["name"]}
    head = await keeper.head()
    await keeper.keep(worker_groups=[group("keep", 1)])
    await keeper.until(lambda: len(keeper.pods("worker")) == 1, "waited for the drained workers to go")
    assert {pod["metadata"]["uid"] for pod in keeper.pods("worker")} == kept
    assert await keeper.head() == head
    state = await keeper.status("ready", "head and 1 worker ready")
    assert [one.name for one in state.status.groups] == ["keep"]
    live = await keeper.live()
    assert [one["groupName"] for one in live["spec"]["workerGroupSpecs"]] == ["old", "keep"], "indexes stay true"
    await keeper.keep(worker_groups=[group("keep", 1), group("old", 1)])
    await keeper.status("ready", "head and 2 workers ready")


async def test_without_the_autoscaler_scaling_is_ours_both_ways(keeper: Keeper) -> None:
    off = {"autoscaler": {"enabled": False}}
    await keeper.keep(worker_groups=[group(replicas=2)], **off)
    await keeper.status("ready", "head and 2 workers ready")
    await keeper.keep(worker_groups=[group(replicas=1)], **off)
    await keeper.until(lambda: len(keeper.pods("worker")) == 1, "waited for one worker to go")
    await keeper.keep(worker_groups=[group(replicas=3)], **off)
    await keeper.status("ready", "head and 3 workers ready")


async def test_raising_with_the_autoscaler_is_a_hint(keeper: Keeper) -> None:
    await keeper.keep(worker_groups=[group()])
    await keeper.status("ready", "head ready")
    await keeper.keep(worker_groups=[group(replicas=2)])
    await keeper.status("ready", "head and 2 workers ready")
    state = await keeper.keep(worker_groups=[group(replicas=1)])
    assert any("the autoscaler owns the replicas" in note for note in state.notes)
    assert (await keeper.live())["spec"]["workerGroupSpecs"][0]["replicas"] == 2


async def test_somebody_elses_cluster_is_untouched_until_adopted(keeper: Keeper, plane: ControlPlane) -> None:
    async with keeping(plane, keeper.namespace, OTHER) as theirs:
        await theirs.keep()
        await theirs.status("ready", "head ready")
    before, written = await keeper.live(), writes(plane, keeper.namespace)
    state = await keeper.keep(head={"cpus": "2"})
    assert (state.ownership, state.owner) == ("foreign", "bob@desk")
    assert "owned by bob@desk" in state.problem
    with pytest.raises(ClusterForeignError):
        await keeper.ask(asked_to_delete)
    assert _without_status(await keeper.live()) == _without_status(before)
    assert writes(plane, keeper.namespace) == written, "nor anything that changed nothing"
    state = await keeper.ask(asked_to_adopt)
    assert state.ownership == "ours"
    assert (await keeper.live())["metadata"]["uid"] == before["metadata"]["uid"]


async def test_a_cluster_made_by_hand_is_untouched(keeper: Keeper) -> None:
    made = keeper.manifest(keeper.config())
    made["metadata"] = {"name": "demo", "namespace": keeper.namespace}
    await keeper.kubectl("create", "-f", "-", stdin=json.dumps(made))
    state = await keeper.keep(head={"cpus": "2"})
    assert state.ownership == "unowned"
    assert state.problem == "exists, not ours: krayne adopt demo"
    live = await keeper.live()
    assert live["metadata"]["generation"] == 1
    assert "annotations" not in live["metadata"]


async def test_deleted_behind_our_back_it_comes_back_and_says_so(keeper: Keeper) -> None:
    await keeper.keep()
    await keeper.status("ready", "head ready")
    uid = (await keeper.live())["metadata"]["uid"]
    await keeper.kubectl("delete", "raycluster", "demo")
    await keeper.until(lambda: any(CAME_BACK in one for one in keeper.reasons), "waited for the reason")
    await keeper.status("ready", "head ready")
    assert (await keeper.live())["metadata"]["uid"] != uid


async def test_krayne_delete_and_create_again(keeper: Keeper) -> None:
    await keeper.keep()
    keeper.declare()
    await keeper.ask(asked_to_delete)
    await keeper.until(lambda: keeper.key not in keeper.reconciler.statuses, "waited for it to be gone")
    assert keeper.memory.cluster(keeper.world.id or "", keeper.key).uid == ""
    await keeper.keep()
    state = await keeper.status("ready", "head ready")
    assert CAME_BACK not in state.status.reason


async def test_a_head_lost_before_the_operator_saw_it_is_made_again(keeper: Keeper) -> None:
    """KubeRay waits for a head it made and never saw, for 30 s, and would look again only after 300 s."""

    def lose_the_first_head() -> None:
        until("a head", lambda: bool(keeper.plane.pods(keeper.namespace, "demo")))
        keeper.plane.pause_operator()
        try:
            (head,) = keeper.plane.pods(keeper.namespace, "demo")
            path = f"/api/v1/namespaces/{keeper.namespace}/pods/{head['metadata']['name']}"
            keeper.plane.api.request("DELETE", f"{path}?gracePeriodSeconds=0")
            until("no head", lambda: not keeper.plane.pods(keeper.namespace, "demo"))
        finally:
            keeper.plane.resume_operator()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(to_thread.run_sync, lose_the_first_head)
        await keeper.keep()
    await keeper.status("ready", "head ready")


async def test_what_the_api_server_refuses_is_said(keeper: Keeper) -> None:
    build = keeper.manifest
    keeper.manifest = lambda config: {**build(config), "spec": {"headGroupSpec": {}}}  # type: ignore[method-assign]
    with pytest.raises(KrayneError) as caught:
        await keeper.keep()
    assert caught.value.kind == "rejected"
    assert keeper.state.status.phase == "invalid"
    assert "template" in keeper.state.problem


async def test_a_namespace_that_is_not_there(keeper: Keeper) -> None:
    keeper.namespace = "no-such-namespace"
    keeper.key = type(keeper.key)(keeper.namespace, "demo")
    with pytest.raises(KrayneError) as caught:
        await keeper.keep()
    assert caught.value.kind == "namespace-not-found"
    assert keeper.state.status.phase == "absent"


async def test_a_field_that_kuberay_does_not_know_is_tried_once(keeper: Keeper) -> None:
    build = keeper.manifest

    def newer(config: Any) -> Any:
        made = build(config)
        made["spec"]["fromTheFuture"] = {"x": 1}
        return made

    keeper.manifest = newer  # type: ignore[method-assign]
    state = await keeper.keep()
    assert state.notes == ("the API server does not keep spec.fromTheFuture (another KubeRay version?)",)
    await keeper.status("ready", "head ready")
    assert (await keeper.live())["metadata"]["generation"] == 1


async def test_the_api_server_goes_and_comes_back(keeper: Keeper, plane: ControlPlane) -> None:
    await keeper.keep(worker_groups=[group(replicas=1)])
    await keeper.status("ready", "head and 1 worker ready")
    await anyio.to_thread.run_sync(plane.stop_apiserver)
    try:
        state = await keeper.status("unreachable", "last known: ready")
        assert state.status.workers.ready == 1
        assert state.ownership == "ours"
    finally:
        await anyio.to_thread.run_sync(plane.start_apiserver)
    await keeper.status("ready", "head and 1 worker ready")
