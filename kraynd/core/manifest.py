"""ClusterConfig -> the whole ray.io/v1 RayCluster, and back: whose a live one is, and what it was made of.

Deterministic: the same arguments give the same manifest, byte for byte. Requests equal limits everywhere (Guaranteed
pods). Written here and nowhere else: the names of our label and annotations. Talks to nothing.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from kraynd.core.bootstrap import BootstrapSettings, head_lifecycle, without_bootstrap
from kraynd.core.images import DEFAULT_IMAGE, ImageChoice, choose_image, explain_versions, ray_version_of, warnings
from kraynd.core.model import Json, services_of
from krayne.config import ClusterConfig, HeadNodeConfig, PodFragment, WorkerGroupConfig, parse_quantity

__all__ = [
    "DEFAULT_IMAGE",
    "DEFAULT_IMAGE_ANNOTATION",
    "HEAD_GROUP",
    "HOME_ID_ANNOTATION",
    "MANAGED_BY",
    "MANAGED_BY_LABEL",
    "OWNER_ANNOTATION",
    "TEMPLATE_HASH_ANNOTATION",
    "BootstrapSettings",
    "ImageChoice",
    "Owner",
    "build_manifest",
    "choose_image",
    "explain_versions",
    "owner_of",
    "recorded_image",
    "template_hashes",
    "warnings",
]

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "krayne"
HOME_ID_ANNOTATION = "krayne.dev/home-id"
OWNER_ANNOTATION = "krayne.dev/owner"
TEMPLATE_HASH_ANNOTATION = "krayne.dev/template-hash"
DEFAULT_IMAGE_ANNOTATION = "krayne.dev/default-image"

# KubeRay's value of the label ray.io/group on head pods.
HEAD_GROUP = "headgroup"
HEAD_CONTAINER = "ray-head"
WORKER_CONTAINER = "ray-worker"
GPU_RESOURCE = "nvidia.com/gpu"
# Below these GCS, the dashboard and the services do not start (the configuration reference's floor).
HEAD_MIN_CPUS = "1"
HEAD_MIN_MEMORY = "4Gi"
# KubeRay finds the GCS port by this name.
GCS_PORT = {"name": "gcs-server", "containerPort": 6379, "protocol": "TCP"}
# KubeRay's own default: its Service and jobs reach the dashboard over the pod network.
DASHBOARD_HOST = "0.0.0.0"  # noqa: S104

_HASH_DIGITS = 16


class Owner(msgspec.Struct, frozen=True):
    """Which home (random id) keeps a cluster, and where that home was when it last wrote."""

    home_id: str
    host: str
    user: str


def build_manifest(config: ClusterConfig, *, image: ImageChoice, bootstrap: BootstrapSettings, owner: Owner) -> Json:
    """The RayCluster that `config` declares. `image` is the cluster's, for nodes whose file names none."""
    head_image = config.head.image or image.image
    head = _head_group(config, head_image, bootstrap)
    groups = [_worker_group(group, image, _restart_policy(config)) for group in config.worker_groups]
    _stamp(head, {"autoscaler": _sidecar(config)})
    for group in groups:
        _stamp(group, {})
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": config.name,
            "namespace": config.namespace,
            "labels": {MANAGED_BY_LABEL: MANAGED_BY},
            "annotations": {
                DEFAULT_IMAGE_ANNOTATION: msgspec.json.encode(image).decode(),
                HOME_ID_ANNOTATION: owner.home_id,
                OWNER_ANNOTATION: f"{owner.user}@{owner.host}",
            },
        },
        "spec": {
            "rayVersion": ray_version_of(head_image) or image.ray_version,
            "enableInTreeAutoscaling": config.autoscaler.enabled,
            "autoscalerOptions": _autoscaler_options(config),
            "headGroupSpec": head,
            "workerGroupSpecs": groups,
        },
    }


def owner_of(live: Json) -> Owner | None:
    """Whose home keeps a live RayCluster; None when none of ours ever did."""
    metadata = live.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    home_id = annotations.get(HOME_ID_ANNOTATION)
    if not home_id or (metadata.get("labels") or {}).get(MANAGED_BY_LABEL) != MANAGED_BY:
        return None
    user, _, host = annotations.get(OWNER_ANNOTATION, "").rpartition("@")
    return Owner(home_id=home_id, host=host, user=user)


def recorded_image(live: Json) -> ImageChoice | None:
    """The image recorded with a live RayCluster when it was made; None when it bears no readable record."""
    text = ((live.get("metadata") or {}).get("annotations") or {}).get(DEFAULT_IMAGE_ANNOTATION, "")
    try:
        return msgspec.json.decode(text, type=ImageChoice)
    except msgspec.DecodeError:  # somebody edited it, or a newer version wrote it
        return None


def template_hashes(manifest: Json) -> Mapping[str, str]:
    """The hash each group's pods must bear to be what the manifest says; the head is "headgroup"."""
    spec = manifest.get("spec") or {}
    groups = {HEAD_GROUP: spec.get("headGroupSpec") or {}}
    groups |= {group["groupName"]: group for group in spec.get("workerGroupSpecs") or ()}
    return {name: _written_hash(group) for name, group in groups.items()}


def _written_hash(group: Json) -> str:
    metadata = (group.get("template") or {}).get("metadata") or {}
    return str((metadata.get("annotations") or {}).get(TEMPLATE_HASH_ANNOTATION, ""))


def _stamp(group: Json, more: Json) -> None:
    """Write the hash of all that KubeRay would not roll out. A newer bootstrap of ours is no reason to restart."""
    template = {**group["template"], "spec": without_bootstrap(group["template"]["spec"])}
    meant = {"template": template, "rayStartParams": group["rayStartParams"], **more}
    digest = hashlib.sha256(msgspec.json.encode(meant, order="deterministic")).hexdigest()
    group["template"]["metadata"]["annotations"][TEMPLATE_HASH_ANNOTATION] = digest[:_HASH_DIGITS]


def _head_group(config: ClusterConfig, image: str, bootstrap: BootstrapSettings) -> Json:
    head = config.head
    container: Json = {
        "name": HEAD_CONTAINER,
        "image": image,
        "ports": _head_ports(config),
        "resources": _resources(_at_least(head.cpus, HEAD_MIN_CPUS), _at_least(head.memory, HEAD_MIN_MEMORY)),
    }
    lifecycle = head_lifecycle(config, bootstrap)
    if lifecycle:
        container["lifecycle"] = lifecycle
    return {
        "rayStartParams": {"dashboard-host": DASHBOARD_HOST, "num-cpus": _advertised_cpus(head)},
        "template": _template(container, head.pod, _restart_policy(config)),
    }


def _worker_group(group: WorkerGroupConfig, image: ImageChoice, restart_policy: str | None) -> Json:
    container = {
        "name": WORKER_CONTAINER,
        "image": group.image or image.image,
        "resources": _resources(group.cpus, group.memory, group.gpus),
    }
    return {
        "groupName": group.name,
        "replicas": min(max(group.replicas, group.min_replicas), group.max_replicas),
        "minReplicas": group.min_replicas,
        "maxReplicas": group.max_replicas,
        "rayStartParams": {},
        "template": _template(container, group.pod, restart_policy),
    }


def _template(container: Json, fragment: PodFragment, restart_policy: str | None) -> Json:
    """The pod template around the Ray container, which KubeRay wants first. What is ours wins over the fragment."""
    ray = {"name": container["name"], **fragment.container_fields(), **container}
    spec: Json = {**fragment.pod_fields(), "containers": [ray]}
    if restart_policy:
        spec["restartPolicy"] = restart_policy
    metadata: Json = {"annotations": dict(fragment.annotations)}
    if fragment.labels:
        metadata["labels"] = dict(fragment.labels)
    return {"metadata": metadata, "spec": spec}


def _head_ports(config: ClusterConfig) -> list[Json]:
    served = [
        {"name": service.name, "containerPort": service.remote_port, "protocol": "TCP"}
        for service in services_of(config)
    ]
    return [dict(GCS_PORT), *served]


def _resources(cpus: str, memory: str, gpus: int = 0) -> Json:
    amounts: dict[str, Any] = {"cpu": cpus, "memory": memory}
    if gpus:
        amounts[GPU_RESOURCE] = str(gpus)
    return {"limits": amounts, "requests": dict(amounts)}


def _at_least(quantity: str, floor: str) -> str:
    return quantity if parse_quantity(quantity) >= parse_quantity(floor) else floor


def _advertised_cpus(head: HeadNodeConfig) -> str:
    """`ray start --num-cpus`: whole numbers only, which the config has checked."""
    return str(int(parse_quantity(_at_least(head.cpus, HEAD_MIN_CPUS)))) if head.runs_tasks else "0"


def _restart_policy(config: ClusterConfig) -> str | None:
    """Autoscaler v2 wants pods that are replaced, not restarted; KubeRay refuses anything else."""
    return "Never" if config.autoscaler.enabled else None


def _autoscaler_options(config: ClusterConfig) -> Json:
    """Always with the version: when unset, Ray runs v2 but KubeRay does not know it."""
    autoscaler = config.autoscaler
    return {
        "version": "v2",
        "idleTimeoutSeconds": autoscaler.idle_timeout_seconds,
        "upscalingMode": autoscaler.upscaling_mode,
        "resources": _resources(autoscaler.cpu, autoscaler.memory),
    }


def _sidecar(config: ClusterConfig) -> Json:
    """What decides the autoscaler's container, which KubeRay adds only to new head pods."""
    enabled = config.autoscaler.enabled
    return {"enabled": enabled, "resources": _autoscaler_options(config)["resources"] if enabled else {}}
