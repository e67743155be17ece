"""Objects and stores for the sandbox's tests."""

from pathlib import Path
from typing import Any

from krayne_sandbox.store import Store


class Clock:
    """Wall time that moves when told."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def opened(path: Path | str = ":memory:", clock: Clock | None = None) -> Store:
    return Store.open(str(path), clock=clock or Clock())


def thing(name: str, namespace: str = "default", **more: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace, **more.pop("metadata", {})}
    return {"metadata": meta, **more}


def pod(name: str, **more: Any) -> dict[str, Any]:
    spec = {"nodeName": "here", "containers": [{"name": "main", "image": "ray"}], **more.pop("spec", {})}
    return thing(name, spec=spec, **more)


def owned(name: str, owner: dict[str, Any], *, block: bool = False, **more: Any) -> dict[str, Any]:
    reference = {
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "blockOwnerDeletion": block,
    }  # fmt: skip
    return thing(name, metadata={"ownerReferences": [reference]}, **more)


def raycluster(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "ray-head", "image": "rayproject/ray:2.60.0", "ports": [{"containerPort": 6379}]}
    head = {"rayStartParams": {}, "template": {"spec": {"containers": [container]}}}
    return {
        "apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": name},
        "spec": {"rayVersion": "2.60.0", "headGroupSpec": head, **spec},
    }  # fmt: skip


def workers(name: str = "w", **more: Any) -> dict[str, Any]:
    template = {"spec": {"containers": [{"name": "ray-worker", "image": "rayproject/ray:2.60.0"}]}}
    return {
        "groupName": name, "replicas": 1, "minReplicas": 0, "maxReplicas": 3, "rayStartParams": {},
        "template": template, **more,
    }  # fmt: skip
