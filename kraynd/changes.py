"""Who is told that a cluster changed: a revision per change, a bounded set of pending keys per subscriber.

Owns no views: a subscriber gets keys and looks at the world when it is ready to send, so a slow one coalesces for free.
Invariant: memory is bounded by the number of keys, whatever the rate of changes; a lost change is always said (resync).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from kraynd.core.model import ClusterKey

PENDING_LIMIT = 10_000  # keys a subscriber may be behind; more and a new snapshot is cheaper
REMEMBERED_LIMIT = 10_000  # keys whose last change is known, for `since`


class Subscription:
    """One listener's pending changes. `overflowed`: some were lost, a snapshot is due."""

    def __init__(self, revision: int, pending: dict[ClusterKey, int], *, resumed: bool, limit: int) -> None:
        self.revision = revision
        self.resumed = resumed
        self.overflowed = False
        self._pending = pending
        self._limit = limit
        self._news = anyio.Event()
        if pending:
            self._news.set()

    def add(self, key: ClusterKey, revision: int) -> None:
        """Note a change; never blocks."""
        self.revision = revision
        if self.overflowed:
            return
        self._pending.pop(key, None)  # last change last: order of revisions is order of delivery
        self._pending[key] = revision
        if len(self._pending) > self._limit:
            self._pending.clear()
            self.overflowed = True
        self._news.set()

    async def changes(self) -> list[tuple[ClusterKey, int]]:
        """Wait for changes and take them, oldest first. Empty after an overflow."""
        await self._news.wait()
        self._news = anyio.Event()
        taken = list(self._pending.items())
        self._pending.clear()
        return taken


class Changes:
    """The one place changes are announced. `start`: any number larger than an earlier daemon's last revision."""

    def __init__(self, *, start: int, pending_limit: int = PENDING_LIMIT, remembered: int = REMEMBERED_LIMIT) -> None:
        self.revision = start
        self._floor = start
        self._last: dict[ClusterKey, int] = {}
        self._subscriptions: set[Subscription] = set()
        self._pending_limit = pending_limit
        self._remembered = remembered

    def publish(self, key: ClusterKey) -> None:
        """Say that what is shown of `key` is different now (or gone)."""
        self.revision += 1
        self._last.pop(key, None)
        self._last[key] = self.revision
        if len(self._last) > self._remembered:
            self._floor = self._last.pop(next(iter(self._last)))
        for subscription in self._subscriptions:
            subscription.add(key, self.revision)

    @contextmanager
    def subscribe(self, since: int | None = None) -> Iterator[Subscription]:
        """Listen from now on, or from revision `since` where that is still known (`resumed`)."""
        resumed = since is not None and self._floor <= since <= self.revision
        pending = {}
        if since is not None and resumed:
            pending = {key: revision for key, revision in self._last.items() if revision > since}
        subscription = Subscription(self.revision, pending, resumed=resumed, limit=self._pending_limit)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._subscriptions)
