"""The planner: last applied, declared and live in, at most one guarded action out. Pure.

It writes only what is ours, never deletes without positive evidence (core/guards), never deletes to create again, and
never replaces a list it shares with the autoscaler. Applying its action and planning again gives nothing.
"""

from collections.abc import Iterable, Mapping

import msgspec

from kraynd.core.diff import Change, Place, differences, merged
from kraynd.core.groups import group_changes
from kraynd.core.guards import (
    CONFIRM,
    OURS,
    PRUNE,
    REQUEST,
    Evidence,
    Ownership,
    ownership,
    refusals,
)
from kraynd.core.intent import (
    NOTHING_DECLARED,
    ClusterMemory,
    Declared,
    FileProblem,
    Snapshot,
    asked_to_adopt,
    asked_to_create,
    asked_to_delete,
    asked_to_prune,
)
from kraynd.core.manifest import (
    HEAD_GROUP,
    HOME_ID_ANNOTATION,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    OWNER_ANNOTATION,
    TEMPLATE_HASH_ANNOTATION,
    ImageChoice,
    Owner,
    template_hashes,
)
from kraynd.core.model import ClusterKey, Json
from kraynd.core.nudging import NUDGE_ANNOTATION
from kraynd.core.pods import group_of, is_over, is_stale, is_terminating, restart_needed, uid_of

__all__ = [
    "NOTHING_DECLARED",
    "ClusterMemory",
    "Create",
    "Declared",
    "Delete",
    "FileProblem",
    "Inputs",
    "Patch",
    "Plan",
    "Refusal",
    "Snapshot",
    "asked_to_adopt",
    "asked_to_create",
    "asked_to_delete",
    "asked_to_prune",
    "plan",
]

CAME_BACK = "created again: it was deleted outside krayne"
FILE_GONE = "file gone: still running; krayne delete or krayne confirm"
PRUNE_GRACE = 60.0  # seconds a file must stay missing: longer than any editor's save or any sync tool's swap


class Create(msgspec.Struct, frozen=True):
    """Make the cluster."""

    manifest: Json
    reason: str


class Patch(msgspec.Struct, frozen=True):
    """Change fields of the live object; the first operations test that it is still the one planned from."""

    ops: tuple[Json, ...]
    fields: tuple[str, ...]


class Delete(msgspec.Struct, frozen=True):
    """Delete exactly this object. `resource_version` None only where the user forced it."""

    uid: str
    resource_version: str | None
    reason: str


class Refusal(msgspec.Struct, frozen=True):
    """A request of the user that cannot be done, as an error's kind, sentence and hint."""

    kind: str
    message: str
    hint: str


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one plan depends on.

    `missing_for`: seconds its file is missing, None when that was not witnessed. `nudge`: core.nudging's word, if any.
    """

    key: ClusterKey
    owner: Owner
    memory: ClusterMemory
    live: Json | None
    pods: tuple[Json, ...] = ()
    declared: Declared | None = None
    manifest: Json | None = None
    image: ImageChoice | None = None
    synced: bool
    world: str
    memory_world: str
    seen_world: str = ""
    healthy: bool = True
    marker: bool = True
    broken_files: int = 0
    missing_for: float | None = None
    known: int = 0
    missing: int = 0
    prune: bool = False
    grace: float = PRUNE_GRACE
    nudge: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about one cluster now.

    `memory` is to be on disk before acting, `after` once the action is in (its uid is the answer's); None forgets.
    `holds`: what is not done, and why. `unkept` changes were left out because the API server would not keep them.
    """

    ownership: Ownership
    memory: ClusterMemory | None
    after: ClusterMemory | None = None
    action: Create | Patch | Delete | None = None
    holds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    restart_needed: tuple[str, ...] = ()
    refusal: Refusal | None = None


def plan(inputs: Inputs, without: frozenset[str] = frozenset()) -> Plan:
    """The one next step for a cluster. `without` takes guards away, so that tests can show each is needed."""
    whose = ownership(inputs.live, inputs.memory, inputs.owner)
    memory = _learned(inputs, whose)
    if memory.delete_requested:
        return _requested(inputs, whose, memory, without)
    if inputs.live is None:
        return _absent(inputs, whose, memory)
    if is_terminating(inputs.live):
        notes = (
            () if inputs.declared is None else ("it is being deleted outside krayne and comes back when it is gone",)
        )
        return Plan(ownership=whose, memory=memory, notes=notes)
    if inputs.declared is None:
        return _undeclared(inputs, whose, memory, without)
    if whose.kind != OURS and not memory.adopting:
        return Plan(ownership=whose, memory=memory, holds=(whose.says,))
    return _update(inputs, whose, memory)


def remembered(memory: ClusterMemory, answer: Json, unkept: Mapping[str, Json]) -> ClusterMemory:
    """The memory after a create or patch, from what the API server answered."""
    return msgspec.structs.replace(memory, uid=uid_of(answer), ours=True, unkept={**memory.unkept, **unkept})


def unkept_fields(inputs: Inputs, memory: ClusterMemory, answer: Json) -> dict[str, Json]:
    """The fields of ours that are not in the API server's answer: an older KubeRay's schema drops what it lacks."""
    if inputs.manifest is None:
        return {}
    found = _changes(msgspec.structs.replace(inputs, live=answer), memory, inputs.manifest)
    return {change.field: change.value for change in found.changes}


def pending_changes(inputs: Inputs) -> tuple[Change, ...]:
    """The steps from live to declared, whoever owns it and whether or not they may be taken now."""
    return () if inputs.manifest is None else _changes(inputs, inputs.memory, inputs.manifest).changes


def _learned(inputs: Inputs, whose: Ownership) -> ClusterMemory:
    """A create whose answer was lost is completed: its marks prove it is ours (A2). Enough to change, not to delete.

    A file that is back voids the user's `confirm`, whatever else becomes of this pass.
    """
    memory = inputs.memory
    if memory.confirmed_prune and inputs.declared is not None:
        memory = msgspec.structs.replace(memory, confirmed_prune=False)
    keep = inputs.declared is not None and not memory.delete_requested
    if whose.kind == OURS and inputs.live is not None and not memory.uid and keep:
        applied = memory.last_applied or memory.applying
        return msgspec.structs.replace(memory, uid=uid_of(inputs.live), ours=True, last_applied=applied, applying={})
    return memory


def _evidence(inputs: Inputs, memory: ClusterMemory, live: Json) -> Evidence:
    return Evidence(
        live=live,
        memory=memory,
        home_id=inputs.owner.home_id,
        world=inputs.world,
        memory_world=inputs.memory_world,
        seen_world=inputs.seen_world,
        synced=inputs.synced,
        healthy=inputs.healthy,
        marker=inputs.marker,
        broken_files=inputs.broken_files,
        missing_for=inputs.missing_for,
        grace=inputs.grace,
        known=inputs.known,
        missing=inputs.missing,
    )


def _requested(inputs: Inputs, whose: Ownership, memory: ClusterMemory, without: frozenset[str]) -> Plan:
    """The user said `delete`: gone or going is done, not ours is refused, else delete what is ours."""
    live = inputs.live
    done = memory if inputs.declared is not None else None
    if live is None and not inputs.synced:
        return Plan(ownership=whose, memory=memory, holds=("deleting: waiting for the list of clusters",))
    if live is None or is_terminating(live):
        return Plan(ownership=whose, memory=done, holds=_still_declared(inputs, live))
    if (whose.kind != OURS or not memory.uid) and "D5" not in without:
        return _not_to_delete(inputs, whose, memory)
    doubts = refusals(REQUEST, _evidence(inputs, memory, live), without)
    if doubts:
        return Plan(ownership=whose, memory=memory, holds=tuple(f"not deleted: {doubt}" for doubt in doubts))
    action = _delete(live, "krayne delete", force=memory.delete_force)
    return Plan(ownership=whose, memory=memory, after=done, action=action)


def _not_to_delete(inputs: Inputs, whose: Ownership, memory: ClusterMemory) -> Plan:
    """The request is spent: the object that bears the name now is not the one it meant."""
    voided = msgspec.structs.replace(memory, delete_requested=False, delete_force=False)
    says = whose.says or "it is another object than the one that was to be deleted"
    refusal = Refusal("cluster-foreign", f"cluster {inputs.key} is not ours to delete: {says}", "krayne ls")
    return Plan(ownership=whose, memory=voided, holds=(says,), refusal=refusal)


def _still_declared(inputs: Inputs, live: Json | None) -> tuple[str, ...]:
    if inputs.declared is None or live is not None:
        return ()
    return (f"deleted as asked, but {inputs.declared.source} still declares it: krayne apply, or remove the file",)


def _delete(live: Json, reason: str, *, force: bool = False) -> Delete:
    version = live.get("metadata", {}).get("resourceVersion")
    return Delete(uid_of(live), None if force else version, reason)


def _absent(inputs: Inputs, whose: Ownership, memory: ClusterMemory) -> Plan:
    if not inputs.synced:
        return Plan(ownership=whose, memory=memory, holds=("waiting for the complete list of clusters",))
    if inputs.declared is None:
        return Plan(ownership=whose, memory=None if inputs.healthy and _existed(memory) else memory)
    if inputs.manifest is None:
        return Plan(ownership=whose, memory=memory, holds=("its manifest cannot be built",))
    born = CAME_BACK if memory.uid else memory.born
    before = msgspec.structs.replace(
        memory, uid="", ours=True, adopted=False, last_applied={}, applying=inputs.manifest, image=inputs.image,
        confirmed_prune=False, retiring=(), changed={}, unkept={}, born=born,
    )  # fmt: skip
    after = msgspec.structs.replace(before, last_applied=inputs.manifest, applying={})
    reason = born or f"declared in {inputs.declared.source}"
    return Plan(ownership=whose, memory=before, after=after, action=Create(inputs.manifest, reason))


def _existed(memory: ClusterMemory) -> bool:
    """Whether the memory is of a cluster that was there, and not of one that is about to be declared."""
    return bool(memory.uid or memory.applying or memory.delete_requested or memory.confirmed_prune)


def _undeclared(inputs: Inputs, whose: Ownership, memory: ClusterMemory, without: frozenset[str]) -> Plan:
    assert inputs.live is not None
    if memory.adopting:
        return _adopt(inputs, whose, memory, inputs.live)
    if whose.kind != OURS and "D5" not in without:
        return Plan(ownership=whose, memory=memory)
    notes = (FILE_GONE if memory.last_applied else "ours, and no file declares it",)
    if not (inputs.prune or memory.confirmed_prune):
        return Plan(ownership=whose, memory=memory, notes=notes)
    guards = CONFIRM if memory.confirmed_prune else PRUNE
    doubts = refusals(guards, _evidence(inputs, memory, inputs.live), without)
    if doubts:
        return Plan(ownership=whose, memory=memory, notes=notes, holds=tuple(f"not deleted: {one}" for one in doubts))
    why = "krayne confirm" if memory.confirmed_prune else "its file is gone and prune is on"
    return Plan(ownership=whose, memory=memory, after=None, action=_delete(inputs.live, why))


def _adopt(inputs: Inputs, whose: Ownership, memory: ClusterMemory, live: Json) -> Plan:
    """Only the marks: nothing declares what else it should be."""
    owner = inputs.owner
    marks: Json = {
        "labels": {MANAGED_BY_LABEL: MANAGED_BY},
        "annotations": {HOME_ID_ANNOTATION: owner.home_id, OWNER_ANNOTATION: f"{owner.user}@{owner.host}"},
    }
    changes = tuple(differences(Place().under("metadata"), marks, live.get("metadata", {}), {}))
    after = msgspec.structs.replace(memory, ours=True, uid=uid_of(live))
    if not changes:
        return Plan(ownership=whose, memory=after)
    return Plan(ownership=whose, memory=memory, after=after, action=_patch(live, changes, {}))


class _Found(msgspec.Struct, frozen=True):
    """The changes to make, those left out as unkept, and what the groups add to them."""

    changes: tuple[Change, ...]
    left_out: dict[str, Json]
    touched: Mapping[int, str]
    retiring: tuple[str, ...]
    notes: tuple[str, ...]


def _changes(inputs: Inputs, memory: ClusterMemory, manifest: Json) -> _Found:
    live = inputs.live or {}
    applied = merged(memory.last_applied, memory.applying)
    changes: list[Change] = []
    for part in ("labels", "annotations"):
        trio = (one.get("metadata", {}).get(part) or {} for one in (manifest, live, applied))
        place = Place().under("metadata")
        wanted, present, before = trio
        have = {part: present} if present else {}
        changes += differences(place, {part: wanted}, have, {part: before})
    wanted = _spec(manifest)
    if memory.suspended is not None:
        wanted["suspend"] = memory.suspended
    changes += differences(Place().under("spec"), wanted, _spec(live), _spec(applied))
    groups = group_changes(manifest, live, applied, memory.last_applied, memory.retiring, inputs.pods)
    changes += groups.changes
    kept = tuple(one for one in changes if not _is_unkept(one, memory.unkept))
    left_out = {one.field: one.value for one in changes if _is_unkept(one, memory.unkept)}
    return _Found(kept, left_out, groups.touched, groups.retiring, groups.notes)


def _is_unkept(change: Change, unkept: Mapping[str, Json]) -> bool:
    return change.field in unkept and unkept[change.field] == change.value


def _spec(manifest: Json) -> Json:
    return {key: value for key, value in (manifest.get("spec") or {}).items() if key != "workerGroupSpecs"}


def _update(inputs: Inputs, whose: Ownership, memory: ClusterMemory) -> Plan:
    assert inputs.live is not None
    if inputs.manifest is None:
        return Plan(ownership=whose, memory=memory, holds=("its manifest cannot be built",))
    if not inputs.synced:
        return Plan(ownership=whose, memory=memory, holds=("waiting for the complete list of clusters",))
    found = _changes(inputs, memory, inputs.manifest)
    nudges = () if found.changes else _nudges(inputs.live, inputs.nudge)  # any other change wakes the operator too
    hashes = template_hashes(inputs.manifest)
    changed = _still_stale(_with_fields(memory.changed, found.changes), inputs.pods, hashes)
    after = msgspec.structs.replace(
        memory, ours=True, uid=uid_of(inputs.live), last_applied=inputs.manifest, applying={}, image=inputs.image,
        retiring=found.retiring, changed=changed, unkept=found.left_out, confirmed_prune=False,
    )  # fmt: skip
    notes = (*found.notes, *_unkept_note(found.left_out))
    restart = restart_needed(inputs.pods, hashes, changed)
    if not (found.changes or nudges):
        return Plan(ownership=whose, memory=after, notes=notes, restart_needed=restart)
    before = msgspec.structs.replace(memory, applying=inputs.manifest)
    action = _patch(inputs.live, (*found.changes, *nudges), found.touched)
    return Plan(ownership=whose, memory=before, after=after, action=action, notes=notes, restart_needed=restart)


def _nudges(live: Json, word: str) -> tuple[Change, ...]:
    """The annotation that makes the operator look again. Nobody declares it: it is never compared, nor taken away."""
    if not word:
        return ()
    marks: Json = {"annotations": {NUDGE_ANNOTATION: word}}
    return tuple(differences(Place().under("metadata"), marks, live.get("metadata", {}), {}))


def _patch(live: Json, changes: Iterable[Change], touched: Mapping[int, str]) -> Patch:
    """Guarded by the version planned from, and by each touched group's name at its index."""
    version = live.get("metadata", {}).get("resourceVersion")
    guards: list[Json] = [{"op": "test", "path": "/metadata/resourceVersion", "value": version}]
    for index, name in touched.items():
        guards.append({"op": "test", "path": f"/spec/workerGroupSpecs/{index}/groupName", "value": name})
    listed = tuple(changes)
    return Patch((*guards, *(change.step for change in listed)), tuple(change.field for change in listed))


def _unkept_note(left_out: Mapping[str, Json]) -> tuple[str, ...]:
    if not left_out:
        return ()
    return (f"the API server does not keep {', '.join(sorted(left_out))} (another KubeRay version?)",)


def _still_stale(
    changed: Mapping[str, tuple[str, ...]], pods: Iterable[Json], hashes: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The changed fields of groups that still have a pod of an older template."""
    listed = [pod for pod in pods if not is_terminating(pod) and not is_over(pod)]
    stale = {group_of(pod) for pod in listed if is_stale(pod, hashes.get(group_of(pod), ""))}
    return {group: fields for group, fields in changed.items() if group in stale}


def _with_fields(known: Mapping[str, tuple[str, ...]], changes: Iterable[Change]) -> dict[str, tuple[str, ...]]:
    fields = {group: dict.fromkeys(names) for group, names in known.items()}
    for change in changes:
        group, field = _template_field(change.field)
        if field:
            fields.setdefault(group, {})[field] = None
    return {group: tuple(names) for group, names in fields.items()}


def _template_field(field: str) -> tuple[str, str]:
    """The group and short name of a field that only new pods get; ("", "") for one that acts at once."""
    group, rest = HEAD_GROUP, ""
    if field.startswith("spec.headGroupSpec."):
        rest = field.removeprefix("spec.headGroupSpec.")
    elif field.startswith("spec.workerGroupSpecs["):
        group, _, rest = field.removeprefix("spec.workerGroupSpecs[").partition("].")
    elif field.startswith(("spec.autoscalerOptions.resources", "spec.autoscalerOptions.image")):
        return group, "autoscaler resources"
    elif field == "spec.enableInTreeAutoscaling":
        return group, "autoscaler.enabled"
    if not rest.startswith(("template.", "rayStartParams")) or TEMPLATE_HASH_ANNOTATION in rest:
        return "", ""
    short = rest.removeprefix("template.").removeprefix("spec.")
    if short.startswith("containers["):
        short = short.partition("].")[2] or short
    for kind in ("resources.limits.", "resources.requests."):
        short = short.removeprefix(kind)
    return group, short
