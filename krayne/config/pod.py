"""`pod`: the part of a pod template that krayne leaves to the user, in Kubernetes' own spelling.

`env`, `envFrom` and `volumeMounts` go to the Ray container, `labels` and `annotations` to the pod's metadata, all
others to the pod's spec. Image, resources, command, ports and lifecycle are krayne's and are refused.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)
from pydantic.alias_generators import to_camel

from krayne.config.plain import to_plain
from krayne.config.problems import shown
from krayne.config.rules import (
    Count,
    DnsLabel,
    Flag,
    JsonObject,
    ObjectName,
    check_annotations,
    check_json,
    check_labels,
    refusal,
)

_CONTAINER_FIELDS = frozenset({"env", "envFrom", "volumeMounts"})
_METADATA_FIELDS = frozenset({"labels", "annotations"})


class _Fragment(BaseModel):
    """Camel-case in files, because people paste these from Kubernetes manifests."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, alias_generator=to_camel)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # Twenty empty fields would drown the four that a reader looks for; values may be secrets.
        yield from ((name, ...) for name in to_plain(self))


class EnvVar(_Fragment):
    """One environment variable of the Ray container."""

    name: str
    value: str | None = None
    value_from: JsonObject | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.name or "=" in self.name or not self.name.isprintable():
            raise refusal("must be the name of an environment variable", "name")
        if self.name == "RAY_enable_autoscaler_v2":
            raise refusal("is set by KubeRay, which refuses it here (use autoscaler.enabled)", "name")
        if self.value is not None and self.value_from is not None:
            raise refusal("cannot stand beside valueFrom", "value")
        return self


class EnvFrom(_Fragment):
    """All keys of a ConfigMap or Secret as environment variables."""

    prefix: str | None = None
    config_map_ref: JsonObject | None = None
    secret_ref: JsonObject | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.config_map_ref is None) == (self.secret_ref is None):
            raise refusal("needs one of configMapRef and secretRef")
        return self


class VolumeMount(_Fragment):
    """Where a volume of the pod appears in the Ray container."""

    name: DnsLabel
    mount_path: Annotated[str, Field(min_length=1)]
    sub_path: str | None = None
    sub_path_expr: str | None = None
    read_only: Flag | None = None
    mount_propagation: str | None = None
    recursive_read_only: str | None = None


class Toleration(_Fragment):
    """A node taint that the pod bears."""

    key: str | None = None
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(strict=True)] | None = None


class LocalReference(_Fragment):
    """An object of the cluster's namespace, by name."""

    name: ObjectName


class HostAlias(_Fragment):
    """A line of the pod's /etc/hosts."""

    ip: str
    hostnames: list[str] = []


def _check_volume(volume: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if len(volume) > 2:
        raise refusal("has more than one source beside its name")
    return volume


def _check_named(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if not isinstance(value.get("name"), str) or not value["name"]:
        raise refusal("needs a name", at=("name",) if "name" in value else ())
    check_json(value)
    return value


Named = Annotated[dict[str, JsonValue], AfterValidator(_check_named)]
Volume = Annotated[Named, AfterValidator(_check_volume)]
Labels = Annotated[dict[str, str], AfterValidator(check_labels)]
Annotations = Annotated[dict[str, str], AfterValidator(check_annotations)]


class PodFragment(_Fragment):
    """What a user adds to the head's or a worker group's pods; empty unless needed."""

    refused: ClassVar[dict[str, str]] = {
        "containers": "krayne and KubeRay own the containers; env, envFrom and volumeMounts reach the Ray container",
        "restartPolicy": "KubeRay's autoscaler v2 needs Never, and krayne writes it",
        "metadata": "write labels and annotations directly under pod",
        "spec": "write the pod's fields directly under pod",
        "image": "use the image field beside pod",
        "resources": "use cpus, memory and gpus beside pod: requests equal limits",
        "command": "KubeRay starts Ray in the container",
        "args": "KubeRay starts Ray in the container",
        "lifecycle": "krayne starts the cluster's services there",
        "ports": "ports follow from services; any other port is reached with tun-open",
    }

    labels: Labels = {}
    annotations: Annotations = {}
    env: list[EnvVar] = []
    env_from: list[EnvFrom] = []
    volume_mounts: list[VolumeMount] = []
    volumes: list[Volume] = []
    init_containers: list[Named] = []
    tolerations: list[Toleration] = []
    node_selector: Labels = {}
    affinity: JsonObject | None = None
    topology_spread_constraints: list[JsonObject] = []
    image_pull_secrets: list[LocalReference] = []
    service_account_name: ObjectName | None = None
    priority_class_name: ObjectName | None = None
    runtime_class_name: ObjectName | None = None
    scheduler_name: ObjectName | None = None
    security_context: JsonObject | None = None
    host_aliases: list[HostAlias] = []
    dns_policy: str | None = None
    dns_config: JsonObject | None = None
    termination_grace_period_seconds: Count | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_unique("env", (variable.name for variable in self.env))
        _check_unique("volumes", (str(volume["name"]) for volume in self.volumes))
        _check_unique("initContainers", (str(one["name"]) for one in self.init_containers))
        known = {volume["name"] for volume in self.volumes}
        for index, mount in enumerate(self.volume_mounts):
            if mount.name not in known:
                says = f"names no volume of this pod: {shown(mount.name)} is not among volumes"
                raise refusal(says, at=("volumeMounts", index, "name"))
        return self

    def container_fields(self) -> dict[str, Any]:
        """What goes into the Ray container, as Kubernetes JSON; a fresh value each time."""
        return {name: value for name, value in self._fields() if name in _CONTAINER_FIELDS}

    def pod_fields(self) -> dict[str, Any]:
        """What goes into the pod's spec, as Kubernetes JSON; a fresh value each time."""
        others = _CONTAINER_FIELDS | _METADATA_FIELDS
        return {name: value for name, value in self._fields() if name not in others}

    def _fields(self) -> Iterable[tuple[str, Any]]:
        plain: dict[str, Any] = to_plain(self)
        return plain.items()


def _check_unique(field: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise refusal(f"is used twice: {shown(name)}", at=(field, index, "name"))
        seen.add(name)
