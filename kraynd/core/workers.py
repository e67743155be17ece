"""How a cluster's worker groups are: counted in pods, with the most telling reason each. Pure."""

from collections.abc import Iterable

import msgspec

from kraynd.core.events import Happening
from kraynd.core.groups import groups_of, is_retired
from kraynd.core.model import Json
from kraynd.core.pods import group_of, is_over, is_ready, is_terminating, is_worker, phase_of
from kraynd.core.trouble import Trouble, crash_trouble, lost_node, pending_trouble, waiting_trouble


class Workers(msgspec.Struct, frozen=True):
    """Worker pods: ready now, desired (clamped to the bounds), and the bounds."""

    ready: int = 0
    desired: int = 0
    min: int = 0
    max: int = 0


class GroupStatus(msgspec.Struct, frozen=True):
    """One worker group in pods. `orphaned`: no group of that name is in the spec any more."""

    name: str
    ready: int = 0
    running: int = 0
    pending: int = 0
    failed: int = 0
    desired: int = 0
    min: int = 0
    max: int = 0
    reason: str = ""
    orphaned: bool = False
    failing: bool = False


def group_statuses(live: Json | None, pods: Iterable[Json], events: tuple[Happening, ...]) -> tuple[GroupStatus, ...]:
    """Every group of the spec but the retired ones, then orphaned ones that still have pods."""
    spec = (live or {}).get("spec") or {}
    present = groups_of(live or {})
    workers = [pod for pod in pods if is_worker(pod) and not is_terminating(pod)]
    found = []
    for name, group in present.items():
        members = [pod for pod in workers if group_of(pod) == name]
        if members or not is_retired(group):
            found.append(_group(events, group, members, suspended=bool(spec.get("suspend"))))
    orphans = dict.fromkeys(group_of(pod) for pod in workers if group_of(pod) not in present)
    for name in orphans:
        count = sum(group_of(pod) == name for pod in workers)
        reason = f"{count} pod{'' if count == 1 else 's'} of a removed group still run"
        found.append(GroupStatus(name, running=count, reason=reason, orphaned=True, failing=True))
    return tuple(found)


def _group(events: tuple[Happening, ...], group: Json, members: list[Json], *, suspended: bool) -> GroupStatus:
    low, high, hosts = group.get("minReplicas") or 0, group.get("maxReplicas"), group.get("numOfHosts") or 1
    wanted = max(group.get("replicas") or 0, low)
    wanted = wanted if high is None else min(wanted, high)
    desired = 0 if suspended or group.get("suspend") else wanted * hosts
    pending = [pod for pod in members if phase_of(pod) == "Pending"]
    running = [pod for pod in members if phase_of(pod) == "Running"]
    ready = [pod for pod in running if is_ready(pod)]
    failed = [pod for pod in members if is_over(pod)]
    reason, failing = _group_reason(events, members, len(ready), desired)
    return GroupStatus(
        name=group.get("groupName", ""),
        ready=len(ready),
        running=len(running),
        pending=len(pending),
        failed=len(failed),
        desired=desired,
        min=low * hosts,
        max=(high if high is not None else 0) * hosts,
        reason=reason,
        failing=failing,
    )


def _group_reason(events: tuple[Happening, ...], members: list[Json], ready: int, desired: int) -> tuple[str, bool]:
    """How many workers are not there and the most telling why: a fault first."""
    troubles = [trouble for pod in members if (trouble := _worker_trouble(events, pod)) is not None]
    lacking = max(desired - ready, len(troubles))
    if not lacking:
        return "", False
    chosen = next((one for one in troubles if one.failing), troubles[0] if troubles else None)
    why = chosen.reason if chosen is not None else "their pods are being created"
    failing = chosen is not None and chosen.failing
    return f"{lacking} worker{'' if lacking == 1 else 's'} {'failing' if failing else 'pending'}: {why}", failing


def _worker_trouble(events: tuple[Happening, ...], pod: Json) -> Trouble | None:
    if is_ready(pod):
        return None
    if phase_of(pod) == "Pending":
        return pending_trouble(events, pod)
    return crash_trouble(pod) or lost_node(events, pod) or waiting_trouble(pod) or Trouble("starting", False)


def workers_of(groups: Iterable[GroupStatus]) -> Workers:
    """The sums over the groups of the spec."""
    listed = [group for group in groups if not group.orphaned]
    return Workers(
        ready=sum(group.ready for group in listed),
        desired=sum(group.desired for group in listed),
        min=sum(group.min for group in listed),
        max=sum(group.max for group in listed),
    )
