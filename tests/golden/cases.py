"""The golden manifests' cases, and how one is written: our bootstrap's text is named in it, not repeated."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kraynd.core.bootstrap import HOOK, PROGRAM, BootstrapSettings
from kraynd.core.manifest import DEFAULT_IMAGE, ImageChoice, Owner, build_manifest
from kraynd.core.model import Json
from krayne.config import ClusterConfig

FOLDER = Path(__file__).parent
OWNER = Owner(home_id="6f1c2a7e9b3d4508", host="laptop", user="ada")
NO_SERVICES = {"notebook": False, "code_server": False, "ssh": False}
MIRRORS = BootstrapSettings(
    code_server_version="4.100.0",
    code_server_url="https://mirror.example/code-server-{version}-{arch}.tgz",
    code_server_sha256={"amd64": "0" * 64},
    notebook_requirement="notebook==7.4.0",
    pip_index_url="https://mirror.example/pypi/simple",
    apt_mirror="https://mirror.example/ubuntu",
)

_FRAGMENT: Json = {
    "labels": {"team": "vision"},
    "annotations": {"example.com/note": "keeps its scratch"},
    "env": [
        {"name": "HF_HOME", "value": "/scratch/hf"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}},
    ],
    "envFrom": [{"configMapRef": {"name": "proxies"}}],
    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "50Gi"}}],
    "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "ray", "effect": "NoSchedule"}],
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "default",
}

_CASES: Mapping[str, Json] = {
    "default": {},
    "bare": {"services": NO_SERVICES, "autoscaler": {"enabled": False}, "worker_groups": []},
    "fixed-size": {"autoscaler": {"enabled": False}, "worker_groups": [{"replicas": 3, "max_replicas": 3}]},
    "gpus": {
        "head": {"cpus": "500m", "memory": "2Gi", "image": "registry.example/ray:2.55.1-py312"},
        "worker_groups": [
            {"name": "cpu", "replicas": 1, "min_replicas": 1, "max_replicas": 4, "cpus": "3500m", "memory": "12Gi"},
            {"name": "a100", "max_replicas": 2, "gpus": 4, "image": "rayproject/ray:2.55.1-py312-gpu"},
        ],
        "autoscaler": {"idle_timeout_seconds": 300, "upscaling_mode": "Conservative", "cpu": "1", "memory": "1Gi"},
    },
    "pod-fragments": {
        "services": {**NO_SERVICES, "ssh": True},
        "head": {"pod": _FRAGMENT},
        "worker_groups": [{"pod": _FRAGMENT}],
    },
    "runs-tasks": {"head": {"cpus": "8", "memory": "32Gi", "runs_tasks": True}},
    "air-gapped": {"namespace": "default"},
}
NAMES = tuple(_CASES)


def config(name: str, **more: Any) -> ClusterConfig:
    """A case's declared cluster."""
    return ClusterConfig.model_validate({"name": name, **_CASES[name], **more})


def manifest(name: str, *, image: ImageChoice = DEFAULT_IMAGE, **more: Any) -> Json:
    """A case's RayCluster, as it is sent."""
    settings = MIRRORS if name == "air-gapped" else BootstrapSettings()
    return build_manifest(config(name, **more), image=image, bootstrap=settings, owner=OWNER)


def written(name: str) -> str:
    """A case's golden text."""
    return yaml.dump(_named(manifest(name)), Dumper=_Dumper, sort_keys=False, width=110)


class _Dumper(yaml.SafeDumper):
    """Writes equal parts out instead of pointing at the first."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (the base class's signature)
        return True


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _named(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named(inner) for inner in value]
    if isinstance(value, str):
        return {HOOK: "<kraynd/pod/hook.sh>", PROGRAM: "<kraynd/pod/*.py>"}.get(value, value)
    return value
