"""One reader of the store's changes. Bounded: a reader that falls too far behind is told so and must start anew."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from krayne_sandbox.journal import Change

QUEUED: Final = 5000  # changes one reader may lag behind


class FellBehindError(Exception):
    """Changes were lost: subscribe again."""


class Subscription:
    """Made by the store. Leave it as a context manager, or it is fed for ever."""

    def __init__(self, first: Sequence[Change], leave: Callable[["Subscription"], None], limit: int = QUEUED) -> None:
        self._queued = list(first)
        self._limit = max(limit, len(self._queued) + limit)
        self._leave = leave
        self._news = asyncio.Event()
        self._behind = False
        if self._queued:
            self._news.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(self)

    async def changes(self) -> list[Change]:
        """Wait for news; all that is known, in order. The objects are the reader's to read, not to change."""
        await self._news.wait()
        self._news.clear()
        if self._behind:
            raise FellBehindError("the reader was too slow: changes were lost")
        taken, self._queued = self._queued, []
        return taken

    def put_nothing(self) -> None:
        """Let the next `changes` return at once, with nothing if there is nothing."""
        self._news.set()

    def put(self, change: Change) -> None:
        """Called by the store."""
        if len(self._queued) >= self._limit:
            self._behind = True
            self._queued.clear()
        if not self._behind:
            self._queued.append(change)
        self._news.set()
