"""A pod's status as a kubelet writes it, from what its process does. Pure."""

from typing import Any, Final

from krayne_sandbox.core.meta import Json

ADDRESS: Final = "127.0.0.1"


def waiting(pod: Json, reason: str, message: str, now: str) -> Json:
    """It cannot start yet."""
    return _status(pod, "Pending", {"waiting": {"reason": reason, "message": message}}, now)


def running(pod: Json, started: str, now: str, *, ready: bool) -> Json:
    """Its process runs."""
    return _status(pod, "Running", {"running": {"startedAt": started}}, now, ready=ready)


def ended(pod: Json, code: int, message: str, now: str) -> Json:
    """Its process has ended; `code` as Popen has it."""
    shown = code if code >= 0 else 128 - code
    reason = "Completed" if not shown else "Error"
    began = _began(pod)
    told: dict[str, Any] = {"exitCode": shown, "reason": reason, "message": message, "finishedAt": now}
    if began:
        told["startedAt"] = began
    if code < 0:
        told["signal"] = -code
    return _status(pod, "Failed" if shown else "Succeeded", {"terminated": told}, now)


def _began(pod: Json) -> str:
    for one in (pod.get("status") or {}).get("containerStatuses") or ():
        found = (one.get("state") or {}).get("running") or {}
        if found.get("startedAt"):
            return str(found["startedAt"])
    return ""


def _status(pod: Json, phase: str, state: Json, now: str, *, ready: bool = False) -> Json:
    old = pod.get("status") or {}
    names: list[Json] = list((pod.get("spec") or {}).get("containers") or ())
    containers = [
        {
            "name": one.get("name"), "image": one.get("image", ""), "imageID": "", "restartCount": 0,
            "ready": ready, "started": phase == "Running", "state": state, "lastState": {},
        }
        for one in names
    ]  # fmt: skip
    why = (
        {} if ready else {"reason": "ContainersNotReady", "message": f"containers with unready status: {_names(names)}"}
    )
    wanted: list[tuple[str, bool, Json]] = [
        ("PodScheduled", True, {}), ("Initialized", True, {}), ("ContainersReady", ready, why), ("Ready", ready, why),
    ]  # fmt: skip
    before = {one.get("type"): one for one in old.get("conditions") or ()}
    conditions = []
    for kind, is_true, more in wanted:
        status = "True" if is_true else "False"
        same = before.get(kind, {}).get("status") == status
        since = before[kind].get("lastTransitionTime", now) if same else now
        conditions.append({"type": kind, "status": status, "lastTransitionTime": since, "lastProbeTime": None, **more})
    return {
        "phase": phase, "hostIP": ADDRESS, "podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}], "qosClass": "Guaranteed",
        "startTime": old.get("startTime") or now, "conditions": conditions, "containerStatuses": containers,
    }  # fmt: skip


def _names(containers: list[Json]) -> str:
    return "[" + " ".join(str(one.get("name")) for one in containers) + "]"
