"""List and watch: one cache of one resource, kept true through every kind of outage.

Resumes by resourceVersion with bookmarks, lists again after 410 and keeps the old cache until the new list is whole.
An error is never an empty list. Asks at most about once a second while failing.
"""

import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

import aiohttp
import anyio
import msgspec

from kraynd.core.backoff import Backoff
from kraynd.core.model import Json
from kraynd.kube.client import GoneError, KubeClient, refusal, unreachable
from krayne.errors import KrayneError, KubeConnectionError

PAGE = 500  # objects a list request asks for
BACKOFF = Backoff(base=1.0, cap=30.0)
SETTLED = 30.0  # seconds a watch must have lived for the next failure to count as the first
SILENCE = 90.0  # seconds past the server's own timeout without a byte: the connection is dead
BOOKMARK_SILENCE = 150.0  # the server sends a bookmark each minute, so this much silence is a dead connection
LINE_LIMIT = 16 * 1024 * 1024  # bytes of one event; etcd's own limit is 1.5 MiB an object
ObjectKey = tuple[str, str]


class WatchHealth(msgspec.Struct, frozen=True):
    """`synced`: the cache was whole when last heard of and the watch is up."""

    synced: bool
    error: KrayneError | None
    since: float


class Reflector:
    """The cache of one list path. `objects` is replaced whole by a list and item by item by events."""

    def __init__(
        self,
        client: KubeClient,
        path: str,
        *,
        selector: str = "",
        on_event: Callable[[Json], None],
        on_health: Callable[[], None],
        rand: Callable[[], float] = random.random,
        backoff: Backoff = BACKOFF,
    ) -> None:
        self._client = client
        self._path = path
        self._query = {"labelSelector": selector} if selector else {}
        self._on_event = on_event
        self._on_health = on_health
        self._rand = rand
        self._backoff = backoff
        self._version = ""
        self._woken = anyio.Event()
        self._scope: anyio.CancelScope | None = None
        self.restarts = 0
        self.objects: dict[ObjectKey, Json] = {}
        self.health = WatchHealth(False, None, time.time())

    def wake(self) -> None:
        """After sleep: do not trust the open watch, do not wait out a backoff."""
        self._woken.set()
        if self._scope is not None:
            self._scope.cancel()

    async def run(self) -> None:
        """Keep the cache until cancelled."""
        failures = 0
        while True:
            started = anyio.current_time()
            try:
                with anyio.CancelScope() as scope:
                    self._scope = scope
                    await self._once()
            except GoneError:
                self._version = ""
                error = None
            except KrayneError as met:
                error = met
                self._say(False, met)
            else:
                error = None
            self._scope = None
            self.restarts += 1
            lived = anyio.current_time() - started
            failures = 1 if lived > SETTLED else failures + 1
            pause = self._backoff.delay(failures, self._rand()) if error or lived < 1.0 else 0.0
            with anyio.move_on_after(pause):
                await self._woken.wait()
                failures = 0
            self._woken = anyio.Event()

    async def _once(self) -> None:
        if not self._version:
            await self._list()
        self._say(True, None)
        async with aclosing(self._events()) as events:
            async for event in events:
                self._take(event)

    async def _list(self) -> None:
        found: dict[ObjectKey, Json] = {}
        query, version = {"limit": str(PAGE), **self._query}, ""
        while True:
            page = await self._client.get(self._path, **query)
            metadata = page.get("metadata") or {}
            version = str(metadata.get("resourceVersion") or version)
            for item in page.get("items") or ():
                found[_key(item)] = _slim(item)
            if not metadata.get("continue"):
                break
            query["continue"] = str(metadata["continue"])
        before, self.objects, self._version = self.objects, found, version
        for key in {*before, *found}:
            if before.get(key) != found.get(key):
                self._on_event(found.get(key) or before[key])

    async def _events(self) -> AsyncGenerator[Json, None]:
        seconds = int(300 + 300 * self._rand())
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        async with self._client.stream("GET", self._path, query=query) as reply:
            if reply.status != 200:
                raise refusal(reply.status, await reply.read(), self._client.endpoint.server)
            pending = bytearray()
            while True:
                try:
                    with anyio.fail_after(BOOKMARK_SILENCE):
                        chunk = await reply.content.readany()
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    raise unreachable(self._client.endpoint.server, error) from error
                if not chunk:
                    return
                pending += chunk
                for line in _lines(pending):
                    yield msgspec.json.decode(line)
                if len(pending) > LINE_LIMIT:
                    raise KubeConnectionError("the API server sent an event that is too large")

    def _take(self, event: Json) -> None:
        kind, item = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            code = int(item.get("code") or 500)
            raise refusal(code, msgspec.json.encode(item), self._client.endpoint.server)
        self._version = str((item.get("metadata") or {}).get("resourceVersion") or self._version)
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            if self.objects.pop(_key(item), None) is not None:
                self._on_event(item)
        elif kind in ("ADDED", "MODIFIED"):
            self.objects[_key(item)] = _slim(item)
            self._on_event(item)

    def _say(self, synced: bool, error: KrayneError | None) -> None:
        was = self.health
        if (was.synced, was.error and was.error.message) != (synced, error and error.message):
            self.health = WatchHealth(synced, error, time.time())
            self._on_health()


def _lines(pending: bytearray) -> Iterator[bytes]:
    """Take the whole lines out of the buffer."""
    end = pending.rfind(b"\n")
    if end < 0:
        return
    whole = bytes(pending[:end])
    del pending[: end + 1]
    for line in whole.split(b"\n"):
        if line.strip():
            yield line


def _key(item: Json) -> ObjectKey:
    metadata = item["metadata"]
    return str(metadata.get("namespace") or ""), str(metadata["name"])


def _slim(item: Json) -> Json:
    """Without managedFields: nothing reads them, and they are half of an object."""
    item["metadata"].pop("managedFields", None)
    return item
