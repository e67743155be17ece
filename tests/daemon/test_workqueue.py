"""The keyed queue, in virtual time."""

from typing import Any

import anyio
import pytest

from kraynd.workqueue import KeyedQueue
from tests.daemon.virtual import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Work:
    """Takes a second a key, and sees how many run at once."""

    def __init__(self, parallel: int = 2) -> None:
        self.done: list[tuple[str, float]] = []
        self.busy: list[str] = []
        self.most = 0
        self.queue: KeyedQueue[str] = KeyedQueue(self.one, parallel=parallel)

    async def one(self, key: str) -> None:
        assert key not in self.busy
        self.busy.append(key)
        self.most = max(self.most, len(self.busy))
        await anyio.sleep(1)
        self.busy.remove(key)
        self.done.append((key, anyio.current_time() - 1000))


async def test_keys_are_worked_on_once_in_order_and_a_bounded_number_at_a_time() -> None:
    work = Work()
    async with anyio.create_task_group() as tasks:
        for key in "abcabcdd":
            work.queue.add(key)
        tasks.start_soon(work.queue.run)
        await anyio.sleep(10)
        tasks.cancel_scope.cancel()
    assert [key for key, _ in work.done] == ["a", "b", "c", "d"]
    assert work.most == 2


async def test_a_key_added_while_it_is_worked_on_is_looked_at_once_more() -> None:
    work = Work()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work.queue.run)
        work.queue.add("a")
        await anyio.sleep(0.5)
        for _ in range(5):
            work.queue.add("a")
        await anyio.sleep(10)
        tasks.cancel_scope.cancel()
    assert work.done == [("a", 1.0), ("a", 2.0)]


async def test_the_earliest_time_holds_and_a_look_in_between_voids_it() -> None:
    work = Work()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work.queue.run)
        work.queue.add_after("a", 20)
        work.queue.add_after("a", 5)
        work.queue.add_after("a", 30)
        work.queue.add_after("b", 40)
        await anyio.sleep(10)
        work.queue.add("b")
        await anyio.sleep(100)
        tasks.cancel_scope.cancel()
    assert work.done == [("a", 6.0), ("b", 11.0)]


async def test_a_slow_key_leaves_room_for_the_others() -> None:
    work = Work()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work.queue.run)
        for key in "aaab":
            work.queue.add(key)
        await anyio.sleep(1.5)
        assert [key for key, _ in work.done] == ["a", "b"]
        tasks.cancel_scope.cancel()
