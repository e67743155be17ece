"""The reconciler creates and changes what is declared: on a small Kubernetes in memory, in virtual time."""

from typing import Any

import anyio
import pytest

from kraynd.core.manifest import ImageChoice
from kraynd.core.model import ClusterKey, Json
from kraynd.writes import STEPS
from krayne.errors import ConflictError, KrayneError
from tests.core.rays import KEY, config, manifest, pod
from tests.daemon.reconciling import created, running, scaled, snapshot
from tests.daemon.small_world import forbidden
from tests.daemon.virtual import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


async def test_a_declared_cluster_is_created_once_and_remembered_around_it() -> None:
    async with running() as daemon:
        daemon.it.declare(snapshot(config()))
        state = await daemon.it.settle(KEY, 5)
        assert daemon.world.kinds == ["create"]
        before, after = daemon.records.log
        assert before is not None
        assert after is not None
        assert before.applying == manifest()
        assert before.uid == ""
        assert (after.uid, after.last_applied) == (daemon.world.stored[KEY]["metadata"]["uid"], manifest())
        assert (state.declared, state.source, state.ownership) == (True, "demo.yaml", "ours")
        assert state.status.phase == "pending"
        assert KEY in daemon.changes


async def test_a_cache_that_lags_behind_our_own_write_is_not_believed() -> None:
    async with running() as daemon:
        daemon.world.lag = True
        daemon.it.declare(snapshot(config()))
        await daemon.it.settle(KEY, 5)
        daemon.it.declare(snapshot(config(head={"cpus": "2"})))
        await daemon.it.settle(KEY, 5)
        daemon.it.declare(snapshot(config(head={"cpus": "3"})))
        await daemon.it.settle(KEY, 5)
        assert daemon.world.kinds == ["create", "patch", "patch"], "no create twice, no conflict with ourselves"
        assert KEY not in daemon.world.clusters
        assert daemon.state.status.phase == "pending"
        daemon.world.deliver()
        await daemon.quiet()
        assert daemon.world.kinds == ["create", "patch", "patch"]


async def test_a_write_the_cache_never_shows_is_given_up_and_looked_at_again() -> None:
    async with running() as daemon:
        daemon.world.lag = True
        daemon.it.declare(snapshot(config()))
        await daemon.it.settle(KEY, 5)
        daemon.world.drop(KEY)  # deleted before the watch ever showed it
        await anyio.sleep(11)
        assert daemon.world.kinds == ["create", "create"]


async def test_an_edit_is_patched_with_the_version_it_was_planned_from() -> None:
    async with running() as daemon:
        await created(daemon)
        version = daemon.world.stored[KEY]["metadata"]["resourceVersion"]
        daemon.it.declare(snapshot(config(head={"cpus": "2"})))
        await daemon.it.settle(KEY, 5)
        ((kind, ops),) = daemon.world.writes
        assert kind == "patch"
        assert ops[0]["value"] == version
        assert daemon.memory.last_applied == manifest(config(head={"cpus": "2"}))


async def test_a_conflict_is_planned_again_from_the_new_version_at_once() -> None:
    async with running() as daemon:
        await created(daemon)
        once = [scaled(1)]

        def autoscaler() -> None:
            if once:
                daemon.world.meddle(KEY, once.pop())

        daemon.world.before_write = autoscaler
        daemon.it.declare(snapshot(config(head={"cpus": "2"})))
        began = anyio.current_time()
        await daemon.it.settle(KEY, 5)
        assert daemon.world.kinds == ["patch", "patch"]
        assert daemon.world.stored[KEY]["spec"]["workerGroupSpecs"][0]["replicas"] == 1, "its decision stands"
        assert anyio.current_time() - began < 1
        assert daemon.state.problem == ""


async def test_conflicts_without_end_are_bounded_and_back_off() -> None:
    async with running() as daemon:
        await created(daemon)
        daemon.world.fail = [ConflictError("changed") for _ in range(STEPS)]
        daemon.it.declare(snapshot(config(head={"cpus": "2"})))
        with pytest.raises(ConflictError):
            await daemon.it.settle(KEY, 60)
        assert len(daemon.world.writes) == STEPS
        assert daemon.state.problem == "changed"
        await anyio.sleep(5)
        assert len(daemon.world.writes) == STEPS + 1
        assert daemon.state.problem == ""
        assert daemon.it.conflicts == STEPS
        assert daemon.it.passes > 1


async def test_errors_back_off_are_shown_and_pass() -> None:
    async with running() as daemon:
        daemon.world.fail = [forbidden("you may not create rayclusters") for _ in range(3)]
        daemon.it.declare(snapshot(config()))
        with pytest.raises(KrayneError, match="you may not") as caught:
            await daemon.it.settle(KEY, 5)
        assert caught.value.kind == "forbidden"
        assert daemon.state.problem == "you may not create rayclusters"
        assert daemon.state.status.reason == "you may not create rayclusters"
        for _ in range(50):
            daemon.it.wake()  # being woken is no reason to try sooner
            await anyio.sleep(0.01)
        assert daemon.world.kinds == ["create"]
        await anyio.sleep(8)  # 1 + 2 + 4 seconds
        assert daemon.world.kinds == ["create"] * 4
        assert daemon.state.problem == ""


async def test_an_edit_is_tried_at_once_whatever_the_backoff() -> None:
    async with running() as daemon:
        daemon.world.fail = [KrayneError("no such field", kind="rejected")]
        daemon.it.declare(snapshot(config()))
        with pytest.raises(KrayneError):
            await daemon.it.settle(KEY, 5)
        assert daemon.state.status.phase == "invalid"
        daemon.it.declare(snapshot(config(head={"cpus": "2"})))
        await anyio.sleep(0.1)
        assert daemon.world.kinds == ["create", "create"]


async def test_what_cannot_be_built_is_invalid_and_nothing_is_written() -> None:
    async with running() as daemon:

        def refuse(*_: Any) -> tuple[Json, ImageChoice]:
            raise KrayneError("no image for Ray 3.0.0.dev0", kind="config-invalid")

        daemon.build = refuse
        daemon.it.declare(snapshot(config()))
        with pytest.raises(KrayneError, match="no image"):
            await daemon.it.settle(KEY, 5)
        assert (daemon.state.status.phase, daemon.state.status.reason) == ("invalid", "no image for Ray 3.0.0.dev0")
        assert daemon.world.writes == []


async def test_who_changes_the_file_back_and_forth_is_no_somebody_else() -> None:
    async with running() as daemon:
        await created(daemon)
        daemon.world.writes.clear()
        for count in range(12):
            daemon.it.declare(snapshot(config(head={"cpus": str(2 + count % 2)})))
            await daemon.it.settle(KEY, 5)
        assert len(daemon.world.writes) == 12
        assert daemon.state.problem == ""


async def test_somebody_who_keeps_undoing_our_change_is_named_and_not_fought() -> None:
    async with running() as daemon:
        await created(daemon)

        def other_controller(key: ClusterKey | None) -> None:
            container = daemon.world.stored[KEY]["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
            if container["image"] != "theirs":
                daemon.world.meddle(KEY, undo)
            daemon.it.wake(key)

        def undo(thing: Json) -> None:
            thing["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] = "theirs"

        daemon.world.on_change = other_controller
        other_controller(KEY)
        await anyio.sleep(60)
        assert len(daemon.world.writes) == 5
        assert "something else keeps undoing our change of spec.headGroupSpec" in daemon.state.problem


async def test_a_field_the_server_drops_is_tried_once_and_noted() -> None:
    async with running() as daemon:
        store = daemon.world.put

        def older_schema(thing: Json) -> Json:
            thing["spec"]["headGroupSpec"]["template"]["spec"].pop("nodeSelector", None)
            return store(thing)

        daemon.world.put = older_schema  # type: ignore[method-assign]
        daemon.world.pods[KEY] = (pod("head"),)
        daemon.it.declare(snapshot(config(head={"pod": {"nodeSelector": {"disk": "ssd"}}})))
        await daemon.it.settle(KEY, 5)
        await anyio.sleep(60)
        assert daemon.world.kinds == ["create"]
        assert "the API server does not keep spec.headGroupSpec.template.spec.nodeSelector" in daemon.state.notes[0]


async def test_the_autoscalers_writes_cause_none_of_ours() -> None:
    async with running() as daemon:
        await created(daemon)
        for replicas in (1, 0, 1, 0):
            daemon.world.meddle(KEY, scaled(replicas))
            await daemon.quiet()
        assert daemon.world.writes == []


async def test_a_lowered_count_is_explained_in_the_reply() -> None:
    async with running() as daemon:
        group = {"name": "worker", "max_replicas": 5}
        await created(daemon, config(worker_groups=[{**group, "replicas": 4}]))
        daemon.it.declare(snapshot(config(worker_groups=[{**group, "replicas": 1}])))
        state = await daemon.it.settle(KEY, 5)
        assert daemon.world.writes == []
        assert state.notes == ("the autoscaler owns the replicas of worker: lower max_replicas to force fewer",)


async def test_an_operator_that_overlooks_a_missing_head_is_told_a_few_times() -> None:
    async with running() as daemon:
        await created(daemon)
        await anyio.sleep(31)
        assert daemon.world.writes == []
        await anyio.sleep(2)
        ((kind, ops),) = daemon.world.writes
        assert (kind, ops[-1]["path"]) == ("patch", "/metadata/annotations/krayne.dev~1nudge")
        await anyio.sleep(1000)
        assert daemon.world.kinds == ["patch"] * 4
        assert not daemon.memory.changed
        assert daemon.state.problem == ""


async def test_the_operator_is_not_told_of_a_head_that_is_there() -> None:
    async with running() as daemon:
        await created(daemon)
        await anyio.sleep(20)
        daemon.world.pods[KEY] = (pod("head", phase="Pending"),)
        daemon.it.wake(KEY)
        await anyio.sleep(1000)
        assert daemon.world.writes == []
