"""What a reconciler's passes over one cluster share: the seams to the world and the memory, and the cluster's course.

A course holds only what may be lost on a restart without harm; what must survive is in the memory.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import anyio
import msgspec

from kraynd.core.backoff import Backoff
from kraynd.core.events import Happening
from kraynd.core.manifest import ImageChoice, Owner
from kraynd.core.model import ClusterKey, Json
from kraynd.core.plan import PRUNE_GRACE, ClusterMemory, Declared
from kraynd.core.trouble import HeadSeen
from krayne.errors import KrayneError

CACHE_LAG = 10.0  # seconds our own write stands in for a cache that has not seen it yet
EVENTS_EVERY = 5.0  # seconds between two event lists of a cluster that is not well...
EVENTS_SLOWEST = 60.0  # ...doubling to this while they tell nothing new, and for clusters of others


class WorldCondition(Protocol):
    """What is read of a world's state."""

    @property
    def condition(self) -> str:
        """`ready`, or what is in the way."""

    @property
    def reason(self) -> str:
        """The same in words."""


class ReconciledWorld(Protocol):
    """What reconciling needs of `kube.world.World`."""

    @property
    def id(self) -> str | None:
        """The Kubernetes cluster's identity; None before first contact."""

    @property
    def state(self) -> WorldCondition:
        """How the connection stands."""

    @property
    def synced(self) -> bool:
        """Whether the caches are whole since the last reconnect."""

    def sees(self, namespace: str) -> bool:
        """Whether what is not in the caches is not there."""

    @property
    def clusters(self) -> Mapping[ClusterKey, Json]:
        """The live RayClusters."""

    def pods_of(self, key: ClusterKey) -> tuple[Json, ...]:
        """A cluster's pods."""

    def departed(self, key: ClusterKey) -> tuple[Json, ...]:
        """Its heads that went since this was last asked, as last seen."""

    async def events_for(self, namespace: str, uids: Collection[str]) -> tuple[Json, ...]:
        """The events about these objects."""

    async def create(self, manifest: Json) -> Json:
        """POST; the object as stored."""

    async def patch(self, key: ClusterKey, ops: Sequence[Json]) -> Json:
        """JSON patch; the object as stored. A failed `test` is a ConflictError."""

    async def delete(self, key: ClusterKey, *, uid: str, resource_version: str | None) -> None:
        """DELETE with preconditions."""


class ClusterRecords(Protocol):
    """What reconciling needs of `local.memory.MemoryStore`."""

    def cluster(self, world: str, key: ClusterKey) -> ClusterMemory:
        """A cluster's memory; the empty one for an unknown cluster."""

    def clusters_of(self, world: str) -> Mapping[ClusterKey, ClusterMemory]:
        """Every memory of a world."""

    async def put_cluster(self, world: str, key: ClusterKey, memory: ClusterMemory | None) -> None:
        """Replace (or drop) a memory; on disk when it returns."""


Build = Callable[[Declared, ClusterMemory, Json | None], tuple[Json, ImageChoice]]


class ReconcileSettings(msgspec.Struct, frozen=True):
    """Who we are, and what we may do. `grace` in seconds."""

    owner: Owner
    prune: bool = False
    grace: float = PRUNE_GRACE
    backoff: Backoff = Backoff(base=1.0, cap=120.0)


class Written(msgspec.Struct, frozen=True):
    """The outcome of our last write, in place of a cache that still shows one of the `older` versions."""

    older: frozenset[str | None]
    outcome: Json
    until: float


class Waiter:
    """One `settle`: answered by the first pass that starts after it."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: KrayneError | None = None


class Course:
    """What one cluster's passes hand on to the next. Times are monotonic."""

    def __init__(self) -> None:
        self.heads: tuple[HeadSeen, ...] = ()
        self.headless_since: float | None = None  # wall seconds
        self.events: tuple[Happening, ...] = ()
        self.events_due = 0.0
        self.events_every = EVENTS_EVERY
        self.seen_world = ""
        self.holds: tuple[str, ...] = ()
        self.conflicts = 0  # met since the last pass ended
        self.notes: tuple[str, ...] = ()
        self.error: KrayneError | None = None
        self.failures = 0
        self.retry_at = 0.0
        self.writes: list[tuple[float, object]] = []
        self.written: Written | None = None
        self.moved = anyio.Event()
        self.waiters: list[Waiter] = []

    def leave_world(self) -> None:
        """Forget what was seen in another world; where it was last declared stays, as guard D6 needs it."""
        seen, waiters = self.seen_world, self.waiters
        self.__init__()  # type: ignore[misc]
        self.seen_world, self.waiters = seen, waiters

    def live(self, key: ClusterKey, world: ReconciledWorld) -> Json | None:
        """The cached object, or the outcome of our own write while the cache lags behind it."""
        cached, written = world.clusters.get(key), self.written
        if written is not None and version_of(cached) in written.older and anyio.current_time() < written.until:
            return written.outcome
        self.written = None
        return cached

    def wrote(self, planned_from: Json | None, outcome: Json) -> None:
        """A write of ours went in."""
        older = frozenset({version_of(planned_from)})
        if self.written is not None:
            older |= self.written.older
        self.written = Written(older, outcome, anyio.current_time() + CACHE_LAG)


def version_of(thing: Json | None) -> str | None:
    """The object's resourceVersion; None for no object."""
    return None if thing is None else str(thing["metadata"].get("resourceVersion"))
