"""What the user wants, as the planner reads it: the declared files and what is remembered of each cluster.

The law: losing memory may only make us do less. Requests (delete, adopt, confirm) live in the memory, so that they
survive a crash, and each is spent once.
"""

from collections.abc import Mapping

import msgspec

from kraynd.core.manifest import ImageChoice
from kraynd.core.model import ClusterKey, Json
from kraynd.core.text import duration
from krayne.config import ClusterConfig


class Declared(msgspec.Struct, frozen=True):
    """A cluster a file declares. `problem`: the file is broken now, and `config` is its last good one."""

    key: ClusterKey
    config: ClusterConfig
    source: str
    problem: str = ""


class FileProblem(msgspec.Struct, frozen=True):
    """What is wrong with one file; `key` where it is known which cluster it meant."""

    source: str
    key: ClusterKey | None
    message: str
    hint: str


class Snapshot(msgspec.Struct, frozen=True):
    """The clusters folder as last seen whole. `missing`: monotonic time each file seen by this run was first missed."""

    clusters: Mapping[ClusterKey, Declared]
    problems: tuple[FileProblem, ...]
    healthy: bool
    marker: bool
    missing: Mapping[ClusterKey, float]


NOTHING_DECLARED = Snapshot(clusters={}, problems=(), healthy=False, marker=False, missing={})


class ClusterMemory(msgspec.Struct, frozen=True):
    """What is remembered of one cluster in one world.

    `applying` is written before a change goes out and becomes `last_applied` once it is in, so that a crash between
    the two forgets no field of ours. `retiring`: groups being drained. `changed`: per group, the template fields
    changed since its oldest pods were made. `unkept`: fields the API server would not keep, and the value it refused.
    `born`: why the cluster was created again. `idle_seconds`: suspended after so long without use, 0 never.
    """

    uid: str = ""
    last_applied: Json = {}
    applying: Json = {}
    image: ImageChoice | None = None
    ours: bool = False
    adopted: bool = False
    delete_requested: bool = False
    delete_force: bool = False
    confirmed_prune: bool = False
    forwards_off: bool = False
    off_services: tuple[str, ...] = ()
    extra_ports: tuple[tuple[int, int], ...] = ()
    suspended: bool | None = None
    retiring: tuple[str, ...] = ()
    changed: dict[str, tuple[str, ...]] = {}
    unkept: dict[str, Json] = {}
    born: str = ""
    suspended_why: str = ""
    idle_seconds: int = 0

    @property
    def adopting(self) -> bool:
        """Whether the user asked to adopt whatever bears the name, and it has not been done yet."""
        return self.adopted and not self.uid


def asked_to_delete(memory: ClusterMemory, *, uid: str = "", force: bool = False) -> ClusterMemory:
    """The user's `delete`. `uid`: the object the user saw, for a cluster whose uid is not remembered.

    `force` drops the resourceVersion precondition, never the uid's.
    """
    return msgspec.structs.replace(memory, uid=memory.uid or uid, delete_requested=True, delete_force=force)


def asked_to_adopt(memory: ClusterMemory) -> ClusterMemory:
    """The user's `adopt`: take the object that bears the name now, whoever made it. Spent once."""
    return msgspec.structs.replace(memory, adopted=True, uid="", delete_requested=False, delete_force=False)


def asked_to_prune(memory: ClusterMemory, *, uid: str = "") -> ClusterMemory:
    """The user's `confirm`: the file is gone on purpose. `uid` as in `asked_to_delete`.

    A `delete` that met no object is spent: it must not lend its lesser guards to the object that is seen now.
    """
    requested = memory.delete_requested and bool(memory.uid)
    return msgspec.structs.replace(memory, uid=memory.uid or uid, delete_requested=requested, confirmed_prune=True)


def asked_to_create(memory: ClusterMemory) -> ClusterMemory:
    """The user's `create` or `apply`: whatever was asked to end this cluster before is void."""
    return msgspec.structs.replace(memory, delete_requested=False, delete_force=False, confirmed_prune=False, born="")


def remarks(memory: ClusterMemory, name: str) -> tuple[str, ...]:
    """What was decided about a cluster by command, for whoever looks at it."""
    found = (f"{memory.suspended_why}; krayne resume {name}",) if memory.suspended and memory.suspended_why else ()
    if memory.idle_seconds and not memory.suspended:
        found = (*found, f"suspended when idle for {duration(memory.idle_seconds)}")
    return found
