"""`watch` and calls over restarts of the daemon: nothing is lost, nothing is told twice."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import pytest

from kraynd.changes import Changes
from kraynd.core.model import ClusterKey
from krayne import errors
from krayne.api import ClusterEvent, aio
from tests.api.conftest import House

pytestmark = pytest.mark.anyio


async def told(events: AsyncGenerator[ClusterEvent, None], until: str = "synced") -> list[tuple[str, str]]:
    """Events up to one of kind `until`."""
    found = []
    with anyio.fail_after(30):
        async for event in events:
            found.append((event.kind, event.name))
            if event.kind == until:
                break
    return found


async def test_a_watch_tells_what_is_there_then_what_changes(house: House) -> None:
    async with aclosing(aio.watch()) as events:
        assert await told(events) == [("changed", "demo"), ("synced", "")]
        house.put("new", "ml")
        event = await anext(events)
        assert (event.kind, event.name, event.namespace) == ("changed", "new", "ml")
        assert event.cluster is not None
        assert event.cluster.status == "ready"
        house.backend.remove(ClusterKey("ml", "new"))
        assert await told(events, "removed") == [("removed", "new")]
    assert house.backend.changes.listeners <= 2


async def test_only_one_namespace(house: House) -> None:
    async with aclosing(aio.watch("ml")) as events:
        assert await told(events) == [("synced", "")]
        house.put("demo")
        house.put("new", "ml")
        assert (await anext(events)).name == "new"


async def test_since_tells_only_what_is_newer(house: House) -> None:
    house.put("old")
    since = house.backend.changes.revision
    house.put("new")
    async with aclosing(aio.watch(since=since)) as events:
        assert (await anext(events)).name == "new"


async def test_after_a_restart_only_the_differences_are_told(house: House) -> None:
    house.put("gone")
    async with aclosing(aio.watch()) as events:
        assert await told(events) == [("changed", "demo"), ("changed", "gone"), ("synced", "")]

        def meanwhile() -> None:
            del house.backend.views[ClusterKey("default", "gone")]
            house.backend.changes = Changes(start=5000)  # as a new daemon's
            house.put("made")

        await house.restart(meanwhile)
        assert sorted(await told(events)) == [("changed", "made"), ("removed", "gone"), ("synced", "")]


async def test_a_wait_goes_on_over_a_restart(house: House) -> None:
    house.operates = False
    house.put("slow", phase="pending")
    seen = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            info = await aio.wait_until_ready("slow", timeout=60.0, progress=lambda _: seen.set())
            assert info.status == "ready"

        tasks.start_soon(wait)
        await seen.wait()
        await house.restart()
        house.put("slow")


async def test_a_lost_change_is_not_repeated_and_a_lost_question_is(house: House) -> None:
    house.backend.hold("scale")
    lost: list[errors.KrayneError] = []

    async def scale() -> None:
        try:
            await aio.scale_cluster("demo", "default", "worker", 3)
        except errors.KrayneError as error:
            lost.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scale)
        await house.backend.entered["scale"].wait()
        tasks.start_soon(house.restart)
        house.backend.gates["scale"].set()
    assert sum(1 for one in house.backend.log if one[0] == "scale") == 1
    assert (await aio.get_cluster("demo")).name == "demo"
    assert all(isinstance(one, errors.DaemonUnreachableError) for one in lost)
