"""What a cluster's state truly is: one phase, and the reason in words. Pure.

Computed from the pods, conditions and events; KubeRay's own `status.state` is sticky and never believed. The steps are
evaluated top down and the first that applies speaks. `next_check` says when time alone may change the answer.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from kraynd.core.events import Happening, newest
from kraynd.core.manifest import template_hashes
from kraynd.core.model import Json
from kraynd.core.pods import (
    condition_of,
    created_at,
    head_target,
    image_of,
    is_head,
    is_of_another,
    is_over,
    is_ready,
    is_terminating,
    name_of,
    newest_head,
    phase_of,
    ray_status,
    restart_needed,
    uid_of,
)
from kraynd.core.times import unix
from kraynd.core.trouble import (
    HeadSeen,
    churn,
    crash_trouble,
    death_of,
    lost_node,
    pending_trouble,
    waiting_trouble,
)
from kraynd.core.workers import GroupStatus, Workers, group_statuses, workers_of

__all__ = ["PHASES", "Facts", "GroupStatus", "HeadStatus", "Status", "Workers", "assess", "head_target"]

PHASES = ("pending", "starting", "ready", "degraded", "suspended", "deleting", "absent", "invalid", "unreachable")
OPERATOR_PATIENCE = 15.0  # seconds a new cluster may go unnoticed: a busy operator takes a few
START_PATIENCE = 60.0  # seconds from Running to Ready that are normal: KubeRay's first probes come late
BORN_SHOWN = 3600.0  # seconds a cluster that came back says so: as long as a lunch
INVALID = frozenset({"InvalidRayClusterMetadata", "InvalidRayClusterSpec", "InvalidRayClusterStatus"})
_PROBE = frozenset({"Unhealthy"})
_FEW_NAMES = 3  # so many names are listed, the rest is counted


class HeadStatus(msgspec.Struct, frozen=True):
    """The head pod."""

    pod: str
    uid: str
    phase: str
    ready: bool
    node: str
    image: str
    restarts: int
    since: float | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `since` is wall seconds; `next_check` seconds from now."""

    phase: str
    reason: str
    since: float | None = None
    workers: Workers = Workers()
    groups: tuple[GroupStatus, ...] = ()
    head: HeadStatus | None = None
    restart_needed: tuple[str, ...] = ()
    next_check: float | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one cluster. `condition` and `trouble` are the connection's; `held`: why it is not created.

    `events` are newest first. `leftovers` are counted here. `previous` is the last answer: its phase keeps its `since`.
    """

    live: Json | None
    pods: tuple[Json, ...] = ()
    events: tuple[Happening, ...] = ()
    declared: bool = False
    invalid: str = ""
    held: str = ""
    born: str = ""
    condition: str = "ready"
    trouble: str = ""
    synced: bool = True
    heads: tuple[HeadSeen, ...] = ()
    leftovers: int = 0
    changed: Mapping[str, tuple[str, ...]] = {}
    hashes: Mapping[str, str] | None = None
    previous: Status | None = None


class _Answer(msgspec.Struct, frozen=True):
    phase: str
    reason: str
    since: float | None = None
    next_check: float | None = None


def assess(facts: Facts, *, wall: float) -> Status:
    """The phase and reason now (`wall`: unix seconds), with workers, head and what needs a restart."""
    facts = _without_leftovers(facts)
    groups = group_statuses(facts.live, facts.pods, facts.events)
    answer = _unreachable(facts) or _answer(facts, groups, wall)
    hashes = facts.hashes if facts.hashes is not None else template_hashes(facts.live or {})
    since = answer.since
    if answer.phase == "unreachable" and facts.live is None and facts.previous is not None:
        return _kept(facts.previous, answer, wall)
    if facts.previous is not None and facts.previous.phase == answer.phase and since is None:
        since = facts.previous.since
    return Status(
        phase=answer.phase,
        reason=answer.reason,
        since=wall if since is None else since,
        workers=workers_of(groups),
        groups=groups,
        head=_head_status(newest_head(facts.pods)),
        restart_needed=restart_needed(facts.pods, hashes, facts.changed),
        next_check=answer.next_check,
    )


def _without_leftovers(facts: Facts) -> Facts:
    """Pods of an earlier cluster of this name say nothing of this one, though KubeRay takes them for its own."""
    own = tuple(pod for pod in facts.pods if not is_of_another(pod, facts.live))
    return msgspec.structs.replace(facts, pods=own, leftovers=len(facts.pods) - len(own))


def _kept(previous: Status, answer: _Answer, wall: float) -> Status:
    """Not reachable and nothing cached: the last known facts under the new phase."""
    since = previous.since if previous.phase == answer.phase else wall
    return msgspec.structs.replace(previous, phase=answer.phase, reason=answer.reason, since=since, next_check=None)


def _unreachable(facts: Facts) -> _Answer | None:
    if facts.condition == "ready" and (facts.synced or facts.live is not None):
        return None
    why = facts.trouble or (
        "the list of clusters is still being read" if facts.condition == "ready" else facts.condition
    )
    last = facts.previous
    if last is None or last.phase in {"unreachable", "absent"}:
        known = last.reason.partition("; last known: ")[2] if last is not None else ""
    else:
        known = last.phase
    return _Answer("unreachable", f"{why}; last known: {known}" if known else why)


def _answer(facts: Facts, groups: tuple[GroupStatus, ...], wall: float) -> _Answer:
    live = facts.live
    if live is None:
        return _without_object(facts)
    head = newest_head(facts.pods)
    steps: tuple[Callable[[], _Answer | None], ...] = (
        lambda: _deleting(live, facts.pods),
        lambda: _not_taken_up(facts, live, wall),
        lambda: _suspended(facts, live),
        lambda: _head_refused(live, head),
        lambda: _headless(facts, head, wall),
        lambda: None if head is None else _head_pending(facts, head, wall),
        lambda: None if head is None else _head_crashing(facts, head, wall),
        lambda: None if head is None else _head_unready(facts, head, wall),
    )
    for step in steps:
        if (found := step()) is not None:
            return _born_again(facts, found)
    assert head is not None
    return _lately_born(facts, live, _running(facts, live, head, groups, wall), wall)


def _born_again(facts: Facts, answer: _Answer) -> _Answer:
    if facts.born and answer.phase in {"pending", "starting"}:
        return msgspec.structs.replace(answer, reason=f"{answer.reason} ({facts.born})")
    return answer


def _lately_born(facts: Facts, live: Json, answer: _Answer, wall: float) -> _Answer:
    """A cluster that came back has lost what ran in it: its user must be able to see so afterwards."""
    left = created_at(live) + BORN_SHOWN - wall
    if not facts.born or left <= 0:
        return answer
    return msgspec.structs.replace(answer, reason=f"{answer.reason} ({facts.born})", next_check=left)


def _without_object(facts: Facts) -> _Answer:
    """Step 1: there is no object."""
    if facts.invalid:
        return _Answer("invalid", facts.invalid)
    if not facts.declared:
        return _Answer("absent", "it does not exist in Kubernetes")
    return _Answer("absent", facts.held or facts.born or "not created yet")


def _deleting(live: Json, pods: Iterable[Json]) -> _Answer | None:
    """Step 1: deletion has begun."""
    if not is_terminating(live):
        return None
    left = [name_of(pod) for pod in pods]
    words = [f"waiting for {_listed(left, 'pod')}"] if left else []
    finalizers = live["metadata"].get("finalizers") or []
    if finalizers:
        words.append(f"finalizers {', '.join(finalizers)}")
    since = unix(live["metadata"]["deletionTimestamp"])
    return _Answer("deleting", "; ".join(words) or "being deleted", since)


def _not_taken_up(facts: Facts, live: Json, wall: float) -> _Answer | None:
    """Step 2: the operator refused the spec, or has not noticed the cluster."""
    status = live.get("status") or {}
    if status.get("conditions") or status.get("state") or facts.pods:
        return None
    refused = newest(facts.events, uid_of(live), INVALID)
    if refused is not None:
        return _Answer("invalid", refused.text or refused.reason, refused.at or None)
    age = wall - created_at(live)
    if facts.events or age <= OPERATOR_PATIENCE:
        left = max(OPERATOR_PATIENCE - age, 0.0) + 0.1
        return _Answer("pending", "waiting for the KubeRay operator", next_check=None if facts.events else left)
    namespace = live["metadata"].get("namespace", "")
    return _Answer("pending", f"the KubeRay operator is not running, or does not watch namespace {namespace}")


def _suspended(facts: Facts, live: Json) -> _Answer | None:
    """Step 3: suspended, or queued by Kueue."""
    spec, labels = live.get("spec") or {}, live.get("metadata", {}).get("labels") or {}
    manager = str(spec.get("managedBy", ""))
    queue = labels.get("kueue.x-k8s.io/queue-name")
    if manager.startswith("kueue.x-k8s.io"):
        return _Answer("suspended", f"queued: managed by {manager}")
    if not spec.get("suspend"):
        return None
    if queue:
        return _Answer("suspended", f"queued by Kueue in {queue}")
    stopping = [name_of(pod) for pod in facts.pods if not is_over(pod)]
    if stopping:
        return _Answer("suspended", f"suspending: waiting for {_listed(stopping, 'pod')}")
    return _Answer(
        "suspended", "suspended: no pods run", unix(condition_of(live, "RayClusterSuspended").get("lastTransitionTime"))
    )


def _replica_failure(live: Json) -> tuple[str, str]:
    """The operator's failure to make or delete pods: its reason word and its text shortened to what matters."""
    failure = condition_of(live, "ReplicaFailure")
    if failure.get("status") != "True":
        return "", ""
    text = " ".join(str(failure.get("message", "")).split())
    if "exceeded quota" in text:
        return str(failure.get("reason", "")), "quota: " + text[text.index("exceeded quota") :]
    return str(failure.get("reason", "")), text or str(failure.get("reason", ""))


def _head_refused(live: Json, head: Json | None) -> _Answer | None:
    """Step 4: Kubernetes refuses the head pod. Refused workers are told with their group."""
    reason, text = _replica_failure(live)
    if head is not None or "Head" not in reason:
        return None
    return _Answer("pending", text, unix(condition_of(live, "ReplicaFailure").get("lastTransitionTime")))


def _headless(facts: Facts, head: Json | None, wall: float) -> _Answer | None:
    """Step 5: there is no head pod that stays."""
    if head is not None:
        return None
    old = next((pod for pod in facts.pods if is_head(pod)), None)
    often = churn(facts.heads, wall)
    if old is not None:
        node = (old.get("spec") or {}).get("nodeName", "")
        where, end = f" on node {node}" if node else "", death_of(old)
        because = f"; it ended by {end}" if end else ""
        return _Answer("pending", f"waiting for the old head to stop: {name_of(old)}{where}{because}")
    if facts.leftovers:
        count = f"{facts.leftovers} pod{'' if facts.leftovers == 1 else 's'}"
        return _Answer("pending", f"waiting for {count} of the deleted cluster of this name to go")
    if often:
        return _Answer("degraded", f"the head does not stay: {often}")
    if facts.heads:
        ended = next((seen.end for seen in reversed(facts.heads) if seen.end), "")
        return _Answer("pending", f"the head is being replaced{f'; the last one ended by {ended}' if ended else ''}")
    return _Answer("pending", "the head pod is being created")


def _head_pending(facts: Facts, head: Json, wall: float) -> _Answer | None:
    """Step 6: the head waits for a node, an image, a volume, a Secret."""
    if phase_of(head) != "Pending":
        return None
    trouble = pending_trouble(facts.events, head)
    often = churn(facts.heads, wall)
    reason = f"head: {trouble.reason}"
    return _Answer(
        "degraded" if often else "pending", f"{reason}; {often}" if often else reason, created_at(head) or None
    )


def _head_crashing(facts: Facts, head: Json, wall: float) -> _Answer | None:
    """Step 7: the head's containers end, or heads come and go."""
    trouble = crash_trouble(head)
    if trouble is None:
        return None
    often = churn(facts.heads, wall)
    return _Answer("degraded", f"head: {trouble.reason}{f'; {often}' if often else ''}")


def _head_unready(facts: Facts, head: Json, wall: float) -> _Answer | None:
    """Step 8: running, and not ready: starting for a while, then a fault."""
    if is_ready(head):
        return None
    if (lost := lost_node(facts.events, head)) is not None:
        return _Answer("degraded", f"head: {lost.reason}")
    if (waits := waiting_trouble(head)) is not None:
        return _Answer("degraded", f"head: {waits.reason}")
    started = _started_at(head)
    often = churn(facts.heads, wall)
    age = wall - started
    if age < START_PATIENCE:
        phase, reason = (
            ("degraded", f"the head is starting; {often}") if often else ("starting", "the head is starting")
        )
        return _Answer(phase, reason, started, START_PATIENCE - age + 0.1)
    probe = newest(facts.events, uid_of(head), _PROBE)
    why = f": {probe.text}" if probe is not None else ""
    return _Answer("degraded", f"the head runs but is not ready{why}", started)


def _started_at(pod: Json) -> float:
    began = (ray_status(pod).get("state") or {}).get("running", {}).get("startedAt")
    return unix(began) or unix(pod.get("status", {}).get("startTime")) or created_at(pod)


def _running(facts: Facts, live: Json, head: Json, groups: tuple[GroupStatus, ...], wall: float) -> _Answer:
    """Step 9: the head is ready; the workers decide between ready and degraded."""
    since = unix(condition_of(head, "Ready").get("lastTransitionTime"))
    reason, refused = _replica_failure(live)
    words = [f"workers: {refused}"] if refused and "Worker" in reason else []
    bad = bool(words)
    for group in groups:
        if group.reason:
            words.append(f"{group.name}: {group.reason}")
            bad = bad or group.failing
    if often := churn(facts.heads, wall):
        words.append(often)
    if bad:
        return _Answer("degraded", "; ".join(words))
    workers = workers_of(groups)
    return _Answer("ready", "; ".join(words) or _all_well(workers), since)


def _all_well(workers: Workers) -> str:
    if not workers.desired:
        return "head ready, no workers wanted"
    return f"head and {workers.ready} worker{'' if workers.ready == 1 else 's'} ready"


def _head_status(head: Json | None) -> HeadStatus | None:
    if head is None:
        return None
    return HeadStatus(
        pod=name_of(head),
        uid=uid_of(head),
        phase=phase_of(head),
        ready=is_ready(head),
        node=str((head.get("spec") or {}).get("nodeName", "")),
        image=image_of(head),
        restarts=int(ray_status(head).get("restartCount") or 0),
        since=created_at(head) or None,
    )


def _listed(names: list[str], noun: str) -> str:
    shown = ", ".join(sorted(names)[:_FEW_NAMES])
    more = len(names) - _FEW_NAMES
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({shown}{f' and {more} more' if more > 0 else ''})"
