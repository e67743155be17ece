"""Whose a cluster is, and the guards D1-D8 of every deletion, as tables so that a test can take each away.

Deleting is the only unforgivable act: each guard asks for positive evidence, and absence of evidence refuses. Pure.
"""

from collections.abc import Callable, Mapping

import msgspec

from kraynd.core.intent import ClusterMemory
from kraynd.core.manifest import HOME_ID_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL, OWNER_ANNOTATION, Owner
from kraynd.core.model import Json
from kraynd.core.pods import name_of, uid_of

OURS, FOREIGN, UNOWNED, NONE = "ours", "foreign", "unowned", "none"


class Ownership(msgspec.Struct, frozen=True):
    """Whose the live object is: ours, foreign (another home's), unowned (nobody's), none (there is no object)."""

    kind: str
    owner: str = ""
    says: str = ""


class Evidence(msgspec.Struct, frozen=True):
    """What is known when a deletion is considered. Seconds are monotonic durations; worlds are their ids.

    `seen_world`: where this run last saw the cluster declared. `known` and `missing`: how many clusters of this world
    are ours, and how many of those have no file now.
    """

    live: Json
    memory: ClusterMemory
    home_id: str
    world: str
    memory_world: str
    seen_world: str
    synced: bool
    healthy: bool
    marker: bool
    broken_files: int
    missing_for: float | None
    grace: float
    known: int
    missing: int


Guard = Callable[[Evidence], bool]


def bears_our_marks(live: Json, home_id: str) -> bool:
    """Whether the object carries our label and this home's id."""
    metadata = live.get("metadata", {})
    labelled = (metadata.get("labels") or {}).get(MANAGED_BY_LABEL) == MANAGED_BY
    return labelled and bool(home_id) and (metadata.get("annotations") or {}).get(HOME_ID_ANNOTATION) == home_id


def ownership(live: Json | None, memory: ClusterMemory, owner: Owner) -> Ownership:
    """Whose the live object is. Our marks without a remembered uid are a create whose answer was lost (A2)."""
    if live is None:
        return Ownership(NONE)
    annotations = live.get("metadata", {}).get("annotations") or {}
    home_id = annotations.get(HOME_ID_ANNOTATION, "")
    if bears_our_marks(live, owner.home_id):
        if memory.uid in {"", uid_of(live)}:
            return Ownership(OURS)
        return Ownership(UNOWNED, says=f"replaced by an object we did not create: krayne adopt {name_of(live)}")
    if home_id and home_id != owner.home_id:
        other = str(annotations.get(OWNER_ANNOTATION) or "another home")
        return Ownership(FOREIGN, other, f"owned by {other}: krayne leaves it alone")
    return Ownership(UNOWNED, says=f"exists, not ours: krayne adopt {name_of(live)}")


def _home_is_healthy(evidence: Evidence) -> bool:
    return evidence.healthy and evidence.marker


def _missed_long_enough(evidence: Evidence) -> bool:
    return evidence.missing_for is not None and evidence.missing_for >= evidence.grace


def _no_mass_change(evidence: Evidence) -> bool:
    return evidence.missing < evidence.known and evidence.missing * 2 <= evidence.known


def _is_ours(evidence: Evidence) -> bool:
    known = bool(evidence.memory.uid) and evidence.memory.uid == uid_of(evidence.live)
    return known and bears_our_marks(evidence.live, evidence.home_id)


def _same_world(evidence: Evidence) -> bool:
    return bool(evidence.world) and evidence.world == evidence.memory_world


def _seen_in_this_world(evidence: Evidence) -> bool:
    return _same_world(evidence) and evidence.world == evidence.seen_world


def _has_preconditions(evidence: Evidence) -> bool:
    return bool(uid_of(evidence.live) and evidence.live.get("metadata", {}).get("resourceVersion"))


# Each guard with what to say when it refuses.
PRUNE: Mapping[str, tuple[Guard, str]] = {
    "D1": (_home_is_healthy, "the clusters folder is not healthy"),
    "D2": (_missed_long_enough, "its file has not been missed long enough by this run"),
    "D3": (lambda evidence: evidence.broken_files == 0, "another cluster file cannot be read"),
    "D4": (_no_mass_change, "it is the last cluster, or more than half of them lost their files"),
    "D5": (_is_ours, "it is not provably ours"),
    "D6": (_seen_in_this_world, "its file was not seen while connected to this Kubernetes"),
    "D7": (lambda evidence: evidence.synced, "the list of clusters is not complete"),
    "D8": (_has_preconditions, "the object has no version to delete it by"),
}
# An explicit `krayne delete` names the cluster: what it needs is the right object.
REQUEST: Mapping[str, tuple[Guard, str]] = {
    "D5": PRUNE["D5"],
    "D6": (_same_world, "it was asked of another Kubernetes"),
    "D8": PRUNE["D8"],
}
# `krayne confirm` says that a vanished file was meant: it answers the doubts D2 and D4 and no other.
CONFIRM: Mapping[str, tuple[Guard, str]] = {**{name: PRUNE[name] for name in ("D1", "D3", "D7")}, **REQUEST}


def refusals(
    guards: Mapping[str, tuple[Guard, str]], evidence: Evidence, without: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Why the deletion must not happen; empty when every guard holds. `without` ablates guards, for tests."""
    return tuple(
        f"{says} ({name})" for name, (holds, says) in guards.items() if name not in without and not holds(evidence)
    )
