"""Keeps clusters as declared: for each key, facts -> core.plan -> one write, and core.status -> what is shown.

One pass at a time per cluster, from the caches and never from the event that woke it. An error becomes the cluster's
problem and is retried with backoff; an unknown one freezes all writes, and statuses go on.
"""

import logging
import random
import time
import traceback
from collections.abc import Callable, Collection, Mapping

import anyio
import msgspec

from kraynd.core.events import happenings
from kraynd.core.guards import FOREIGN, NONE, OURS, Ownership, ownership
from kraynd.core.manifest import ImageChoice, recorded_image, template_hashes
from kraynd.core.model import ClusterKey, Json
from kraynd.core.nudging import lacks_head, nudge
from kraynd.core.plan import NOTHING_DECLARED, ClusterMemory, Inputs, Snapshot
from kraynd.core.pods import uid_of
from kraynd.core.status import Facts, Status, assess
from kraynd.core.trouble import note_heads
from kraynd.course import (
    CACHE_LAG,
    EVENTS_EVERY,
    EVENTS_SLOWEST,
    Build,
    ClusterRecords,
    Course,
    ReconciledWorld,
    ReconcileSettings,
    Waiter,
)
from kraynd.workqueue import KeyedQueue
from kraynd.writes import carry_out
from krayne.errors import ClusterTimeoutError, KrayneError

__all__ = ["ClusterState", "ReconcileSettings", "Reconciler"]

log = logging.getLogger(__name__)

PARALLEL = 8  # clusters worked on at once: enough to hide the API's latency, too few to look like an attack
RESYNC = 300.0  # seconds after which every cluster is looked at although nothing changed
AFTER_FREEZE = 10.0  # seconds to the next look at the cluster that met an unknown error
MOST_EVENTS = 20  # shown per cluster
NOT_CONNECTED = "not connected to Kubernetes"
# Errors that say that what is declared can never be created as it is.
_REFUSALS = frozenset({"config-invalid", "rejected", "usage"})


class ClusterState(msgspec.Struct, frozen=True):
    """What is known and shown of one cluster."""

    key: ClusterKey
    declared: bool
    source: str
    ownership: str
    owner: str
    status: Status
    problem: str = ""
    image: ImageChoice | None = None
    events: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Reconciler:
    """Owns the statuses and every write to RayClusters."""

    def __init__(
        self,
        *,
        memory: ClusterRecords,
        build: Build,
        settings: ReconcileSettings,
        on_change: Callable[[ClusterKey], None],
        wall: Callable[[], float] = time.time,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._memory = memory
        self._build = build
        self._settings = settings
        self._on_change = on_change
        self._wall = wall
        self._rand = rand
        self._world: ReconciledWorld | None = None
        self._absence = NOT_CONNECTED
        self._world_id = ""
        self._snapshot = NOTHING_DECLARED
        self._courses: dict[ClusterKey, Course] = {}
        self._queue: KeyedQueue[ClusterKey] = KeyedQueue(self._pass, parallel=PARALLEL)
        self.statuses: dict[ClusterKey, ClusterState] = {}
        self.frozen = ""
        self.passes = self.conflicts = 0

    # What the outside says. Nothing here waits.

    def attach(self, world: ReconciledWorld | None, why: str = NOT_CONNECTED) -> None:
        """The world to act on from now; None (and `why`) while there is none."""
        self._world, self._absence = world, why
        self.wake()

    def declare(self, snapshot: Snapshot) -> None:
        """The newest whole reading of the cluster files."""
        before, self._snapshot = self._snapshot, snapshot
        for key in {*before.clusters, *snapshot.clusters}:
            if before.clusters.get(key) != snapshot.clusters.get(key):
                course = self._course(key)
                course.retry_at = 0.0
                course.writes.clear()  # what was written before was undone by this declaration, not by others
                self.wake(key)
        rest = (before.problems, before.healthy, before.marker, before.missing)
        if rest != (snapshot.problems, snapshot.healthy, snapshot.marker, snapshot.missing):
            self.wake()

    def set_prune(self, prune: bool) -> None:
        """Whether clusters whose file is gone are deleted, from the next look at them."""
        self._settings = msgspec.structs.replace(self._settings, prune=prune)
        self.wake()

    def wake(self, key: ClusterKey | None = None) -> None:
        """Look again: at one cluster, or at all."""
        for one in self._keys() if key is None else (key,):
            if (course := self._courses.get(one)) is not None:
                course.moved.set()
            self._queue.add(one)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._queue.run)
            while True:
                await anyio.sleep(RESYNC)
                self.wake()

    async def settle(self, key: ClusterKey, timeout: float) -> ClusterState:
        """The state after the next whole pass over `key`. Raises what its write met, or ClusterTimeoutError."""
        course, waiter = self._course(key), Waiter()
        course.waiters.append(waiter)
        course.retry_at = 0.0
        self.wake(key)
        with anyio.move_on_after(timeout):
            await waiter.done.wait()
        if not waiter.done.is_set():
            if waiter in course.waiters:
                course.waiters.remove(waiter)
            raise ClusterTimeoutError(
                f"cluster {key} was not dealt with within {timeout:g} seconds", hint="krayne status", retryable=True
            )
        if waiter.error is not None:
            raise waiter.error
        return self.statuses.get(key) or self._nothing(key)

    def _nothing(self, key: ClusterKey) -> ClusterState:
        status = Status(phase="absent", reason="it does not exist in Kubernetes", since=self._wall())
        return ClusterState(key, False, "", NONE, "", status)

    def _keys(self) -> set[ClusterKey]:
        keys = {*self._snapshot.clusters, *self.statuses}
        if self._world is not None:
            keys |= set(self._world.clusters)
            keys |= set(self._memory.clusters_of(self._world.id)) if self._world.id else set()
        return keys

    def _course(self, key: ClusterKey) -> Course:
        return self._courses.setdefault(key, Course())

    # One pass over one cluster.

    async def _pass(self, key: ClusterKey) -> None:
        self.passes += 1
        self._enter_world()
        course = self._course(key)
        waiters, course.waiters = course.waiters, []
        error: KrayneError | None = None
        try:
            error = await self._reconcile(key, course)
            self._show(key, course)
            _answer(waiters, error)
            if await self._ask_events(key, course):
                self._show(key, course)
        except Exception as unknown:  # the containment wall of design rule 9: writes stop, the daemon goes on
            log.exception("the reconciler met an unknown error and stops writing")
            error = self._freeze(key, unknown)
        finally:
            self.conflicts += course.conflicts
            course.conflicts = 0
            _answer(waiters, error)

    def _enter_world(self) -> None:
        """Another world: what was seen of the clusters in the last one says nothing here."""
        world = self._world.id if self._world is not None and self._world.id else ""
        if not world or world == self._world_id:
            return
        if self._world_id:
            for course in self._courses.values():
                course.leave_world()
            for key in [key for key in self.statuses if key not in self._snapshot.clusters]:
                del self.statuses[key]
                self._on_change(key)
        self._world_id = world

    def _freeze(self, key: ClusterKey, unknown: Exception) -> KrayneError:
        last = traceback.extract_tb(unknown.__traceback__)[-1]
        where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        self.frozen = f"writes are frozen: {type(unknown).__name__} at {where} while looking at {key}"
        self._queue.add_after(key, AFTER_FREEZE)
        self._on_change(key)
        return self._frozen_error()

    def _frozen_error(self) -> KrayneError:
        return KrayneError(self.frozen, hint="forwards stay up; restart the daemon, and report this")

    async def _reconcile(self, key: ClusterKey, course: Course) -> KrayneError | None:
        """Plan and write. Returns what went wrong, which is shown and retried."""
        world = self._world
        if self.frozen:
            return self._frozen_error()
        if world is None or not world.id:
            return None
        if key in self._snapshot.clusters and _is_whole(world, key):
            course.seen_world = world.id
        try:
            again = await carry_out(lambda: self._inputs(key, course, world), course, world, self._memory)
        except KrayneError as error:
            again = self._failed(course, error)
            self._queue.add_after(key, again)
            return error
        if again is not None:
            self._queue.add_after(key, again)
        return course.error

    def _failed(self, course: Course, error: KrayneError) -> float:
        """Seconds to the next try. Being woken while backing off is no further failure."""
        now = anyio.current_time()
        if now >= course.retry_at:
            course.failures += 1
            course.retry_at = now + self._settings.backoff.delay(course.failures, self._rand())
        course.error = error
        return course.retry_at - now

    def _inputs(self, key: ClusterKey, course: Course, world: ReconciledWorld) -> Inputs:
        world_id = world.id or ""
        memory, live = self._memory.cluster(world_id, key), course.live(key, world)
        snapshot, declared = self._snapshot, self._snapshot.clusters.get(key)
        missed = snapshot.missing.get(key)
        missing_for = None if missed is None else anyio.current_time() - missed
        manifest, image = None, memory.image
        if declared is not None and not memory.delete_requested:
            manifest, image = self._build(declared, memory, live)
        elif missing_for is not None and self._settings.prune and missing_for < self._settings.grace:
            self._queue.add_after(key, self._settings.grace - missing_for)
        pods = world.pods_of(key)
        records = self._memory.clusters_of(world_id) if declared is None else {}
        known = [one for one, record in records.items() if record.uid]
        return Inputs(
            key=key, owner=self._settings.owner, memory=memory, live=live, pods=pods, declared=declared,
            manifest=manifest, image=image, synced=_is_whole(world, key), world=world_id, memory_world=world_id,
            seen_world=course.seen_world, healthy=snapshot.healthy, marker=snapshot.marker,
            broken_files=len(snapshot.problems), missing_for=missing_for, known=len(known),
            missing=sum(one not in snapshot.clusters for one in known), prune=self._settings.prune,
            grace=self._settings.grace, nudge=self._nudge(key, course, live, pods),
        )  # fmt: skip

    def _nudge(self, key: ClusterKey, course: Course, live: Json | None, pods: tuple[Json, ...]) -> str:
        """What to tell an operator that overlooks a missing head; comes again when there is more to tell."""
        if not lacks_head(live, pods):
            course.headless_since = None
            return ""
        wall = self._wall()
        course.headless_since = wall if course.headless_since is None else course.headless_since
        word, again = nudge(course.headless_since, wall)
        if again is not None:
            self._queue.add_after(key, again)
        return word

    # What is shown.

    def _show(self, key: ClusterKey, course: Course) -> None:
        world = self._world
        live = None if world is None else course.live(key, world)
        pods = () if world is None else world.pods_of(key)
        gone = () if world is None else world.departed(key)
        course.heads = note_heads(course.heads, (*gone, *pods), self._wall())
        self._publish(key, course, self._state(key, course, live, pods))

    def _state(self, key: ClusterKey, course: Course, live: Json | None, pods: tuple[Json, ...]) -> ClusterState:
        world, declared, previous = self._world, self._snapshot.clusters.get(key), self.statuses.get(key)
        memory = self._memory.cluster(self._world_id, key) if self._world_id else ClusterMemory()
        whose = ownership(live, memory, self._settings.owner)
        problem = course.error.message if course.error is not None else ""
        facts = Facts(
            live=live, pods=pods, events=course.events, declared=declared is not None,
            invalid=problem if course.error is not None and course.error.kind in _REFUSALS else "",
            held=problem or "; ".join(course.holds), born=memory.born,
            condition="connecting" if world is None else world.state.condition,
            trouble=self._absence if world is None else _trouble(world, key),
            synced=world is not None and _is_whole(world, key), heads=course.heads, changed=memory.changed,
            hashes=_hashes(whose, memory, live), previous=None if previous is None else previous.status,
        )  # fmt: skip
        status = assess(facts, wall=self._wall())
        if live is None and status.phase == "unreachable" and previous is not None:
            whose = Ownership(previous.ownership, previous.owner)  # the last known facts are kept
        if not problem and declared is not None:
            problem = declared.problem or whose.says
        return ClusterState(
            key=key,
            declared=declared is not None,
            source="" if declared is None else declared.source,
            ownership=whose.kind,
            owner=whose.owner,
            status=status,
            problem=problem,
            image=memory.image or (None if live is None else recorded_image(live)),
            events=tuple(str(one) for one in course.events if one.warning)[:MOST_EVENTS],
            notes=tuple(dict.fromkeys((*course.notes, *course.holds))),
        )

    def _publish(self, key: ClusterKey, course: Course, state: ClusterState) -> None:
        before = self.statuses.get(key)
        if self._is_over(key, state) and not course.waiters:
            self._courses.pop(key, None)
            if self.statuses.pop(key, None) is not None:
                self._on_change(key)
            return
        if state.status.next_check is not None:
            self._queue.add_after(key, state.status.next_check)
        if course.written is not None:
            self._queue.add_after(key, CACHE_LAG)
        self.statuses[key] = state
        if before is None or _steady(before) != _steady(state):
            self._on_change(key)

    def _is_over(self, key: ClusterKey, state: ClusterState) -> bool:
        """Whether there is nothing left to show: no file, no object, nothing to be done about it."""
        gone = state.status.phase == "absent" and state.ownership == NONE and not state.declared
        memory = self._memory.cluster(self._world_id, key) if self._world_id else ClusterMemory()
        return gone and not memory.uid and not memory.delete_requested

    async def _ask_events(self, key: ClusterKey, course: Course) -> bool:
        """Events explain what pods do not; asked seldom, and only for what is not well. True when they told more."""
        world, state = self._world, self.statuses.get(key)
        live = None if world is None else world.clusters.get(key)
        if world is None or live is None or state is None or world.state.condition != "ready" or not _is_unwell(state):
            return False
        now = anyio.current_time()
        if now < course.events_due:
            self._queue.add_after(key, course.events_due - now)
            return False
        told = await self._read_events(world, key, course, (uid_of(live), *map(uid_of, world.pods_of(key))))
        wait = EVENTS_SLOWEST if state.ownership == FOREIGN else EVENTS_EVERY if told else course.events_every
        course.events_every = min(wait * 2, EVENTS_SLOWEST)
        course.events_due = anyio.current_time() + wait
        self._queue.add_after(key, wait)
        return told

    async def _read_events(
        self, world: ReconciledWorld, key: ClusterKey, course: Course, uids: Collection[str]
    ) -> bool:
        """Without the right to read events a status is the poorer, not wrong."""
        try:
            found = happenings(await world.events_for(key.namespace, uids))
        except KrayneError as error:
            log.info("no events of %s: %s", key, error.kind)
            return False
        told, course.events = found != course.events, found
        return told


def _answer(waiters: list[Waiter], error: KrayneError | None) -> None:
    for waiter in waiters:
        if not waiter.done.is_set():
            waiter.error = error
            waiter.done.set()


def _hashes(whose: Ownership, memory: ClusterMemory, live: Json | None) -> Mapping[str, str]:
    """The template hashes the next pods get; nothing can be said of clusters that are not ours."""
    return template_hashes(memory.last_applied or live or {}) if whose.kind == OURS else {}


def _is_unwell(state: ClusterState) -> bool:
    """Whether events could tell more: not ready, or workers that are not there."""
    if state.status.phase in {"pending", "starting", "degraded", "invalid"}:
        return True
    return state.status.phase == "ready" and any(group.reason for group in state.status.groups)


def _steady(state: ClusterState) -> ClusterState:
    """The state without what changes by itself."""
    return msgspec.structs.replace(state, status=msgspec.structs.replace(state.status, next_check=None))


def _is_whole(world: ReconciledWorld, key: ClusterKey) -> bool:
    """Whether a cluster that is not in the caches is not there (D7)."""
    return world.synced and world.sees(key.namespace)


def _trouble(world: ReconciledWorld, key: ClusterKey) -> str:
    if world.synced and not world.sees(key.namespace):
        return f"the namespace {key.namespace} is out of sight: this user cannot list RayClusters and pods there"
    return world.state.reason
