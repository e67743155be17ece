"""List and watch: one cache of one resource, kept true through every kind of outage.

Resumes by resourceVersion with bookmarks, lists again after 410 and keeps the old cache until the new list is whole.
An error is never an empty list. Asks at most about once a second while failing.
"""

import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import aiohttp
import anyio
import msgspec

from kraynd.core.backoff import Backoff
from kraynd.core.model import Json
from kraynd.kube.client import GoneError, KubeClient, UnreachedError, refusal, unreachable
from krayne.errors import KrayneError, KubeConnectionError

PAGE = 500  # objects a list request asks for
LINE_LIMIT = 16 * 1024 * 1024  # bytes of one event; etcd's own limit is 1.5 MiB an object
GONE_PATIENCE = 3  # lists in a row that may be outdated before they are done, until that is said as trouble
ObjectKey = tuple[str, str]


class WatchSettings(msgspec.Struct, frozen=True):
    """Paces and deadlines, in seconds.

    `unreached` paces what never arrived: asking costs the server nothing, and status must be true soon after it is
    back. `refused` paces what it answered. A watch that lived `settled` makes the next failure the first again.
    `silence`: the server sends a bookmark each minute, so a longer silence is looked into, by opening the watch anew.
    `lifetime`: what the server is asked to end it after, and as much again at random, so that restarts spread.
    """

    unreached: Backoff = Backoff(base=1.0, cap=4.0)
    refused: Backoff = Backoff(base=1.0, cap=30.0)
    settled: float = 30.0
    silence: float = 75.0
    lifetime: float = 300.0


DEFAULTS = WatchSettings()


class WatchHealth(msgspec.Struct, frozen=True):
    """`synced`: the cache was whole when last heard of, and the watch is open. `since`: wall seconds."""

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
        settings: WatchSettings = DEFAULTS,
    ) -> None:
        self._client = client
        self._path = path
        self._query = {"labelSelector": selector} if selector else {}
        self._on_event = on_event
        self._on_health = on_health
        self._rand = rand
        self._settings = settings
        self._version = ""
        self._outdated = 0
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
            error: KrayneError | None = None
            try:
                with anyio.CancelScope() as scope:
                    self._scope = scope
                    await self._once()
            except KrayneError as met:
                error = met
            finally:
                self._scope = None
            self._judge(error)
            self.restarts += 1
            lived = anyio.current_time() - started
            failures = 1 if lived > self._settings.settled else failures + 1
            with anyio.move_on_after(self._pause(error, failures, lived)):
                await self._woken.wait()
                failures = 0
            self._woken = anyio.Event()

    def _judge(self, error: KrayneError | None) -> None:
        """What an end of list and watch means for the next start. The cache stays as it is."""
        if error is None:
            return
        if not isinstance(error, UnreachedError):
            # Whatever the server did not like about resuming, a list has not: it is always right.
            self._version = ""
        if isinstance(error, GoneError) and self._outdated < GONE_PATIENCE:
            self._outdated += 1
            self._say(False, None)
        else:
            self._say(False, error)

    def _pause(self, error: KrayneError | None, failures: int, lived: float) -> float:
        if error is None and lived >= self._settings.refused.base:
            return 0.0
        curve = self._settings.unreached if isinstance(error, UnreachedError) else self._settings.refused
        return curve.delay(failures, self._rand())

    async def _once(self) -> None:
        if not self._version:
            await self._list()
        async with aclosing(self._events()) as events:
            async for event in events:
                self._take(event)

    async def _list(self) -> None:
        found: dict[ObjectKey, Json] = {}
        query, version = {"limit": str(PAGE), **self._query}, ""
        while True:
            page = await self._client.get(self._path, **query)
            metadata, items = page.get("metadata"), page.get("items") or []
            if not isinstance(metadata, dict) or not str(page.get("kind")).endswith("List"):
                raise _nonsense("a list")  # and never an empty one
            version = str(metadata.get("resourceVersion") or version)
            found |= dict(map(_object, items))
            if not metadata.get("continue"):
                break
            query["continue"] = str(metadata["continue"])
        before, self.objects, self._version = self.objects, found, version
        for key in {*before, *found}:
            if before.get(key) != found.get(key):
                self._on_event(found.get(key) or before[key])

    async def _events(self) -> AsyncGenerator[Json, None]:
        seconds = int(self._settings.lifetime * (1 + self._rand()))
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        async with self._client.stream("GET", self._path, query=query) as reply:
            if reply.status != HTTPStatus.OK:
                raise refusal(reply.status, await self._client.read(reply), self._client.endpoint.server)
            self._outdated = 0
            self._say(True, None)
            pending = bytearray()
            while chunk := await self._chunk(reply):
                pending += chunk
                if b"\n" in chunk:
                    for line in _lines(pending):
                        yield _event(line)
                if len(pending) > LINE_LIMIT:
                    raise _nonsense("an event of a possible size")

    async def _chunk(self, reply: aiohttp.ClientResponse) -> bytes:
        """Some bytes of the watch; none at its end, and when there was silence for too long."""
        try:
            with anyio.move_on_after(self._settings.silence):
                return await reply.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self._client.endpoint.server, error) from error
        return b""

    def _take(self, event: Json) -> None:
        kind, item = event.get("type"), event.get("object")
        if not isinstance(item, dict):
            raise _nonsense("an event")
        if kind == "ERROR":
            raise refusal(_code(item), msgspec.json.encode(item), self._client.endpoint.server)
        if kind == "BOOKMARK":
            self._version = str((item.get("metadata") or {}).get("resourceVersion") or self._version)
            return
        key, item = _object(item)
        version = str(item["metadata"].get("resourceVersion") or self._version)
        if _is_before(version, self._version):
            return  # sent twice or out of order: what it says is known, or was true once
        self._version = version
        if kind == "DELETED":
            if self.objects.pop(key, None) is not None:
                self._on_event(item)
        elif kind in ("ADDED", "MODIFIED") and item != self.objects.get(key):
            self.objects[key] = item
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


def _nonsense(wanted: str) -> KubeConnectionError:
    return KubeConnectionError(
        f"the API server answered with something that is not {wanted}",
        hint="is there a proxy in between?",
        retryable=True,
    )


def _event(line: bytes) -> Json:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise _nonsense("an event") from None


def _code(status: Json) -> int:
    found = status.get("code")
    return found if isinstance(found, int) else HTTPStatus.INTERNAL_SERVER_ERROR


def _object(item: Any) -> tuple[ObjectKey, Json]:
    """Key and object, without managedFields: nothing reads them, and they are half of an object."""
    metadata = item.get("metadata") if isinstance(item, dict) else None
    if not isinstance(metadata, dict) or not metadata.get("name"):
        raise _nonsense("an object")
    metadata.pop("managedFields", None)
    return (str(metadata.get("namespace") or ""), str(metadata["name"])), item


def _is_before(version: str, other: str) -> bool:
    """Versions of one resource are ordered numbers (KEP-5504); where a server has others, nothing is known."""
    return version.isdigit() and other.isdigit() and int(version) < int(other)
