"""A live RayCluster that somebody else made -> the ClusterConfig that declares it as it is. Pure.

Only what a cluster file can say is read; the rest stays with the live object, since what we never declared is not ours
to change. What cannot be declared at all is refused with a sentence.
"""

from typing import Any

from pydantic import ValidationError

from kraynd.core.model import CODE_SERVER_PORT, NOTEBOOK_PORT, SSH_PORT, Json
from krayne.config import ClusterConfig, ConfigValidationError

GPU = "nvidia.com/gpu"


def config_of(live: Json) -> ClusterConfig:
    """The config of a live RayCluster. Raises ConfigValidationError where a cluster file could not say it."""
    spec, metadata = live.get("spec") or {}, live["metadata"]
    head = spec.get("headGroupSpec") or {}
    container = _ray_container(head)
    ports = {port.get("containerPort") for port in container.get("ports") or ()}
    try:
        return ClusterConfig.model_validate(
            {
                "name": metadata["name"],
                "namespace": metadata.get("namespace") or "default",
                "head": {
                    **_resources(container),
                    "image": container.get("image"),
                    "runs_tasks": str((head.get("rayStartParams") or {}).get("num-cpus", "")) != "0",
                },
                "worker_groups": [_group(one) for one in spec.get("workerGroupSpecs") or ()],
                "services": {
                    "notebook": NOTEBOOK_PORT in ports,
                    "code_server": CODE_SERVER_PORT in ports,
                    "ssh": SSH_PORT in ports,
                },
                "autoscaler": _autoscaler(spec),
            }
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ConfigValidationError(
            f"cluster {metadata['name']} cannot be declared as it is: {place}: {fault['msg']}",
            hint="write its file by hand in ~/.krayne/clusters, then krayne adopt",
        ) from None


def _group(group: Json) -> Json:
    container = _ray_container(group)
    low = int(group.get("minReplicas") or 0)
    wanted = max(int(group.get("replicas") or 0), low)
    return {
        "name": group["groupName"],
        "replicas": wanted,
        "min_replicas": low,
        "max_replicas": min(int(group.get("maxReplicas") or wanted), 2**31 - 1),
        "image": container.get("image"),
        "gpus": int(_amounts(container).get(GPU) or 0),
        **_resources(container),
    }


def _autoscaler(spec: Json) -> Json:
    options = spec.get("autoscalerOptions") or {}
    found: dict[str, Any] = {"enabled": bool(spec.get("enableInTreeAutoscaling"))}
    if options.get("idleTimeoutSeconds") is not None:
        found["idle_timeout_seconds"] = int(options["idleTimeoutSeconds"])
    if options.get("upscalingMode"):
        found["upscaling_mode"] = options["upscalingMode"]
    amounts = (options.get("resources") or {}).get("limits") or {}
    return found | {name: str(amounts[name]) for name in ("cpu", "memory") if name in amounts}


def _ray_container(group: Json) -> Json:
    """Container 0, as KubeRay demands."""
    containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or [{}]
    found: Json = containers[0]
    return found


def _amounts(container: Json) -> Json:
    resources = container.get("resources") or {}
    return {**(resources.get("requests") or {}), **(resources.get("limits") or {})}


def _resources(container: Json) -> Json:
    amounts = _amounts(container)
    names = {"cpus": "cpu", "memory": "memory"}
    return {ours: str(amounts[theirs]) for ours, theirs in names.items() if theirs in amounts}
