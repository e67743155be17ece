"""A small Kubernetes in memory for the reconciler: objects with versions, conflicts, a cache that lags on purpose."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import anyio
import msgspec

from kraynd.core.model import ClusterKey, Json
from kraynd.core.plan import ClusterMemory
from krayne.errors import ClusterAlreadyExistsError, ClusterNotFoundError, ConflictError, KrayneError
from tests.core.jsonpatch import TestFailedError, apply_patch
from tests.core.rays import live


class Condition(msgspec.Struct, frozen=True):
    condition: str = "ready"
    reason: str = ""


class SmallWorld:
    """`lag`: the cache shows writes only after `deliver`."""

    def __init__(self, world: str = "world-a") -> None:
        self.id: str | None = world
        self.state = Condition()
        self.synced = True
        self.hidden: set[str] = set()
        self.lag = False
        self.stored: dict[ClusterKey, Json] = {}
        self.clusters: dict[ClusterKey, Json] = {}
        self.pods: dict[ClusterKey, tuple[Json, ...]] = {}
        self.gone: dict[ClusterKey, tuple[Json, ...]] = {}  # heads, until asked for
        self.usual_pods: tuple[Json, ...] = ()  # of every other cluster
        self.events: tuple[Json, ...] = ()
        self.event_calls: list[float] = []
        self.writes: list[tuple[str, Any]] = []
        self.fail: list[Exception] = []
        self.on_change: Callable[[ClusterKey | None], None] = lambda _: None
        self.before_write: Callable[[], None] = lambda: None
        self.serial = 100

    # The server's side

    def sees(self, namespace: str) -> bool:
        return namespace not in self.hidden

    def put(self, thing: Json) -> Json:
        self.serial += 1
        stored = copy.deepcopy(thing)
        stored["metadata"]["resourceVersion"] = str(self.serial)
        key = ClusterKey(stored["metadata"]["namespace"], stored["metadata"]["name"])
        self.stored[key] = stored
        answer = copy.deepcopy(stored)
        self._changed()
        return answer

    def drop(self, key: ClusterKey) -> None:
        self.stored.pop(key, None)
        self._changed()

    def meddle(self, key: ClusterKey, change: Callable[[Json], None]) -> None:
        thing = copy.deepcopy(self.stored[key])
        change(thing)
        self.put(thing)

    def deliver(self) -> None:
        for key in {*self.stored, *self.clusters}:
            if key in self.stored:
                self.clusters[key] = self.stored[key]
            else:
                self.clusters.pop(key, None)
            self.on_change(key)

    def _changed(self) -> None:
        if not self.lag:
            self.deliver()

    # The client's side

    def pods_of(self, key: ClusterKey) -> tuple[Json, ...]:
        return self.pods.get(key, self.usual_pods)

    def departed(self, key: ClusterKey) -> tuple[Json, ...]:
        return self.gone.pop(key, ())

    async def events_for(self, namespace: str, uids: Collection[str]) -> tuple[Json, ...]:
        assert namespace
        self.event_calls.append(anyio.current_time())
        await anyio.sleep(0.01)
        return tuple(event for event in self.events if event["involvedObject"]["uid"] in uids)

    async def create(self, manifest: Json) -> Json:
        await self._begin("create", manifest)
        key = ClusterKey(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        if key in self.stored:
            raise ClusterAlreadyExistsError(f"{key} exists")
        return self.put(live(manifest, uid=f"uid-{self.serial}"))

    async def patch(self, key: ClusterKey, ops: Sequence[Json]) -> Json:
        await self._begin("patch", list(ops))
        if key not in self.stored:
            raise ClusterNotFoundError(f"no {key}")
        try:
            return self.put(apply_patch(self.stored[key], ops))
        except TestFailedError as error:
            raise ConflictError(f"{key} was changed") from error

    async def delete(self, key: ClusterKey, *, uid: str, resource_version: str | None) -> None:
        await self._begin("delete", (uid, resource_version))
        metadata = self.stored[key]["metadata"] if key in self.stored else {}
        if not metadata:
            raise ClusterNotFoundError(f"no {key}")
        if metadata["uid"] != uid or resource_version not in (None, metadata["resourceVersion"]):
            raise ConflictError(f"{key} was changed")
        self.drop(key)

    async def _begin(self, kind: str, what: Any) -> None:
        await anyio.sleep(0.01)
        self.before_write()
        self.writes.append((kind, copy.deepcopy(what)))
        if self.fail:
            raise self.fail.pop(0)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.writes]


class Records:
    """The memory, with every version of it that was on disk."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, ClusterKey], ClusterMemory] = {}
        self.log: list[ClusterMemory | None] = []
        self.before_put: Callable[[], None] = lambda: None

    def cluster(self, world: str, key: ClusterKey) -> ClusterMemory:
        return self.kept.get((world, key), ClusterMemory())

    def clusters_of(self, world: str) -> Mapping[ClusterKey, ClusterMemory]:
        return {key: memory for (other, key), memory in self.kept.items() if other == world}

    async def put_cluster(self, world: str, key: ClusterKey, memory: ClusterMemory | None) -> None:
        self.before_put()
        self.log.append(memory)
        if memory is None:
            self.kept.pop((world, key), None)
        else:
            self.kept[(world, key)] = memory
        await anyio.sleep(0.001)


def forbidden(text: str = "not allowed") -> KrayneError:
    return KrayneError(text, kind="forbidden")
