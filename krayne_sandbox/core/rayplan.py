"""RayCluster and what exists of it -> what must be made and unmade, as KubeRay decides it. Pure.

Invariant: carried out and planned again, a plan is empty; a pod is deleted for one reason, which its event tells.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from krayne_sandbox.core.meta import Json, copied, is_deleting, metadata, name_of, namespace_of

CREATED_BY: Final = {"app.kubernetes.io/created-by": "kuberay-operator", "app.kubernetes.io/name": "kuberay"}
HEAD_GROUP: Final = "headgroup"
HEAD, WORKER = "head", "worker"
PREFIX_LIMIT: Final = 50  # characters of a generated pod name's beginning
SERVICE_LIMIT: Final = 50
OVER: Final = frozenset({"Failed", "Succeeded"})
# The ports a head has when its template names none.
DEFAULT_PORTS: Final = {"client": 10001, "dashboard": 8265, "gcs-server": 6379, "metrics": 8080, "serve": 8000}
NODE_NAME: Final = "sandbox"
KUBERAY: Final = "1.6.2"  # whose definition this is, and whose doings
AUTOSCALER: Final = "autoscaler"  # the container of Ray's autoscaler in a head pod
START_COMMAND: Final = "KUBERAY_GEN_RAY_START_CMD"  # the variable in which KubeRay tells it to the container


class Doomed(NamedTuple):
    """A pod to delete, and how its event tells it."""

    pod: Json
    reason: str
    text: str


class Plan(NamedTuple):
    """What to do, in this order: deletions, the service, the pods."""

    doomed: tuple[Doomed, ...] = ()
    service: Json | None = None
    pods: tuple[Json, ...] = ()


class Sizes(NamedTuple):
    """Workers wanted, within their bounds, and the bounds; all groups together."""

    desired: int
    least: int
    most: int


def plan(cluster: Json, pods: Sequence[Json], services: Sequence[Json]) -> Plan:
    """What is missing or too much. `pods` and `services` bear this cluster's label."""
    if is_deleting(cluster):
        return Plan()  # what it owns goes with it
    if spec_of(cluster).get("suspend"):
        return Plan(tuple(Doomed(pod, "DeletedPod", _deleted("Pod", pod, "due to suspension")) for pod in living(pods)))
    wanted = head_service(cluster)
    service = None if any(name_of(one) == name_of(wanted) for one in services) else wanted
    doomed, new = _head(cluster, of_type(pods, HEAD))
    for group in groups_of(cluster):
        gone, more = _group(
            cluster, group, [pod for pod in of_type(pods, WORKER) if group_name(pod) == group_of(group)]
        )
        doomed, new = [*doomed, *gone], [*new, *more]
    return Plan(tuple(doomed), service, tuple(new))


def spec_of(cluster: Json) -> Json:
    """The cluster's spec, whatever stands there."""
    found = cluster.get("spec")
    return found if isinstance(found, dict) else {}


def groups_of(cluster: Json) -> list[Json]:
    """Its worker groups."""
    return [one for one in spec_of(cluster).get("workerGroupSpecs") or () if isinstance(one, dict)]


def is_autoscaled(cluster: Json) -> bool:
    """Whether Ray's autoscaler chooses the number of workers."""
    return bool(spec_of(cluster).get("enableInTreeAutoscaling"))


def group_of(group: Json) -> str:
    """A worker group's name."""
    return str(group.get("groupName") or "")


def labels_of(thing: Json) -> Json:
    """Its labels."""
    return metadata(thing).get("labels") or {}


def group_name(pod: Json) -> str:
    """The group a pod belongs to."""
    return str(labels_of(pod).get("ray.io/group") or "")


def of_type(pods: Sequence[Json], kind: str) -> list[Json]:
    """The head pods or the worker pods."""
    return [pod for pod in pods if labels_of(pod).get("ray.io/node-type") == kind]


def living(pods: Sequence[Json]) -> list[Json]:
    """Those whose deletion nobody asked for."""
    return [pod for pod in pods if not is_deleting(pod)]


def phase_of(pod: Json) -> str:
    """As in its status."""
    return str((pod.get("status") or {}).get("phase") or "Pending")


def replicas_of(group: Json) -> int:
    """Pods a group shall have, within its bounds."""
    if group.get("suspend"):
        return 0
    least, most = bounds_of(group)
    asked = group.get("replicas")
    return min(max(least if asked is None else int(asked), least), most)


def bounds_of(group: Json) -> tuple[int, int]:
    """The least and the most pods of a group."""
    most = group.get("maxReplicas")
    return int(group.get("minReplicas") or 0), 2**31 - 1 if most is None else int(most)


def sizes_of(cluster: Json) -> Sizes:
    """Of all groups together."""
    groups = groups_of(cluster)
    bounds = [bounds_of(group) for group in groups]
    most = min(sum(one for _, one in bounds), 2**31 - 1)
    return Sizes(sum(map(replicas_of, groups)), sum(one for one, _ in bounds), most)


def head_service(cluster: Json) -> Json:
    """The head's service."""
    name = name_of(cluster)
    labels = {**CREATED_BY, **_identity(name, HEAD)}
    ports = [
        {"name": port, "port": number, "protocol": "TCP", "targetPort": number, "appProtocol": "tcp"}
        for port, number in sorted(head_ports(cluster).items())
    ]
    return {
        "metadata": _owned(cluster, labels) | {"name": f"{name[:SERVICE_LIMIT]}-head-svc"},
        "spec": {
            "type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "ports": ports,
            "selector": labels, "publishNotReadyAddresses": True, "sessionAffinity": "None",
        },
        "status": {"loadBalancer": {}},
    }  # fmt: skip


def head_ports(cluster: Json) -> dict[str, int]:
    """The head's named ports; the usual ones when the template names none."""
    containers = pod_spec_of(spec_of(cluster).get("headGroupSpec") or {}).get("containers") or [{}]
    named = {
        str(one.get("name")): int(one["containerPort"]) for one in containers[0].get("ports") or () if one.get("name")
    }
    return {**(named or DEFAULT_PORTS), "metrics": named.get("metrics", DEFAULT_PORTS["metrics"])}


def pod_spec_of(group: Json) -> Json:
    """The spec of a group's pod template."""
    found = (group.get("template") or {}).get("spec")
    return found if isinstance(found, dict) else {}


def _head(cluster: Json, heads: Sequence[Json]) -> tuple[list[Doomed], list[Json]]:
    alive = living(heads)
    over = [pod for pod in alive if _is_dead(pod)]
    doomed = [Doomed(pod, "DeletedHeadPod", _why_dead(pod, "head")) for pod in over]
    staying = [pod for pod in alive if not _is_dead(pod)]
    doomed += [Doomed(pod, "DeletedHeadPod", _deleted("head Pod", pod, "there are several")) for pod in staying[1:]]
    if heads:
        return doomed, []  # an old head must be gone before a new one is made
    return doomed, [_pod(cluster, spec_of(cluster).get("headGroupSpec") or {}, HEAD, HEAD_GROUP)]


def _group(cluster: Json, group: Json, pods: Sequence[Json]) -> tuple[list[Doomed], list[Json]]:
    alive = living(pods)
    doomed = [Doomed(pod, "DeletedWorkerPod", _why_dead(pod, "worker")) for pod in alive if _is_dead(pod)]
    named = set((group.get("scaleStrategy") or {}).get("workersToDelete") or ())
    staying = [pod for pod in alive if not _is_dead(pod)]
    doomed += [
        Doomed(pod, "DeletedWorkerPod", f"Deleted pod {namespace_of(pod)}/{name_of(pod)}")
        for pod in staying
        if name_of(pod) in named
    ]
    staying = [pod for pod in staying if name_of(pod) not in named]
    wanted = replicas_of(group)
    if len(staying) > wanted and not is_autoscaled(cluster):  # it names the pods to lose
        doomed += [
            Doomed(pod, "DeletedWorkerPod", f"Deleted Pod {namespace_of(pod)}/{name_of(pod)}")
            for pod in _last_first(staying)[: len(staying) - wanted]
        ]
    return doomed, [_pod(cluster, group, WORKER, group_of(group)) for _ in range(wanted - len(staying))]


def _last_first(pods: Sequence[Json]) -> list[Json]:
    """The pods to lose first: those that do not run yet, then the youngest."""

    def age(pod: Json) -> tuple[bool, str, str]:
        return phase_of(pod) != "Running", str(metadata(pod).get("creationTimestamp")), name_of(pod)

    return sorted(pods, key=age, reverse=True)


def _is_dead(pod: Json) -> bool:
    """Whether it must be replaced: it ended, or its Ray container did and is never started again."""
    return phase_of(pod) in OVER


def _why_dead(pod: Json, kind: str) -> str:
    return (
        f"Deleted {kind} Pod {namespace_of(pod)}/{name_of(pod)}; Pod status: {phase_of(pod)}; "
        f"Pod restart policy: {(pod.get('spec') or {}).get('restartPolicy') or 'Always'}"
    )


def _deleted(what: str, pod: Json, why: str) -> str:
    return f"Deleted {what} {namespace_of(pod)}/{name_of(pod)} {why}"


def _identity(name: str, kind: str) -> Json:
    return {
        "ray.io/cluster": name, "ray.io/identifier": f"{name}-{kind}"[:63], "ray.io/node-type": kind,
    }  # fmt: skip


def _owned(cluster: Json, labels: Json) -> Json:
    owner = {
        "apiVersion": "ray.io/v1", "kind": "RayCluster", "name": name_of(cluster), "uid": metadata(cluster).get("uid"),
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    return {"namespace": namespace_of(cluster), "labels": labels, "ownerReferences": [owner]}


def _pod(cluster: Json, group: Json, kind: str, group_label: str) -> Json:
    name = name_of(cluster)
    template = copied(group.get("template") or {})
    given = template.get("metadata") or {}
    own = {**CREATED_BY, **_identity(name, kind), "ray.io/group": group_label, "ray.io/is-ray-node": "yes"}
    meta: Json = _owned(cluster, {**(given.get("labels") or {}), **own})
    middle = "head" if kind == HEAD else f"{group_label}-worker"
    meta["generateName"] = f"{name}-{middle}"[:PREFIX_LIMIT] + "-"
    meta["annotations"] = {**(given.get("annotations") or {}), "ray.io/kuberay-version": f"v{KUBERAY}"}
    spec: dict[str, Any] = {"restartPolicy": "Always", **pod_spec_of({"template": template}), "nodeName": NODE_NAME}
    params = group.get("rayStartParams") or {}
    autoscaled = kind == HEAD and is_autoscaled(cluster)
    if autoscaled:
        params = {**params, "no-monitor": "true"}  # the head's own would be a second one
    _set_command(spec, start_command(kind, params, head_service(cluster)))
    if autoscaled:
        _add_autoscaler(spec, cluster)
    return {"metadata": meta, "spec": spec, "status": {"phase": "Pending"}}


def start_command(kind: str, params: Json, service: Json) -> str:
    """The line KubeRay starts Ray with."""
    given = {str(key): str(value) for key, value in params.items()} | {"block": "true"}
    if kind != HEAD:
        given = {"address": f"{name_of(service)}.{namespace_of(service)}.svc.cluster.local:6379", **given}
    flags = [
        f"--{key}" if one in ("", "true") else f"--{key}={one}" for key, one in sorted(given.items()) if one != "false"
    ]
    return " ".join(["ray start", *(["--head"] if kind == HEAD else []), *flags])


def _set_command(spec: Json, line: str) -> None:
    containers = spec.get("containers") or [{"name": "ray"}]
    first = containers[0]
    env = [one for one in first.get("env") or () if one.get("name") != START_COMMAND]
    first["env"] = [*env, {"name": START_COMMAND, "value": line}]
    if not first.get("command") and not first.get("args"):
        first |= {"command": ["/bin/bash", "-c", "--"], "args": [f"ulimit -n 65536; {line}"]}
    spec["containers"] = [first, *containers[1:]]


def _add_autoscaler(spec: dict[str, Any], cluster: Json) -> None:
    first = spec["containers"][0]
    first["env"] = [*first["env"], {"name": "RAY_enable_autoscaler_v2", "value": "1"}]
    options = spec_of(cluster).get("autoscalerOptions") or {}
    line = f"ray kuberay-autoscaler --cluster-name {name_of(cluster)} --cluster-namespace {namespace_of(cluster)}"
    beside = {
        "name": AUTOSCALER,
        "image": options.get("image") or first.get("image", ""),
        "command": ["/bin/bash", "-c", "--"],
        "args": [line],
        "resources": options.get("resources") or {},
    }
    spec["containers"] = [*spec["containers"], beside]
