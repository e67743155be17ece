"""A queue of keys: each at most once in it, at most one worker on a key, a bounded number of workers.

Level-triggered: adding a key means "look at it", however often it is added. A key added while it is worked on is looked
at once more. Holds no data but keys; work that raises ends the queue, so work must not.
"""

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import anyio

Key = TypeVar("Key", bound=Hashable)


class KeyedQueue(Generic[Key]):
    """Calls `work(key)` for every key added, in order of arrival, until `run` is cancelled."""

    def __init__(self, work: Callable[[Key], Awaitable[None]], *, parallel: int) -> None:
        self._work = work
        self._parallel = parallel
        self._ready: dict[Key, None] = {}
        self._busy: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._changed = anyio.Event()

    def add(self, key: Key) -> None:
        """Look at `key` as soon as a worker is free."""
        self._ready[key] = None
        self._changed.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at `key` in so many seconds, unless an earlier time is already set. A look in between voids it."""
        due = anyio.current_time() + max(seconds, 0.0)
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._changed.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._changed = anyio.Event()
                self._move_due()
                for key in [key for key in self._ready if key not in self._busy]:
                    if len(self._busy) >= self._parallel:
                        break
                    del self._ready[key]
                    self._busy.add(key)
                    self._due.pop(key, None)
                    tasks.start_soon(self._one, key)
                with anyio.CancelScope(deadline=min(self._due.values(), default=float("inf"))):
                    await self._changed.wait()

    def _move_due(self) -> None:
        now = anyio.current_time()
        for key in [key for key, due in self._due.items() if due <= now]:
            del self._due[key]
            self._ready[key] = None

    async def _one(self, key: Key) -> None:
        try:
            await self._work(key)
        finally:
            self._busy.discard(key)
            self._changed.set()
