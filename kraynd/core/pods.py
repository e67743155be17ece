"""Reading pods: which is the head, how far each is, which run an older template. Pure.

Facts are from pod statuses as the kubelet and scheduler write them; KubeRay's own summary is not used here.
"""

from collections.abc import Iterable, Mapping

from kraynd.core.manifest import HEAD_GROUP, TEMPLATE_HASH_ANNOTATION
from kraynd.core.model import ClusterKey, Json, PodTarget
from kraynd.core.times import unix


def name_of(thing: Json) -> str:
    """The object's name."""
    return str(thing.get("metadata", {}).get("name", ""))


def uid_of(thing: Json) -> str:
    """The object's uid."""
    return str(thing.get("metadata", {}).get("uid", ""))


def group_of(pod: Json) -> str:
    """The worker group's name, or that of KubeRay's head group."""
    return str((pod.get("metadata", {}).get("labels") or {}).get("ray.io/group", ""))


def is_head(pod: Json) -> bool:
    """Whether the pod is a Ray head."""
    return (pod.get("metadata", {}).get("labels") or {}).get("ray.io/node-type") == "head"


def is_worker(pod: Json) -> bool:
    """Whether the pod is a Ray worker."""
    return (pod.get("metadata", {}).get("labels") or {}).get("ray.io/node-type") == "worker"


def is_terminating(thing: Json) -> bool:
    """Whether deletion of the object has begun."""
    return bool(thing.get("metadata", {}).get("deletionTimestamp"))


def is_over(pod: Json) -> bool:
    """Whether the pod ended and will never run again."""
    return phase_of(pod) in {"Failed", "Succeeded"}


def phase_of(pod: Json) -> str:
    """Pending, Running, Succeeded, Failed or Unknown."""
    return str(pod.get("status", {}).get("phase", "Pending"))


def condition_of(thing: Json, kind: str) -> Json:
    """The condition of a type; empty when it is not there."""
    for condition in thing.get("status", {}).get("conditions") or []:
        if condition.get("type") == kind:
            return dict(condition)
    return {}


def is_ready(pod: Json) -> bool:
    """Whether the kubelet says Ready and nobody is taking the pod away."""
    return condition_of(pod, "Ready").get("status") == "True" and not is_terminating(pod) and not is_over(pod)


def created_at(thing: Json) -> float:
    """When the object was made, wall seconds; 0 when unknown."""
    return unix(thing.get("metadata", {}).get("creationTimestamp")) or 0.0


def ray_status(pod: Json) -> Json:
    """The status of the Ray container, which is always the first one of the spec."""
    containers = pod.get("spec", {}).get("containers") or [{}]
    name = containers[0].get("name")
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if name is None or status.get("name") == name:
            return dict(status)
    return {}


def image_of(pod: Json) -> str:
    """The image of the Ray container."""
    return str((pod.get("spec", {}).get("containers") or [{}])[0].get("image", ""))


def is_of_another(pod: Json, cluster: Json | None) -> bool:
    """Whether the pod was made for an earlier cluster of the name: the garbage collector is about to take it."""
    owners = [one for one in pod.get("metadata", {}).get("ownerReferences") or [] if one.get("kind") == "RayCluster"]
    return cluster is not None and bool(owners) and all(one.get("uid") != uid_of(cluster) for one in owners)


def newest_head(pods: Iterable[Json]) -> Json | None:
    """The newest head pod that nobody is taking away, else None."""
    alive = [pod for pod in pods if is_head(pod) and not is_terminating(pod)]
    return max(alive, key=lambda pod: (not is_over(pod), created_at(pod), uid_of(pod)), default=None)


def container_of(pod: Json) -> str:
    """The Ray container's name: it is always the first one of the spec."""
    return str((pod.get("spec", {}).get("containers") or [{}])[0].get("name", ""))


def chosen_worker(pods: Iterable[Json], wanted: str) -> Json | list[str]:
    """The worker pod of this name, or of a name that ends so; empty: the only one. Else the names there are."""
    workers = sorted((pod for pod in pods if is_worker(pod)), key=name_of)
    fit = [pod for pod in workers if name_of(pod) == wanted] or [
        pod for pod in workers if not wanted or name_of(pod).endswith(f"-{wanted}")
    ]
    return fit[0] if len(fit) == 1 else [name_of(pod) for pod in workers]


def head_target(pods: Iterable[Json], cluster: ClusterKey) -> PodTarget | None:
    """The pod a cluster's forwards lead to: the newest head that neither ended nor is being deleted."""
    head = newest_head(pods)
    if head is None or is_over(head):
        return None
    running = phase_of(head) == "Running" and "running" in (ray_status(head).get("state") or {"running": {}})
    return PodTarget(cluster.namespace, name_of(head), uid_of(head), running, is_ready(head))


def restart_needed(
    pods: Iterable[Json], hashes: Mapping[str, str], changed: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Which parts run an older template than the next pod would get: "worker: image (2 of 3 pods)"."""
    running = [pod for pod in pods if not is_terminating(pod) and not is_over(pod)]
    found = []
    for group, wanted in hashes.items():
        members = [pod for pod in running if group_of(pod) == group]
        stale = [pod for pod in members if is_stale(pod, wanted)]
        if stale:
            fields = ", ".join(changed.get(group, ())) or "pod template"
            count = "" if group == HEAD_GROUP else f" ({len(stale)} of {len(members)} pods)"
            found.append(f"{'head' if group == HEAD_GROUP else group}: {fields}{count}")
    return tuple(found)


def is_stale(pod: Json, wanted: str) -> bool:
    """Whether the pod was made from another template. Compared by our own mark: in-place resizes change resources."""
    return str((pod.get("metadata", {}).get("annotations") or {}).get(TEMPLATE_HASH_ANNOTATION, "")) != wanted
