"""List and watch: one cache of one resource, kept true through every kind of outage.

Resumes by resourceVersion with bookmarks, lists again after 410 and keeps the old cache until the new list is whole.
An error is never an empty list. Asks at most about once a second while failing.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus

import aiohttp
import anyio
import anyio.lowlevel
import msgspec

from kraynd.core.backoff import Backoff
from kraynd.core.model import Json
from kraynd.kube.cache import Cache, Change, Lines, ObjectKey, list_page
from kraynd.kube.client import KubeClient
from kraynd.kube.refusals import BusyError, GoneError, UnreachedError, unreachable
from krayne.errors import ForbiddenError, KrayneError, LoginNeededError

PAGE = 500  # objects a list request asks for
GONE_PATIENCE = 3  # lists in a row that may be outdated before they are done, until that is said as trouble
# These say nothing of the version we resume from. Whatever else the server did not like, a list is always right.
STILL_GOOD = (UnreachedError, BusyError, LoginNeededError, ForbiddenError)


class WatchSettings(msgspec.Struct, frozen=True):
    """Paces and deadlines, in seconds.

    `unreached` paces what never arrived: asking costs the server nothing, and status must be true soon after it is
    back. `refused` paces what it answered. A watch that lived `settled` makes the next failure the first again.
    `silence`: the server sends a bookmark each minute, so a longer silence is looked into, by opening the watch anew.
    `lifetime`: what the server is asked to end it after, and as much again at random, so that restarts spread.
    `distrust`: after an outage this long all is listed again: a server restored from a backup has older versions than
    we know, and would stay silent for as long. `patience`: the longest Retry-After that is obeyed.
    """

    unreached: Backoff = Backoff(base=2.0, cap=4.0)
    refused: Backoff = Backoff(base=2.0, cap=30.0)
    settled: float = 30.0
    silence: float = 75.0
    lifetime: float = 300.0
    distrust: float = 60.0
    patience: float = 120.0

    def pause(self, error: KrayneError | None, failures: int, lived: float, rand: float) -> float:
        """Seconds until the next try. A watch the server ends at once is paced like a failing one."""
        if error is None and lived >= self.refused.base:
            return 0.0
        curve = self.unreached if isinstance(error, UnreachedError) else self.refused
        asked = float(error.data.get("retry_after", 0.0)) if error is not None else 0.0
        return max(curve.delay(failures, rand), min(asked, self.patience))


DEFAULTS = WatchSettings()


class WatchHealth(msgspec.Struct, frozen=True):
    """`synced`: the cache was whole when last heard of, and the watch is open. `since`: wall seconds."""

    synced: bool
    error: KrayneError | None
    since: float


class Reflector:
    """The cache of one list path. `seed` is what is known of it already; it holds until the first list."""

    def __init__(
        self,
        client: KubeClient,
        path: str,
        *,
        selector: str = "",
        seed: Iterable[Json] = (),
        on_changes: Callable[[Sequence[Change]], None],
        on_health: Callable[[], None],
        rand: Callable[[], float] = random.random,
        settings: WatchSettings = DEFAULTS,
    ) -> None:
        self.path = path
        self._client = client
        self._query = {"labelSelector": selector} if selector else {}
        self._on_changes = on_changes
        self._on_health = on_health
        self._rand = rand
        self._settings = settings
        self._cache = Cache(seed)
        self._outdated = 0
        self._lost_at: float | None = None
        self._woken = anyio.Event()
        self._scope: anyio.CancelScope | None = None
        self.restarts = 0
        self.health = WatchHealth(False, None, time.time())

    @property
    def objects(self) -> dict[ObjectKey, Json]:
        """The cached objects by namespace and name. Replaced whole by a list, item by item by events."""
        return self._cache.objects

    def wake(self) -> None:
        """After sleep: trust neither the open watch nor the version it has come to, and wait out no backoff."""
        self._say(False, self.health.error)
        self._woken.set()
        if self._scope is not None:
            self._scope.cancel()  # `run` forgets the version: until it has ended, what comes is judged by it
        else:
            self._cache.version = ""

    async def run(self) -> None:
        """Keep the cache until cancelled."""
        failures = 0
        while True:
            started = anyio.current_time()
            error: KrayneError | None = None
            self._scope = scope = anyio.CancelScope()
            try:
                with scope:
                    await self._once()
            except KrayneError as met:
                error = met
            finally:
                self._scope = None
            self._judge(error)
            if scope.cancel_called:
                self._cache.version = ""
            self.restarts += 1
            lived = anyio.current_time() - started
            failures = 1 if lived > self._settings.settled else failures + 1
            with anyio.move_on_after(self._settings.pause(error, failures, lived, self._rand())):
                await self._woken.wait()
                failures = 0
            self._woken = anyio.Event()

    def _judge(self, error: KrayneError | None) -> None:
        """What an end of list and watch means for the next start. The objects stay as they are."""
        if error is None:
            return
        if self._lost_at is None:
            self._lost_at = anyio.current_time()
        if not isinstance(error, STILL_GOOD):
            self._cache.version = ""
        if isinstance(error, GoneError) and self._outdated < GONE_PATIENCE:
            self._outdated += 1
            self._say(False, None)
        else:
            self._say(False, error)

    async def _once(self) -> None:
        lost_at = self._lost_at
        if lost_at is not None and anyio.current_time() - lost_at > self._settings.distrust:
            self._cache.version = ""
        if not self._cache.version:
            await self._list()
        await self._watch()

    async def _list(self) -> None:
        found: list[Json] = []
        query = {"limit": str(PAGE), **self._query}
        while True:
            items, version, token = list_page(await self._client.page(self.path, **query))
            found += items
            if not token:
                break
            query["continue"] = token
        if changes := self._cache.replace(found, version):
            self._on_changes(changes)

    async def _watch(self) -> None:
        seconds = int(self._settings.lifetime * (1 + self._rand()))
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._cache.version,
            "timeoutSeconds": str(seconds),
        }
        async with self._client.stream("GET", self.path, query=query) as reply:
            if reply.status != HTTPStatus.OK:
                raise self._client.refused(reply, await self._client.read(reply))
            await anyio.lowlevel.checkpoint_if_cancelled()  # an answer to a watch that is not trusted any more
            self._lost_at = None
            self._say(True, None)
            lines = Lines()
            while chunk := await self._chunk(reply):
                for event in lines.feed(chunk):
                    self._take(event)

    def _take(self, event: Json) -> None:
        change = self._cache.take(event, self._client.endpoint.server)
        self._outdated = 0  # it does tell news from that version on
        if change is not None:
            self._on_changes([change])

    async def _chunk(self, reply: aiohttp.ClientResponse) -> bytes:
        """Some bytes of the watch; none at its end, and when there was silence for too long."""
        try:
            with anyio.move_on_after(self._settings.silence):
                return await reply.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self._client.endpoint.server, error) from None
        return b""

    def _say(self, synced: bool, error: KrayneError | None) -> None:
        was = self.health
        if (was.synced, was.error and was.error.message) != (synced, error and error.message):
            self.health = WatchHealth(synced, error, time.time())
            self._on_health()
