"""The cluster models of the configuration reference: every field, default and constraint.

Frozen, unknown fields forbidden. What KubeRay would accept and then only report as an Event is refused here.
Built directly they raise pydantic's ValidationError; files and overrides raise ConfigValidationError with a place.
"""

from decimal import Decimal
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from krayne.config.pod import PodFragment
from krayne.config.problems import shown
from krayne.config.quantities import parse_quantity
from krayne.config.rules import ClusterName, Count, Cpu, DnsLabel, Flag, Memory, OptionalImage, refusal

# KubeRay's own value of the label ray.io/group on head pods; a worker group of that name would count the head.
HEAD_GROUP = "headgroup"


class _Model(BaseModel):
    # Inputs are hidden because pydantic repeats them, and a pod's env may hold a secret.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class HeadNodeConfig(_Model):
    """The head: a control plane, unless `runs_tasks`. The manifest raises it to at least 1 CPU and 4Gi."""

    refused: ClassVar[dict[str, str]] = {
        "gpus": "GPUs belong on workers: set gpus on a worker group",
        "replicas": "a cluster has exactly one head",
    }

    cpus: Cpu = "1"
    memory: Memory = "4Gi"
    image: OptionalImage = None
    runs_tasks: Flag = False
    pod: PodFragment = Field(default_factory=PodFragment)

    @model_validator(mode="after")
    def _check_whole_cpus(self) -> Self:
        # `ray start --num-cpus` takes integers only. Below 1 is raised to 1 by the manifest, which is whole.
        if self.runs_tasks and max(parse_quantity(self.cpus), Decimal(1)) % 1:
            raise refusal(
                f"must be a whole number when runs_tasks is true, not {shown(self.cpus)}: "
                "Ray counts CPUs in whole numbers",
                "cpus",
                "runs_tasks",
            )
        return self


class WorkerGroupConfig(_Model):
    """Equal workers. Fractional `cpus` are fine: KubeRay advertises them to Ray rounded up."""

    name: DnsLabel = "worker"
    replicas: Count = 0
    min_replicas: Count = 0
    max_replicas: Count = 1
    cpus: Cpu = "1"
    memory: Memory = "2Gi"
    gpus: Count = 0
    image: OptionalImage = None
    pod: PodFragment = Field(default_factory=PodFragment)

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.name == HEAD_GROUP:
            raise refusal(f"must not be {HEAD_GROUP}: KubeRay calls the head's own group so", "name")
        return self

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.replicas > self.max_replicas:
            # Backward compatibility, as the reference says. The model is frozen for everybody else.
            object.__setattr__(self, "max_replicas", self.replicas)
            self.model_fields_set.add("max_replicas")
        if self.replicas < self.min_replicas:
            raise refusal(
                f"must be at least min_replicas: {self.replicas} is less than {self.min_replicas}",
                "replicas",
                "min_replicas",
            )
        return self


class ServicesConfig(_Model):
    """What runs on the head beside Ray, each on its own port."""

    notebook: Flag = True
    code_server: Flag = True
    ssh: Flag = True


class AutoscalerConfig(_Model):
    """Ray's v2 in-tree autoscaler, a sidecar of the head."""

    enabled: Flag = True
    idle_timeout_seconds: Count = 60
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"] = "Default"
    cpu: Cpu = "500m"
    memory: Memory = "512Mi"


class ClusterConfig(_Model):
    """One Ray cluster, as a cluster file declares it."""

    refused: ClassVar[dict[str, str]] = dict.fromkeys(
        ("apiVersion", "kind", "metadata", "spec"),
        "this is a Kubernetes manifest; a cluster file begins with name, head and worker_groups",
    )

    name: ClusterName
    namespace: DnsLabel = "default"
    head: HeadNodeConfig = Field(default_factory=HeadNodeConfig)
    worker_groups: list[WorkerGroupConfig] = Field(default_factory=lambda: [WorkerGroupConfig()])
    services: ServicesConfig = Field(default_factory=ServicesConfig)
    autoscaler: AutoscalerConfig = Field(default_factory=AutoscalerConfig)

    @model_validator(mode="after")
    def _check_group_names(self) -> Self:
        seen: set[str] = set()
        for index, group in enumerate(self.worker_groups):
            if group.name in seen:
                says = f"is used twice: {shown(group.name)}"
                raise refusal(says, at=("worker_groups", index, "name"))
            seen.add(group.name)
        return self
