"""The reconciler across worlds, time and its own faults: what it shows, and what it then does not do."""

from typing import Any

import anyio
import pytest

from kraynd.core.model import Json
from krayne.errors import ClusterTimeoutError, KrayneError
from tests.core.rays import KEY, config, event, live, manifest, pod, provisioned
from tests.daemon.reconciling import created, running, snapshot
from tests.daemon.small_world import Condition, SmallWorld, forbidden
from tests.daemon.virtual import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


async def test_nothing_is_written_while_the_world_is_not_ready_or_not_whole() -> None:
    async with running() as daemon:
        daemon.world.state = Condition("unreachable", "the API does not answer")
        daemon.it.declare(snapshot(config()))
        state = await daemon.it.settle(KEY, 5)
        assert (state.status.phase, state.status.reason) == ("unreachable", "the API does not answer")
        daemon.world.state = Condition()
        daemon.world.synced = False
        await daemon.it.settle(KEY, 5)
        assert daemon.world.writes == []
        daemon.world.synced = True
        await daemon.it.settle(KEY, 5)
        assert daemon.world.kinds == ["create"]


async def test_without_a_world_the_last_known_facts_stay() -> None:
    async with running() as daemon:
        await created(daemon)
        daemon.world.meddle(KEY, lambda thing: thing.update(status=provisioned()))
        daemon.world.pods[KEY] = (pod("demo-head-1"),)
        daemon.world.deliver()
        await daemon.quiet()
        assert daemon.state.status.phase == "ready"
        daemon.it.attach(None, "no such context: dev")
        await daemon.quiet()
        assert daemon.state.status.phase == "unreachable"
        assert daemon.state.status.reason == "no such context: dev; last known: ready"
        assert daemon.state.ownership == "ours"
        assert daemon.state.status.head is not None
        daemon.it.attach(daemon.world)
        await daemon.quiet()
        assert daemon.state.status.phase == "ready"


async def test_heads_that_came_and_went_between_two_looks_count() -> None:
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    async with running() as daemon:
        await created(daemon)
        daemon.world.meddle(KEY, lambda thing: thing.update(status=provisioned()))
        daemon.world.pods[KEY] = (pod("demo-head-9", age=1, phase="Pending"),)
        daemon.world.gone[KEY] = tuple(
            pod(f"head-{n}", age=300 - n, phase="Failed", container=killed) for n in range(3)
        )
        daemon.world.deliver()
        await daemon.quiet()
        assert daemon.state.status.phase == "degraded"
        said = daemon.state.status.reason
        assert said.endswith("4 heads in 10 minutes; the last one ended by OOMKilled (exit code 137)"), said


async def test_another_world_is_another_memory() -> None:
    async with running() as daemon:
        await created(daemon)
        other = SmallWorld("world-b")
        other.on_change = daemon.it.wake
        daemon.world = other
        daemon.it.attach(other)
        await daemon.it.settle(KEY, 5)
        assert other.kinds == ["create"]
        assert daemon.memory.born == "", "here it was never deleted"
        assert set(daemon.records.kept) == {("world-a", KEY), ("world-b", KEY)}


async def test_prune_does_not_follow_into_another_world() -> None:
    async with running(prune=True) as daemon:
        daemon.world.usual_pods = (pod("head"),)
        others = [config(name=f"other-{n}") for n in range(3)]
        daemon.it.declare(snapshot(config(), *others))
        await anyio.sleep(1)
        first, second = daemon.world, SmallWorld("world-b")
        second.on_change = daemon.it.wake
        daemon.it.attach(second)
        await anyio.sleep(1)
        daemon.it.declare(snapshot(*others, missing={KEY: anyio.current_time()}))
        await anyio.sleep(1)
        daemon.it.attach(first)
        first.writes.clear()
        await anyio.sleep(100)
        assert first.writes == []
        assert KEY in first.stored


# Status


async def test_time_alone_changes_the_answer() -> None:
    async with running() as daemon:
        daemon.world.put(live(manifest(), age=0))
        daemon.it.declare(snapshot(config()))
        state = await daemon.it.settle(KEY, 5)
        assert state.status.reason == "waiting for the KubeRay operator"
        await anyio.sleep(16)
        assert daemon.state.status.reason.startswith("the KubeRay operator is not running")


async def test_events_are_asked_for_seldom_and_only_while_it_is_not_well() -> None:
    async with running() as daemon:
        await created(daemon)
        for _ in range(100):
            daemon.it.wake(KEY)
            await anyio.sleep(0.1)
        assert len(daemon.world.event_calls) == 2
        uid = daemon.world.stored[KEY]["metadata"]["uid"]
        daemon.world.events = (event(uid, "InvalidRayClusterSpec", "minReplicas is negative"),)
        await anyio.sleep(20)
        assert (daemon.state.status.phase, daemon.state.status.reason) == ("invalid", "minReplicas is negative")
        assert daemon.state.events == ("InvalidRayClusterSpec: minReplicas is negative",)
        await anyio.sleep(3600)
        gaps = [b - a for a, b in zip(daemon.world.event_calls, daemon.world.event_calls[1:], strict=False)]
        assert min(gaps) >= 5
        assert gaps[-1] >= 60
        daemon.world.meddle(KEY, lambda thing: thing.update(status=provisioned()))
        daemon.world.pods[KEY] = (pod("demo-head-1"),)
        daemon.world.deliver()
        await daemon.quiet()
        asked = len(daemon.world.event_calls)
        await anyio.sleep(3600)
        assert len(daemon.world.event_calls) == asked


async def test_events_that_may_not_be_read_leave_the_status_poorer_not_wrong() -> None:
    async with running() as daemon:

        async def no(*_: Any) -> tuple[Json, ...]:
            raise forbidden("events are not for you")

        daemon.world.events_for = no  # type: ignore[method-assign, assignment]
        await created(daemon)
        await anyio.sleep(20)
        assert daemon.state.status.phase == "pending"
        assert daemon.state.problem == ""
        assert daemon.it.frozen == ""


async def test_an_unchanged_status_is_not_told_again() -> None:
    async with running() as daemon:
        await created(daemon)
        await anyio.sleep(20)
        daemon.changes.clear()
        for _ in range(10):
            daemon.it.wake()
            await anyio.sleep(0.1)
        assert daemon.changes == []


# Containment


async def test_an_unknown_error_freezes_every_write_and_statuses_go_on() -> None:
    async with running() as daemon:
        await created(daemon)
        daemon.world.fail = [ZeroDivisionError()]
        daemon.it.declare(snapshot(config(head={"cpus": "2"})))
        with pytest.raises(KrayneError, match="writes are frozen: ZeroDivisionError"):
            await daemon.it.settle(KEY, 5)
        assert daemon.it.frozen.startswith("writes are frozen: ZeroDivisionError at small_world.py:")
        daemon.it.declare(snapshot(config(head={"cpus": "3"}), config(name="new")))
        daemon.world.meddle(KEY, lambda thing: thing.update(status=provisioned()))
        daemon.world.pods[KEY] = (pod("demo-head-1"),)
        daemon.world.deliver()
        await anyio.sleep(100)
        assert daemon.world.kinds == ["patch"]
        assert daemon.state.status.phase == "ready"


async def test_settling_has_a_deadline() -> None:
    async with running() as daemon:

        async def never(*_: Any) -> Json:
            await anyio.sleep_forever()
            raise AssertionError

        daemon.world.create = never  # type: ignore[method-assign, assignment]
        daemon.it.declare(snapshot(config()))
        with pytest.raises(ClusterTimeoutError):
            await daemon.it.settle(KEY, 5)


async def test_one_slow_cluster_does_not_hold_up_the_others() -> None:
    async with running() as daemon:
        quick = daemon.world.create

        async def slow(made: Json) -> Json:
            if made["metadata"]["name"] == "demo":
                await anyio.sleep(1000)
            return await quick(made)

        daemon.world.create = slow  # type: ignore[method-assign, assignment]
        daemon.it.declare(snapshot(config(), *(config(name=f"other-{n}") for n in range(20))))
        await anyio.sleep(5)
        assert len(daemon.world.stored) == 20


async def test_a_namespace_that_is_not_watched_is_never_taken_for_empty() -> None:
    async with running() as daemon:
        daemon.world.hidden = {KEY.namespace}
        daemon.it.declare(snapshot(config()))
        state = await daemon.it.settle(KEY, 5)
        assert (state.status.phase, daemon.world.writes) == ("unreachable", [])
        assert "is out of sight" in state.status.reason
        daemon.world.hidden = set()
        await daemon.it.settle(KEY, 5)
        assert daemon.world.kinds == ["create"]
