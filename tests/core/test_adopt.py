"""A live RayCluster becomes the config that declares it as it is: our own manifests are the law's witnesses."""

import copy

import pytest

from kraynd.core.adopt import config_of
from kraynd.core.bootstrap import BootstrapSettings
from kraynd.core.images import ImageChoice
from kraynd.core.manifest import Owner, build_manifest
from kraynd.core.model import Json
from krayne.config import ClusterConfig, ConfigValidationError

OWNER = Owner(home_id="h", host="host", user="user")
IMAGE = ImageChoice("rayproject/ray:2.60.0-py311", "2.60.0", "default")


def built(config: ClusterConfig) -> Json:
    return build_manifest(config, image=IMAGE, bootstrap=BootstrapSettings(), owner=OWNER)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"head": {"cpus": "4", "memory": "8Gi", "runs_tasks": True}},
        {"services": {"notebook": False, "code_server": False, "ssh": False}},
        {"autoscaler": {"enabled": False}},
        {"autoscaler": {"idle_timeout_seconds": 7, "upscaling_mode": "Aggressive", "cpu": "1", "memory": "1Gi"}},
        {
            "worker_groups": [
                {"name": "cpu", "replicas": 2, "max_replicas": 5},
                {"name": "gpu", "gpus": 4, "memory": "64Gi"},
            ]
        },
        {"namespace": "team"},
    ],
)
def test_what_we_built_reads_back(fields: dict[str, object]) -> None:
    config = ClusterConfig.model_validate({"name": "demo", **fields})
    found = config_of(built(config))
    assert built(found) == built(config.model_copy(update={"head": config.head, "worker_groups": found.worker_groups}))
    assert [group.replicas for group in found.worker_groups] == [group.replicas for group in config.worker_groups]
    assert found.services == config.services
    assert found.autoscaler == config.autoscaler
    assert found.namespace == config.namespace


def test_somebody_elses_sparse_manifest() -> None:
    """What KubeRay's own samples look like: no resources on the autoscaler, no ports, fractional workers."""
    live: Json = {
        "metadata": {"name": "raycluster", "namespace": "default"},
        "spec": {
            "headGroupSpec": {
                "template": {"spec": {"containers": [{"name": "ray-head", "image": "rayproject/ray:2.50.0"}]}}
            },
            "workerGroupSpecs": [
                {
                    "groupName": "small",
                    "minReplicas": 1,
                    "template": {
                        "spec": {
                            "containers": [{"image": "rayproject/ray:2.50.0", "resources": {"limits": {"cpu": "500m"}}}]
                        }
                    },
                }
            ],
        },
    }
    found = config_of(live)
    assert found.head.image == "rayproject/ray:2.50.0"
    assert not found.services.ssh
    assert not found.autoscaler.enabled
    assert (found.worker_groups[0].replicas, found.worker_groups[0].min_replicas) == (1, 1)
    assert found.worker_groups[0].cpus == "500m"


def test_what_no_cluster_file_can_say_is_refused_with_its_place() -> None:
    live = copy.deepcopy(built(ClusterConfig(name="demo")))
    live["spec"]["workerGroupSpecs"][0]["groupName"] = "Big_Group"
    with pytest.raises(ConfigValidationError, match=r"worker_groups.0.name"):
        config_of(live)
