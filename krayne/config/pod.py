"""`pod`: the part of a pod template that krayne leaves to the user, in Kubernetes' own spelling.

`env`, `envFrom` and `volumeMounts` go to the Ray container, `labels` and `annotations` to the pod's metadata, all
others to the pod's spec. Image, resources, command, ports and lifecycle are krayne's and are refused.
"""

# ruff: noqa: N815 - Kubernetes' own spelling of its fields

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
from pydantic_core import PydanticCustomError

from krayne.config.plain import to_plain
from krayne.config.problems import shown
from krayne.config.rules import (
    Count,
    DnsLabel,
    Flag,
    JsonObject,
    ObjectName,
    check_annotations,
    check_dns_label,
    check_json,
    check_labels,
    check_selector,
    refusal,
)

_CONTAINER_FIELDS = frozenset({"env", "envFrom", "volumeMounts"})
_METADATA_FIELDS = frozenset({"labels", "annotations"})


class _Fragment(BaseModel):
    """Fields bear their Kubernetes names, because people paste them from manifests."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # Twenty empty fields would drown the four that a reader looks for; values may be secrets.
        yield from ((None, name) for name in to_plain(self))


class EnvVar(_Fragment):
    """One environment variable of the Ray container."""

    name: str
    value: str | None = None
    valueFrom: JsonObject | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.name or "=" in self.name or not self.name.isprintable():
            raise refusal("must be the name of an environment variable", "name")
        if self.name == "RAY_enable_autoscaler_v2":
            raise refusal("is set by KubeRay, which refuses it here (use autoscaler.enabled)", "name")
        if self.value is not None and self.valueFrom is not None:
            raise refusal("cannot stand beside valueFrom", "value")
        return self


class EnvFrom(_Fragment):
    """All keys of a ConfigMap or Secret as environment variables."""

    prefix: str | None = None
    configMapRef: JsonObject | None = None
    secretRef: JsonObject | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.configMapRef is None) == (self.secretRef is None):
            raise refusal("needs one of configMapRef and secretRef")
        return self


class VolumeMount(_Fragment):
    """Where a volume of the pod appears in the Ray container."""

    name: DnsLabel
    mountPath: Annotated[str, Field(min_length=1)]
    subPath: str | None = None
    subPathExpr: str | None = None
    readOnly: Flag | None = None
    mountPropagation: str | None = None
    recursiveReadOnly: str | None = None


class Toleration(_Fragment):
    """A node taint that the pod bears."""

    key: str | None = None
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: Annotated[int, Field(strict=True)] | None = None


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
    name = value.get("name")
    if not isinstance(name, str):
        raise refusal("needs a name, as text", at=("name",) if "name" in value else ())
    try:
        check_dns_label(name)
    except PydanticCustomError as error:
        raise refusal(error.message(), "name") from None
    check_json(value)
    return value


Named = Annotated[dict[str, JsonValue], AfterValidator(_check_named)]
Volume = Annotated[Named, AfterValidator(_check_volume)]
Labels = Annotated[dict[str, str], AfterValidator(check_labels)]
Selector = Annotated[dict[str, str], AfterValidator(check_selector)]
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
    envFrom: list[EnvFrom] = []
    volumeMounts: list[VolumeMount] = []
    volumes: list[Volume] = []
    initContainers: list[Named] = []
    tolerations: list[Toleration] = []
    nodeSelector: Selector = {}
    affinity: JsonObject | None = None
    topologySpreadConstraints: list[JsonObject] = []
    imagePullSecrets: list[LocalReference] = []
    serviceAccountName: ObjectName | None = None
    priorityClassName: ObjectName | None = None
    runtimeClassName: ObjectName | None = None
    schedulerName: ObjectName | None = None
    securityContext: JsonObject | None = None
    hostAliases: list[HostAlias] = []
    dnsPolicy: str | None = None
    dnsConfig: JsonObject | None = None
    terminationGracePeriodSeconds: Count | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_unique("env", (variable.name for variable in self.env))
        _check_unique("volumes", (str(volume["name"]) for volume in self.volumes))
        _check_unique("initContainers", (str(one["name"]) for one in self.initContainers))
        known = {volume["name"] for volume in self.volumes}
        for index, mount in enumerate(self.volumeMounts):
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
