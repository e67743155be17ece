"""RayClusters and pods as the API server really shows them, in as few words as a test needs."""

import copy
from datetime import UTC, datetime
from typing import Any

from kraynd.core.bootstrap import BootstrapSettings
from kraynd.core.manifest import HEAD_GROUP, ImageChoice, Owner, build_manifest, template_hashes
from kraynd.core.model import ClusterKey, Json
from kraynd.core.plan import ClusterMemory, Declared, Inputs
from krayne.config import ClusterConfig

WALL = 1_900_000_000.0
KEY = ClusterKey("default", "demo")
IMAGE = ImageChoice("rayproject/ray:2.50.0-py311", "2.50.0", "client")
ME = Owner("home-1", "laptop", "ann")
OTHER = Owner("home-2", "desk", "bob")
WORLD = "world-a"


def stamp(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def config(**fields: Any) -> ClusterConfig:
    return ClusterConfig.model_validate({"name": "demo", **fields})


def manifest(made_of: ClusterConfig | None = None, owner: Owner = ME) -> Json:
    """As built, but for the services' program: some 40 KiB that no planner looks into."""
    made = build_manifest(made_of or config(), image=IMAGE, bootstrap=BootstrapSettings(), owner=owner)
    container = made["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    if "lifecycle" in container:
        container["lifecycle"] = {"postStart": {"exec": {"command": ["/bin/sh", "-c", "start services"]}}}
    return made


def live(of: Json | None = None, *, uid: str = "u1", version: str = "10", age: float = 3600, **status: Any) -> Json:
    """The object after the API server and the CRD's defaults have been over it."""
    made = copy.deepcopy(of if of is not None else manifest())
    made["metadata"] |= {
        "uid": uid,
        "resourceVersion": version,
        "generation": 1,
        "creationTimestamp": stamp(WALL - age),
        "managedFields": [{"manager": "krayne", "operation": "Update"}],
    }
    for group in made["spec"]["workerGroupSpecs"]:
        group.setdefault("numOfHosts", 1)
        group.setdefault("scaleStrategy", {})
    if status:
        made["status"] = status
    return made


def provisioned(**more: Any) -> Json:
    """The status the operator writes once, and never takes back."""
    return {
        "state": "ready",
        "conditions": [
            condition("HeadPodReady", "True", "HeadPodRunningAndReady"),
            condition("RayClusterProvisioned", "True", "AllPodRunningAndReadyFirstTime"),
        ],
        "readyWorkerReplicas": 1,
        **more,
    }


def condition(kind: str, status: str, reason: str = "", message: str = "", age: float = 60) -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": stamp(WALL - age),
    }


def pod(
    name: str,
    *,
    group: str = HEAD_GROUP,
    phase: str = "Running",
    ready: bool | None = None,
    age: float = 3600,
    image: str = IMAGE.image,
    node: str = "node-1",
    deleting: bool = False,
    template_hash: str | None = None,
    container: Json | None = None,
    conditions: tuple[Json, ...] = (),
    **status: Any,
) -> Json:
    """A pod. `container` is the Ray container's state; by default it runs when the phase is Running."""
    kind = "head" if group == HEAD_GROUP else "worker"
    is_ready = phase == "Running" if ready is None else ready
    state = container or ({"running": {"startedAt": stamp(WALL - age)}} if phase == "Running" else {})
    if template_hash is None:
        template_hash = template_hashes(manifest()).get(group, "")
    made: Json = {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": stamp(WALL - age),
            "labels": {
                "ray.io/cluster": "demo",
                "ray.io/group": group,
                "ray.io/node-type": kind,
                "ray.io/is-ray-node": "yes",
            },
            "annotations": {"krayne.dev/template-hash": template_hash},
        },
        "spec": {"containers": [{"name": f"ray-{kind}", "image": image}], "nodeName": node},
        "status": {
            "phase": phase,
            "startTime": stamp(WALL - age),
            "conditions": [
                condition("PodScheduled", "True"),
                condition("Ready", "True" if is_ready else "False", age=min(age, 60)),
                *conditions,
            ],
            "containerStatuses": [
                {
                    "name": f"ray-{kind}",
                    "image": image,
                    "ready": is_ready,
                    "restartCount": 0,
                    "state": state,
                }
            ],
            **status,
        },
    }
    if conditions:  # later ones win, as a kubelet has one of each type
        kinds = {one["type"]: one for one in made["status"]["conditions"]}
        made["status"]["conditions"] = list(kinds.values())
    if deleting:
        made["metadata"]["deletionTimestamp"] = stamp(WALL - 5)
    return made


def event(subject: str, reason: str, text: str, *, age: float = 5, warning: bool = True) -> Json:
    """A core/v1 Event as the scheduler writes it: no first or last timestamp."""
    return {
        "metadata": {"name": f"{reason}.1", "creationTimestamp": stamp(WALL - age)},
        "involvedObject": {"uid": subject},
        "reason": reason,
        "message": text,
        "type": "Warning" if warning else "Normal",
        "eventTime": stamp(WALL - age),
        "firstTimestamp": None,
        "lastTimestamp": None,
    }


def inputs(
    *,
    now: Json | None = None,
    wanted: ClusterConfig | None = None,
    memory: ClusterMemory | None = None,
    **more: Any,
) -> Inputs:
    """One cluster's planning; `wanted` None means that no file declares it."""
    declared = None if wanted is None else Declared(KEY, wanted, "demo.yaml")
    defaults: dict[str, Any] = {
        "key": KEY,
        "owner": ME,
        "memory": memory or ClusterMemory(),
        "live": now,
        "declared": declared,
        "manifest": None if wanted is None else manifest(wanted),
        "image": IMAGE,
        "synced": True,
        "world": WORLD,
        "memory_world": WORLD,
        "seen_world": WORLD,
    }
    return Inputs(**{**defaults, **more})


def settled(made_of: ClusterConfig | None = None, uid: str = "u1", **more: Any) -> ClusterMemory:
    """What is remembered of a cluster that was created from this config."""
    return ClusterMemory(**{"uid": uid, "ours": True, "last_applied": manifest(made_of), "image": IMAGE, **more})
