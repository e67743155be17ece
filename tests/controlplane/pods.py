"""What a kubelet would report about a pod in trouble, as status patches.

Pure: every function returns a pod status fragment; `ControlPlane.patch_pod_status` holds the pod (so that kwok
keeps its hands off) and writes it. The states are the steps of an honest status: image, crash, memory, node.
"""

from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


def now() -> str:
    """The time, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: bool, reason: str = "", message: str = "") -> Json:
    """One pod condition."""
    made = {"type": kind, "status": str(status), "lastTransitionTime": now()}
    return {**made, **({"reason": reason} if reason else {}), **({"message": message} if message else {})}


def container(name: str, state: Json, *, image: str = "image", ready: bool = False, **more: object) -> Json:
    """One container status; `more` may hold restartCount or lastState."""
    base: Json = {"name": name, "image": image, "imageID": "", "restartCount": 0}
    return {**base, "ready": ready, "started": ready, "state": state, **more}


def _pending(name: str, reason: str, message: str) -> Json:
    return _not_ready("Pending", container(name, {"waiting": {"reason": reason, "message": message}}))


def _not_ready(phase: str, status: Json, reason: str = "ContainersNotReady") -> Json:
    message = f"containers with unready status: [{status['name']}]"
    unready = [condition(kind, False, reason, message) for kind in ("Ready", "ContainersReady")]
    return {"phase": phase, "conditions": unready, "containerStatuses": [status]}


def _terminated(code: int, reason: str) -> Json:
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}}


def pulling(name: str) -> Json:
    """The image is being pulled."""
    return _pending(name, "ContainerCreating", "")


def image_pull_backoff(name: str, image: str = "example.com/none:1") -> Json:
    """The image cannot be pulled."""
    return _pending(name, "ImagePullBackOff", f'Back-off pulling image "{image}": not found')


def config_error(name: str, secret: str = "token") -> Json:
    """A Secret that the container needs is missing."""
    return _pending(name, "CreateContainerConfigError", f'secret "{secret}" not found')


def unschedulable(message: str = "0/3 nodes are available: 3 Insufficient cpu.") -> Json:
    """No node takes it. (The real scheduler says so too, when a pod asks for more than the nodes have.)"""
    return {"phase": "Pending", "conditions": [condition("PodScheduled", False, "Unschedulable", message)]}


def crash_loop(name: str, code: int = 1, restarts: int = 3, reason: str = "Error") -> Json:
    """The container ends again and again, and the kubelet waits before the next try."""
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}
    last = _terminated(code, reason)
    return _not_ready("Running", container(name, waiting, restartCount=restarts, lastState=last))


def hook_error(name: str) -> Json:
    """The postStart hook failed, and the container was killed for it."""
    waiting = {"waiting": {"reason": "PostStartHookError", "message": "Exec lifecycle hook failed"}}
    return _not_ready("Running", container(name, waiting, restartCount=1))


def oom_killed(name: str, *, phase: str = "Failed") -> Json:
    """The container used more memory than its limit; with restartPolicy Never the pod has failed."""
    return _not_ready(phase, container(name, _terminated(137, "OOMKilled")), "PodFailed")


def restarted(name: str, restarts: int = 1) -> Json:
    """The container ended and runs again, in the same pod, not Ready yet."""
    running = {"running": {"startedAt": now()}}
    last = _terminated(137, "OOMKilled")
    return _not_ready("Running", container(name, running, restartCount=restarts, lastState=last))


def evicted(message: str = "The node was low on resource: memory.") -> Json:
    """The kubelet removed the pod to save its node."""
    return {"phase": "Failed", "reason": "Evicted", "message": message}


def unhealthy(name: str) -> Json:
    """It runs, and its readiness probe fails."""
    return _not_ready("Running", container(name, {"running": {"startedAt": now()}}))


def node_lost(name: str) -> Json:
    """Its node went silent: the container was fine when last heard of, the pod is not Ready."""
    fine = container(name, {"running": {"startedAt": now()}}, ready=True)
    ready = condition("Ready", False, "NodeNotReady", "Node is not ready")
    return {"phase": "Running", "conditions": [ready], "containerStatuses": [fine]}


def merged(status: Json, patch: Json) -> Json:
    """A merge patch that keeps the conditions and containers it does not speak of, for JSON merge replaces lists."""
    out = dict(patch)
    for field, key in (("conditions", "type"), ("containerStatuses", "name"), ("initContainerStatuses", "name")):
        if field in patch:
            kept = {item[key]: item for item in status.get(field, [])}
            kept.update({item[key]: item for item in patch[field]})
            out[field] = list(kept.values())
    return out
