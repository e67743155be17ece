"""What travels for tending clusters: suspend, resume, events, differences, and a cluster's file."""

import msgspec

from krayne.messages.calls import ClientVersions, ClusterParams, GetParams


class EventsParams(GetParams, frozen=True, kw_only=True):
    """`known`: the state of an earlier answer; the answer then waits up to `wait_ms` for a newer one."""

    known: str = ""
    wait_ms: int = 0


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """One Kubernetes event of a cluster or of its pods. `at`: unix seconds of the last time, 0 unknown."""

    id: str
    at: float = 0.0
    warning: bool = False
    object: str = ""
    reason: str = ""
    text: str = ""
    count: int = 1


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """Oldest first. `state` names this answer, for `known`."""

    events: tuple[EventView, ...] = ()
    state: str = ""


class DiffParams(msgspec.Struct, frozen=True, kw_only=True):
    """A declared cluster by its name, or `text`: a cluster file that is not declared yet."""

    name: str = ""
    namespace: str | None = None
    text: str = ""
    source: str = ""
    client: ClientVersions = ClientVersions()


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """One field that differs. `op`: add, replace or remove; values are JSON texts, empty for none."""

    field: str
    op: str
    live: str = ""
    declared: str = ""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What the next write to a cluster would change. `exists` False: it would be created from `manifest` (YAML)."""

    name: str
    namespace: str
    exists: bool
    changes: tuple[FieldChange, ...] = ()
    manifest: str = ""


class ClusterSource(msgspec.Struct, frozen=True, kw_only=True):
    """The file that declares a cluster, to the letter."""

    name: str
    namespace: str
    source: str
    path: str
    text: str


class EditParams(ClusterParams, frozen=True, kw_only=True):
    """The file's new text, and what it was when the editing began."""

    text: str = ""
    was: str = ""


class IdleParams(ClusterParams, frozen=True, kw_only=True):
    """Suspend the cluster when nothing happened in it for so many seconds; 0: never."""

    seconds: int = 0
