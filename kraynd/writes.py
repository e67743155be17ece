"""The executor: plans one cluster until there is nothing to do, and carries each step out against its world.

Memory is on disk before a write that needs it and after one that changes it. A conflict means: look again. Never
forces, never repeats a write that somebody keeps undoing, never writes while backing off.
"""

import time
from collections.abc import Callable

import anyio
import msgspec

from kraynd.core.model import Json
from kraynd.core.plan import (
    ClusterMemory,
    Create,
    Delete,
    Inputs,
    Patch,
    Plan,
    plan,
    remembered,
    unkept_fields,
)
from kraynd.course import ClusterRecords, Course, ReconciledWorld, version_of
from krayne.errors import ClusterAlreadyExistsError, ClusterNotFoundError, ConflictError, KrayneError, error_for

STEPS = 10  # plans within one pass, conflicts included, before backing off: a busy operator bumps the version often
CONFLICT_WAIT = 2.0  # seconds to wait for the version a conflict told us of
SAME_WRITES = 5  # the same write this often within FIGHT_WINDOW: something else undoes it
FIGHT_WINDOW = 120.0

Action = Create | Patch | Delete
Look = Callable[[], Inputs]
# Each says that the object is not what the cache showed.
_LOOK_AGAIN = (ConflictError, ClusterAlreadyExistsError, ClusterNotFoundError)


async def carry_out(look: Look, course: Course, world: ReconciledWorld, records: ClusterRecords) -> float | None:
    """Plan and write until nothing is left, or nothing may be written yet.

    Returns the seconds after which to come again, None for when something changes. Raises the KrayneError a write or a
    request met. `course.error` stays as it was while nothing was tried.
    """
    course.notes = ()
    conflict: KrayneError | None = None
    for _ in range(STEPS):
        inputs = look()
        step = plan(inputs)
        course.holds, course.notes = step.holds, tuple(dict.fromkeys((*course.notes, *step.notes)))
        if step.action is None:
            course.error, course.failures = None, 0
            await save(records, inputs, inputs.memory, step.memory)
            _refuse(step)
            return None
        if world.state.condition != "ready":
            return None
        if (wait := _pause(course, step.action)) > 0:
            return wait
        try:
            await _act(inputs, course, world, records, step)
            course.writes.append((anyio.current_time(), _signature(step.action)))
        except _LOOK_AGAIN as error:
            conflict = error
            course.conflicts += 1
            await _until_moved(course, world, inputs)
    raise conflict or KrayneError("the cluster does not come to rest: something else keeps changing it")


def _refuse(step: Plan) -> None:
    if step.refusal is not None:
        raise error_for(step.refusal.kind, step.refusal.message, hint=step.refusal.hint)


def _pause(course: Course, action: Action) -> float:
    """Seconds until this may be written: backing off, or giving way to somebody who keeps undoing it."""
    now = anyio.current_time()
    if now < course.retry_at:
        return course.retry_at - now
    course.writes = [one for one in course.writes if now - one[0] <= FIGHT_WINDOW]
    signature = _signature(action)
    same = [at for at, written in course.writes if written == signature]
    if len(same) >= SAME_WRITES:
        what = f"our change of {', '.join(action.fields)}" if isinstance(action, Patch) else "what we do to it"
        course.error = KrayneError(f"something else keeps undoing {what}", kind="conflict")
        return same[0] + FIGHT_WINDOW - now + 0.1
    return 0.0


def _signature(action: Action) -> object:
    if isinstance(action, Patch):
        return [one for one in action.ops if one["path"] != "/metadata/resourceVersion"]
    return type(action).__name__


async def _act(inputs: Inputs, course: Course, world: ReconciledWorld, records: ClusterRecords, step: Plan) -> None:
    """One write: memory to disk, the request, memory to disk."""
    await save(records, inputs, inputs.memory, step.memory)
    before, action = step.memory or ClusterMemory(), step.action
    if isinstance(action, Delete):
        await world.delete(inputs.key, uid=action.uid, resource_version=action.resource_version)
        course.wrote(inputs.live, _dying(inputs.live or {"metadata": {}}))
        await save(records, inputs, before, step.after)
        return
    if isinstance(action, Create):
        answer = await world.create(action.manifest)
    else:
        assert isinstance(action, Patch)
        answer = await world.patch(inputs.key, action.ops)
    course.wrote(inputs.live, answer)
    after = step.after or before
    await save(records, inputs, before, remembered(after, answer, unkept_fields(inputs, after, answer)))


async def save(records: ClusterRecords, inputs: Inputs, old: ClusterMemory, new: ClusterMemory | None) -> None:
    """Put what changed from `old` to `new` on disk; what others changed meanwhile (ports, requests) stays."""
    world, key = inputs.memory_world, inputs.key
    now = records.cluster(world, key)
    if new is None:
        if now in (old, inputs.memory) and now != ClusterMemory():
            await records.put_cluster(world, key, None)
        return
    names = [name for name in ClusterMemory.__struct_fields__ if getattr(old, name) != getattr(new, name)]
    changed = msgspec.structs.replace(now, **{name: getattr(new, name) for name in names})
    if changed != now:
        await records.put_cluster(world, key, changed)


async def _until_moved(course: Course, world: ReconciledWorld, inputs: Inputs) -> None:
    """After a conflict: wait until the cache shows another version than the one planned from."""
    course.written = None
    with anyio.move_on_after(CONFLICT_WAIT):
        while version_of(world.clusters.get(inputs.key)) == version_of(inputs.live):
            course.moved = anyio.Event()
            await course.moved.wait()


def _dying(live: Json) -> Json:
    """The object as it is once its deletion is accepted."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {**live, "metadata": {**live["metadata"], "deletionTimestamp": stamp}}
