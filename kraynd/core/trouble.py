"""Why a pod is not well, in words: from its status and the events about it. Pure.

`failing` tells what waiting will not mend from what it may. Heads that come and go are counted here too, because with
restartPolicy Never a crash loop shows only as pods that are replaced.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kraynd.core.events import Happening, newest
from kraynd.core.model import Json
from kraynd.core.pods import condition_of, created_at, image_of, is_head, is_over, phase_of, uid_of

OOM_EXIT = 137  # 128 + SIGKILL: what the kernel's out-of-memory killer leaves
CHURN_WINDOW = 600.0  # seconds in which replaced heads are counted
CHURN_HEADS = 3  # so many heads in the window are a crash loop: restartPolicy Never shows no CrashLoopBackOff
MOST_HEADS = 20  # remembered per cluster

_IMAGE_WAITS = {
    "ErrImagePull": "image cannot be pulled",
    "ImagePullBackOff": "image pull back-off",
    "InvalidImageName": "image name is invalid",
    "ErrImageNeverPull": "image is not on the node and may not be pulled",
    "RegistryUnavailable": "image registry is unavailable",
}
_CONFIG_WAITS = frozenset({"CreateContainerConfigError", "CreateContainerError"})
_CRASH_WAITS = frozenset({"CrashLoopBackOff", "RunContainerError", "PostStartHookError", "StartError"})
_USUAL_WAITS = frozenset({"", "ContainerCreating", "PodInitializing"})

_VOLUME = frozenset({"FailedMount", "FailedAttachVolume"})
_NODE = frozenset({"NodeNotReady"})
_SCALE_UP = {"TriggeredScaleUp": "a node is being added", "NotTriggerScaleUp": "no node group can fit it"}
_CRASH_WORDS = {
    "CrashLoopBackOff": "crash loop",
    "RunContainerError": "cannot be run",
    "PostStartHookError": "its postStart hook failed",
    "StartError": "cannot be started",
}


class Trouble(msgspec.Struct, frozen=True):
    """Why a pod is not well, in words. `failing`: it will not get better by waiting."""

    reason: str
    failing: bool


class HeadSeen(msgspec.Struct, frozen=True):
    """A head pod of the last minutes: when it was made and last seen (wall seconds), and what it died of."""

    uid: str
    since: float
    last: float
    end: str = ""


def waiting_trouble(pod: Json) -> Trouble | None:
    """What a container of a starting pod waits for, when that is a fault or worth saying (notes: step 6)."""
    status = pod.get("status", {})
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason = waiting.get("reason", "")
            if reason in _IMAGE_WAITS:
                return Trouble(f"{_IMAGE_WAITS[reason]}: {_declared_image(pod, container)}", True)
            if reason in _CONFIG_WAITS:
                return Trouble(f"container {container.get('name')}: {waiting.get('message') or reason}", True)
    return None


def _told_wait(pod: Json) -> Trouble | None:
    """A reason to wait that is not known here, in its node's own words."""
    for container in pod.get("status", {}).get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("message") and waiting.get("reason") not in _USUAL_WAITS:
            return Trouble(_one_line(waiting["message"]), False)
    return None


def _declared_image(pod: Json, status: Json) -> str:
    """The image as the spec writes it: runtimes report it expanded."""
    spec = pod.get("spec") or {}
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        if container.get("name") == status.get("name"):
            return str(container.get("image", ""))
    return str(status.get("image", ""))


def scheduling_trouble(pod: Json) -> Trouble | None:
    """Why the scheduler has no node for the pod."""
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled.get("status") != "False":
        return None
    # The first sentence says what is missing; the scheduler's others, on preemption, only that it stays so.
    message = _one_line(scheduled.get("message", "")).partition(". ")[0].rstrip(".")
    if scheduled.get("reason") == "SchedulingGated":
        return Trouble(f"held back by a scheduling gate{f': {message}' if message else ''}", False)
    return Trouble(f"unschedulable: {message or 'no node fits'}", False)


def crash_trouble(pod: Json) -> Trouble | None:
    """What keeps the containers of a started pod from running (notes: step 7)."""
    status = pod.get("status", {})
    if is_over(pod):
        return Trouble(death_of(pod), True)
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = container.get("state") or {}
        reason = (state.get("waiting") or {}).get("reason", "")
        ended = state.get("terminated")
        if reason in _CRASH_WAITS:
            last = (container.get("lastState") or {}).get("terminated")
            why = _ended(last) if last else _one_line((state.get("waiting") or {}).get("message", ""))
            return Trouble(
                f"container {container.get('name')}: {_CRASH_WORDS.get(reason, reason)}{f': {why}' if why else ''}",
                True,
            )
        if ended and container in (status.get("containerStatuses") or []):
            return Trouble(f"container {container.get('name')} ended: {_ended(ended)}", True)
    return None


def death_of(pod: Json) -> str:
    """What a pod ended of, in words; empty while nothing says so."""
    status = pod.get("status", {})
    for container in status.get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated")
        if ended and (ended.get("exitCode") or ended.get("reason") not in {None, "Completed"}):
            return _ended(ended)
    if is_over(pod):
        return ": ".join(part for part in (status.get("reason", ""), _one_line(status.get("message", ""))) if part) or (
            "its container ended"
        )
    return ""


def _ended(ended: Mapping[str, Any]) -> str:
    code, reason = ended.get("exitCode"), ended.get("reason", "")
    message = _one_line(ended.get("message", ""))
    if "exec format error" in message:
        return f"{reason or 'StartError'}: exec format error (the image is for another CPU architecture)"
    if code == OOM_EXIT and reason in {"", "Error"}:
        reason = "killed (OOMKilled or SIGKILL)"
    words = f"{reason or 'ended'} (exit code {code})" if code is not None else reason or "ended"
    return f"{words}: {message}" if message else words


def _one_line(text: str, limit: int = 300) -> str:
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "\u2026"


def pending_trouble(events: tuple[Happening, ...], pod: Json) -> Trouble:
    """Why a pod is still Pending, in the order in which it can be stopped."""
    if (waits := scheduling_trouble(pod)) is not None:
        scaling = newest(events, uid_of(pod), _SCALE_UP.keys())
        more = f" ({_SCALE_UP[scaling.reason]})" if scaling is not None else ""
        return Trouble(waits.reason + more, waits.failing)
    if (waits := waiting_trouble(pod) or crash_trouble(pod) or _told_wait(pod)) is not None:
        return waits
    if (volume := newest(events, uid_of(pod), _VOLUME)) is not None:
        return Trouble(f"volume: {volume.text}", True)
    latest = newest(events, uid_of(pod), {"Pulling", "Pulled"})
    if latest is not None and latest.reason == "Pulling":
        return Trouble(f"pulling image {image_of(pod)}", False)
    for container in pod.get("status", {}).get("initContainerStatuses") or []:
        if "running" in (container.get("state") or {}):
            return Trouble(f"waiting for its init container {container.get('name')}", False)
    node = (pod.get("spec") or {}).get("nodeName", "")
    return Trouble(f"its containers are being created on {node}" if node else "waiting for a node", False)


def lost_node(events: tuple[Happening, ...], pod: Json) -> Trouble | None:
    """Containers ready, pod not, and no probe to blame: the node stopped reporting."""
    if condition_of(pod, "Ready").get("status") != "False" or phase_of(pod) != "Running":
        return None
    node = (pod.get("spec") or {}).get("nodeName", "its node")
    told = newest(events, uid_of(pod), _NODE) is not None or pod.get("status", {}).get("reason") == "NodeLost"
    statuses = pod.get("status", {}).get("containerStatuses") or []
    gates = [gate.get("conditionType") for gate in (pod.get("spec") or {}).get("readinessGates") or []]
    whole = bool(statuses) and all(status.get("ready") for status in statuses) and not gates
    if told or whole:
        return Trouble(f"node {node} is not ready", True)
    return None


def note_heads(history: tuple[HeadSeen, ...], pods: Iterable[Json], wall: float) -> tuple[HeadSeen, ...]:
    """The heads of the last minutes, with the ones seen now; what one died of is kept after it is gone."""
    seen = {head.uid: head for head in history}
    for pod in pods:
        if is_head(pod):
            known = seen.get(uid_of(pod))
            end = death_of(pod) or (known.end if known else "")
            since = created_at(pod) or (known.since if known else wall)
            seen[uid_of(pod)] = HeadSeen(uid_of(pod), since, wall, end)
    recent = [head for head in seen.values() if wall - head.last <= CHURN_WINDOW]
    return tuple(sorted(recent, key=lambda head: (head.since, head.uid))[-MOST_HEADS:])


def churn(history: Iterable[HeadSeen], wall: float) -> str:
    """How often the head was replaced lately and what the last one died of; empty when that is normal."""
    recent = [head for head in history if wall - head.since <= CHURN_WINDOW]
    if len(recent) < CHURN_HEADS:
        return ""
    ends = [head.end for head in recent if head.end]
    because = f"; the last one ended by {ends[-1]}" if ends else ""
    return f"{len(recent)} heads in {int(CHURN_WINDOW // 60)} minutes{because}"
