"""Worker groups of a live RayCluster: changed field by field, appended, retired by draining. Never reordered. Pure.

The autoscaler patches `replicas` and `scaleStrategy` by index with no version check, so with it on both are its own,
and an entry is never removed: a retired group stays, at zero, where it is.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from kraynd.core.diff import Change, Place, differences
from kraynd.core.model import Json
from kraynd.core.pods import group_of, is_terminating, name_of

LIST = Place().under("spec").under("workerGroupSpecs")
AUTOSCALERS_OWN = frozenset({"replicas", "scaleStrategy"})


class GroupChanges(msgspec.Struct, frozen=True):
    """What to do to the groups: changes by live index, whole groups to append, who is retiring, and words on it."""

    changes: tuple[Change, ...] = ()
    touched: Mapping[int, str] = {}
    retiring: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def group_changes(
    declared: Json, live: Json, applied: Json, settled: Json, retiring: Iterable[str], pods: Iterable[Json]
) -> GroupChanges:
    """What brings the worker groups of `live` to those of the manifest `declared`.

    `applied`: all we ever sent, certain or not. `settled`: what is known to have arrived, which a hint is measured by.
    """
    wanted, present, before, known = groups_of(declared), groups_of(live), groups_of(applied), groups_of(settled)
    owned = autoscaled(declared)
    changes: list[Change] = []
    touched: dict[int, str] = {}
    notes: list[str] = []
    for index, group in enumerate(live.get("spec", {}).get("workerGroupSpecs") or []):
        name = group.get("groupName", "")
        here = LIST.at(index, name)
        if name in wanted:
            found = [*_declared(here, wanted[name], group, before.get(name, {}), owned)]
            found += _replicas(here, wanted[name], group, known.get(name), owned=owned, back=name in set(retiring))
            notes += _lowered(wanted[name], group, known.get(name), owned=owned)
        elif name in before or name in set(retiring):
            found = [*_drained(here, group, _running(pods, name), owned=autoscaled(live))]
            notes += _draining(name, _running(pods, name))
        else:
            found = []
        changes += found
        if found:
            touched[index] = name
    changes += _appended(wanted, present, has_list="workerGroupSpecs" in live.get("spec", {}))
    gone = [name for name in present if name not in wanted and (name in before or name in set(retiring))]
    return GroupChanges(tuple(changes), touched, tuple(gone), tuple(notes))


def groups_of(manifest: Json) -> dict[str, Json]:
    """The worker groups by name, in their order."""
    return {group.get("groupName", ""): group for group in manifest.get("spec", {}).get("workerGroupSpecs") or []}


def autoscaled(manifest: Json) -> bool:
    """Whether Ray's autoscaler decides the number of workers."""
    return bool(manifest.get("spec", {}).get("enableInTreeAutoscaling"))


def is_retired(group: Json) -> bool:
    """Whether the entry is only kept so that the others keep their index."""
    return group.get("minReplicas", 0) == 0 and group.get("maxReplicas") == 0


def _declared(here: Place, wanted: Json, live: Json, applied: Json, owned: bool) -> Iterator[Change]:
    hidden = AUTOSCALERS_OWN if owned else frozenset({"replicas"})
    yield from differences(here, *(_without(one, hidden) for one in (wanted, live, applied)))


def _without(group: Json, hidden: frozenset[str]) -> Json:
    return {key: value for key, value in group.items() if key not in hidden}


def _replicas(
    here: Place, wanted: Json, live: Json, settled: Json | None, *, owned: bool, back: bool
) -> Iterator[Change]:
    """The number of workers: ours without the autoscaler; with it, one hint upwards when the user raised it."""
    target, now = wanted.get("replicas", 0), live.get("replicas") or 0
    if owned:
        raised = back if settled is None else target > settled.get("replicas", 0)
        if raised and target > now:
            yield here.under("replicas").add(target)
    elif target != now:
        yield here.under("replicas").add(target)


def _lowered(wanted: Json, live: Json, settled: Json | None, *, owned: bool) -> Iterator[str]:
    target, now = wanted.get("replicas", 0), live.get("replicas") or 0
    if owned and settled is not None and target < settled.get("replicas", 0) and target < now:
        name = wanted["groupName"]
        yield f"the autoscaler owns the replicas of {name}: lower max_replicas to force fewer"


def _drained(here: Place, live: Json, names: list[str], *, owned: bool) -> Iterator[Change]:
    """First closed (min and max 0); its pods are named, since with the autoscaler on only named ones are deleted."""
    closing = not is_retired(live)
    doomed = (live.get("scaleStrategy") or {}).get("workersToDelete") or []
    naming = owned and not set(names) <= set(doomed)
    if closing:
        yield here.under("minReplicas").add(0)
        yield here.under("maxReplicas").add(0)
    if (closing or naming) and live.get("replicas") != 0:
        yield here.under("replicas").add(0)
    if naming:
        yield here.under("scaleStrategy").add({"workersToDelete": names})


def _draining(name: str, names: list[str]) -> Iterator[str]:
    if names:
        yield f"worker group {name} is being retired: {len(names)} pods left"


def _running(pods: Iterable[Json], group: str) -> list[str]:
    return sorted(name_of(pod) for pod in pods if group_of(pod) == group and not is_terminating(pod))


def _appended(wanted: Mapping[str, Json], present: Mapping[str, Json], *, has_list: bool) -> Iterator[Change]:
    new = [group for name, group in wanted.items() if name not in present]
    if new and not has_list:
        yield LIST.add([])
    for group in new:
        yield LIST.at("-", group["groupName"]).add(group)
