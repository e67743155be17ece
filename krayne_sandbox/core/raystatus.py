"""A RayCluster's status as KubeRay writes it: counts, conditions, state, the head's place. Pure.

Invariant: equal facts give an equal status but for its times, so that nothing is written when nothing changed.
"""

from collections.abc import Sequence
from typing import Any

from krayne_sandbox.core.meta import Json, copied, is_deleting, metadata, name_of
from krayne_sandbox.core.rayplan import HEAD, WORKER, head_ports, head_service, of_type, phase_of, sizes_of, spec_of

HEAD_READY, PROVISIONED = "HeadPodReady", "RayClusterProvisioned"
SUSPENDING, SUSPENDED = "RayClusterSuspending", "RayClusterSuspended"


def status_of(cluster: Json, pods: Sequence[Json], now: str) -> Json:
    """The new status; the old one itself when nothing changed but the time."""
    old = cluster.get("status") or {}
    head = next((pod for pod in of_type(pods, HEAD) if not is_deleting(pod)), None)
    workers, sizes = of_type(pods, WORKER), sizes_of(cluster)
    new: Json = {
        **copied(old),
        "desiredWorkerReplicas": sizes.desired, "minWorkerReplicas": sizes.least, "maxWorkerReplicas": sizes.most,
        "availableWorkerReplicas": sum(phase_of(pod) == "Running" for pod in workers),
        "readyWorkerReplicas": sum(is_ready(pod) for pod in workers),
        "endpoints": {name: str(port) for name, port in head_ports(cluster).items()},
        "head": _head(cluster, head),
        "observedGeneration": int(metadata(cluster).get("generation") or 1),
    }  # fmt: skip
    suspend = bool(spec_of(cluster).get("suspend"))
    conditions = _Conditions(old.get("conditions") or [], now, new["observedGeneration"])
    all_ready = head is not None and is_ready(head) and new["readyWorkerReplicas"] >= sizes.desired
    _judge(conditions, head, bool(pods), all_ready, suspend)
    new["conditions"] = conditions.known
    if suspend and not pods:
        new["state"] = "suspended"
    elif all_ready and not suspend:
        new["state"] = "ready"
    elif old.get("state") == "suspended":
        new.pop("state")
    if new.get("state") and new.get("state") != old.get("state"):
        new["stateTransitionTimes"] = {**(old.get("stateTransitionTimes") or {}), new["state"]: now}
    if {**new, "lastUpdateTime": ""} == {**old, "lastUpdateTime": ""}:
        return dict(old)
    return {**new, "lastUpdateTime": now}


def is_ready(pod: Json) -> bool:
    """Whether it runs and passes its probe."""
    return condition_of(pod, "Ready").get("status") == "True"


def condition_of(thing: Json, kind: str) -> Json:
    """A condition of its status; empty when it has none."""
    for one in (thing.get("status") or {}).get("conditions") or ():
        if one.get("type") == kind:
            return dict(one)
    return {}


def _head(cluster: Json, head: Json | None) -> Json:
    place = {"serviceName": name_of(head_service(cluster))}
    if head is None:
        return place
    told = {"podName": name_of(head), "podIP": (head.get("status") or {}).get("podIP")}
    return {
        **place,
        **{key: value for key, value in told.items() if value},
        **({"serviceIP": told["podIP"]} if told["podIP"] else {}),
    }


class _Conditions:
    """Conditions whose times change with their status alone."""

    def __init__(self, known: Sequence[Json], now: str, generation: int) -> None:
        self.known: list[Json] = [copied(one) for one in known]
        self._now, self._generation = now, generation

    def set(self, kind: str, is_true: bool, reason: str, message: str = "") -> None:
        status = "True" if is_true else "False"
        new: dict[str, Any] = {
            "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": self._now,
        }  # fmt: skip
        for at, old in enumerate(self.known):
            if old.get("type") == kind:
                if old.get("status") == status:
                    new["lastTransitionTime"] = old.get("lastTransitionTime")
                self.known[at] = new
                return
        self.known.append(new)

    def drop(self, kind: str) -> None:
        self.known = [one for one in self.known if one.get("type") != kind]

    def has(self, kind: str) -> bool:
        return any(one.get("type") == kind and one.get("status") == "True" for one in self.known)


def _judge(told: _Conditions, head: Json | None, pods: bool, all_ready: bool, suspend: bool) -> None:
    if suspend:
        told.set(SUSPENDING, pods, "UserRequestSuspend" if pods else SUSPENDED)
        told.set(
            SUSPENDED,
            not pods,
            "RayClusterSuspended" if not pods else "RayClusterSuspending",
            "" if pods else "RayCluster has been suspended",
        )
        told.drop(PROVISIONED)
    elif told.has(SUSPENDED) or told.has(SUSPENDING):
        told.set(SUSPENDING, False, "UserRequestResume")
        told.set(SUSPENDED, False, "UserRequestResume")
    told.set(HEAD_READY, *_head_ready(head))
    if suspend:
        return
    if all_ready:
        told.set(PROVISIONED, True, "AllPodRunningAndReadyFirstTime", "All Ray Pods are ready for the first time")
    elif not told.has(PROVISIONED):
        text = "RayCluster Pods are being provisioned for first time"
        told.set(PROVISIONED, False, "RayClusterPodsProvisioning", text)


def _head_ready(head: Json | None) -> tuple[bool, str, str]:
    if head is None:
        return False, "HeadPodNotFound", "Head Pod not found"
    if is_ready(head):
        return True, "HeadPodRunningAndReady", ""
    for one in (head.get("status") or {}).get("containerStatuses") or ():
        state = one.get("state") or {}
        found: Json = state.get("waiting") or state.get("terminated") or {}
        if found.get("reason"):
            return False, str(found["reason"]), str(found.get("message") or "")
    known = condition_of(head, "Ready")
    return False, str(known.get("reason") or "Unknown"), str(known.get("message") or "")
