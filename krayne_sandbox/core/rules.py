"""What the API server asks of an object before it is stored: schema, names, defaults, what may not change.

RayClusters by KubeRay's own schema; pods and services by the few rules clients of a sandbox meet.
"""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from krayne_sandbox.core import schema as schemas
from krayne_sandbox.core.meta import NAME_LIMIT, Json, copied, is_name, metadata, name_of
from krayne_sandbox.core.selectors import KEY, VALUE
from krayne_sandbox.core.shapes import CONDITIONS, FIXED, METADATA, SERVICE_PORTS, Shape
from krayne_sandbox.core.statuses import Cause, StatusError, bad_request, invalid
from krayne_sandbox.kinds import NODES, PODS, RAYCLUSTERS, SECRETS, SERVICES, Kind

SUBDOMAIN_RULE: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_LIMIT: Final = 63
KEY_RULE: Final = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
LABEL_RULE: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation "
    "is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
POD_RULE: Final = (
    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
    "tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
# Fields of Go structs, which exist when they are empty.
BUILT_IN_FIXED: Final = (("f:metadata",), ("f:spec",), ("f:status",), ("f:spec", "f:containers"))
TOLERATED: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")  # for five minutes, by default
POD_DEFAULTS: Final[Json] = {
    "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
    "securityContext": {}, "schedulerName": "default-scheduler", "enableServiceLinks": True,
}  # fmt: skip
CONTAINER_DEFAULTS: Final[Json] = {
    "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
}  # fmt: skip


class Prepared(NamedTuple):
    """An object ready to be stored, and what its sender should know."""

    thing: Json
    unknown: list[str]


class Rules(NamedTuple):
    """The rules, given KubeRay's definition."""

    definition: Json

    @property
    def ray(self) -> Json:
        """The RayCluster's schema."""
        found: Json = self.definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return found

    def shape(self, kind: Kind) -> Shape:
        """How objects of this kind merge."""
        status = {"properties": {"conditions": CONDITIONS}}
        if kind == RAYCLUSTERS:
            return Shape({"properties": {**self.ray["properties"], "metadata": METADATA}})
        known: Json = {"metadata": METADATA, "status": status}
        if kind == PODS:
            head = self.ray["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]["template"]
            known["spec"] = head["properties"]["spec"]
        if kind == SERVICES:
            known["spec"] = {"properties": {"ports": SERVICE_PORTS, "selector": {"x-kubernetes-map-type": "atomic"}}}
        if kind == NODES:
            known["spec"] = {"type": "object"}
        return Shape({"properties": known, FIXED: BUILT_IN_FIXED})

    def prepared(self, kind: Kind, thing: Json, *, new: bool) -> Prepared:
        """Pruned and defaulted. Raises StatusError 400 for what has not even the right form."""
        check_form(kind, thing)
        if kind == RAYCLUSTERS:
            return self._prepared_ray(thing)
        if kind == PODS:
            return Prepared(_pod(thing, new=new), [])
        if kind == SERVICES:
            return Prepared(_service(thing, new=new), [])
        if kind == SECRETS:
            return Prepared(_secret(thing), [])
        return Prepared(copied(thing), [])

    def _prepared_ray(self, thing: Json) -> Prepared:
        bare = {key: one for key, one in thing.items() if key not in {"apiVersion", "kind", "metadata"}}
        kept, unknown = schemas.pruned(self.ray, bare)
        schemas.default(self.ray, kept)
        head: Json = {key: copied(thing[key]) for key in ("apiVersion", "kind", "metadata") if key in thing}
        return Prepared({**head, **kept}, unknown)

    def check(self, kind: Kind, thing: Json, before: Json | None) -> None:
        """Raises StatusError 422 with every fault."""
        found = list(_meta_faults(thing))
        if kind == RAYCLUSTERS:
            found += self._ray_faults(thing, before)
        if kind == PODS:
            found += _pod_faults(thing, before)
        if kind == SERVICES:
            found += _service_faults(thing)
        if found:
            raise invalid(kind, name_of(thing), found)

    def _ray_faults(self, thing: Json, before: Json | None) -> list[Cause]:
        bare = {key: one for key, one in thing.items() if key != "metadata"}
        found = schemas.faults(self.ray, bare)
        if found:
            return [*found, schemas.UNCHECKED] if any(one.reason in schemas.BLOCKING for one in found) else found
        return schemas.rule_faults(self.ray, bare, before)


def check_form(kind: Kind, thing: Any) -> None:
    """Raises StatusError 400 unless it is an object of this kind whose metadata can be read."""
    if not isinstance(thing, dict):
        raise bad_request("the object provided is unrecognized (must be of type Kubernetes object)")
    said, version = thing.get("kind"), thing.get("apiVersion")
    if said not in (None, "", kind.kind) or version not in (None, "", kind.api_version):
        if kind.group and version != kind.api_version:
            raise bad_request(
                f"the API version in the data ({version}) does not match the expected API version ({kind.api_version})"
            )
        raise bad_request(f'{said} in version "{version}" cannot be handled as a {kind.kind}: no kind "{said}" is '
                          f'registered for version "{version}"')  # fmt: skip
    meta = thing.get("metadata", {})
    if not isinstance(meta, dict):
        raise _undecodable(kind, "metadata", meta)
    for field in ("labels", "annotations"):
        values = meta.get(field) or {}
        if not isinstance(values, dict) or not all(isinstance(one, str) for one in values.values()):
            raise _undecodable(kind, f"metadata.{field}", values)
    for field in ("ownerReferences", "finalizers", "managedFields"):
        if not isinstance(meta.get(field) or [], list):
            raise _undecodable(kind, f"metadata.{field}", meta[field])
    for field in ("name", "namespace", "generateName", "uid", "resourceVersion"):
        if not isinstance(meta.get(field) or "", str):
            raise _undecodable(kind, f"metadata.{field}", meta[field])


def _undecodable(kind: Kind, field: str, value: Any) -> StatusError:
    said = {dict: "object", list: "array", str: "string", bool: "bool"}.get(type(value), "number")
    return bad_request(
        f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: json: cannot unmarshal {said} '
        f"into Go struct field ObjectMeta.{field}"
    )


def _meta_faults(thing: Json) -> Iterator[Cause]:
    meta = metadata(thing)
    name = str(meta.get("name") or "")
    if not name:
        yield Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")
    elif len(name) > NAME_LIMIT:
        yield Cause(
            "FieldValueInvalid", f'Invalid value: "{name}": must be no more than {NAME_LIMIT} bytes', "metadata.name"
        )
    elif not is_name(name):
        yield Cause("FieldValueInvalid", f'Invalid value: "{name}": {SUBDOMAIN_RULE}', "metadata.name")
    for key, value in (meta.get("labels") or {}).items():
        if len(key.rpartition("/")[2]) > LABEL_LIMIT or not re.fullmatch(KEY, key):
            yield Cause("FieldValueInvalid", f'Invalid value: "{key}": {KEY_RULE}', "metadata.labels")
        if len(value) > LABEL_LIMIT:
            said = f'Invalid value: "{value}": must be no more than {LABEL_LIMIT} bytes'
            yield Cause("FieldValueInvalid", said, "metadata.labels")
        elif not re.fullmatch(VALUE, value):
            yield Cause("FieldValueInvalid", f'Invalid value: "{value}": {LABEL_RULE}', "metadata.labels")


# Pods and services.


def _pod(thing: Json, *, new: bool) -> Json:
    found = copied(thing)
    spec = found["spec"] = {**copied(POD_DEFAULTS), **(found.get("spec") or {})}
    if spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        if isinstance(container, dict):
            image = str(container.get("image") or "")
            latest = image.endswith(":latest") or ":" not in image.rpartition("/")[2]
            container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
            for key, one in CONTAINER_DEFAULTS.items():
                container.setdefault(key, copied(one))
            for port in container.get("ports") or ():
                port.setdefault("protocol", "TCP")
    if new:
        found["status"] = {"phase": "Pending", "qosClass": _quality(spec)}
    return dict(found)


def admitted(kind: Kind, thing: Json) -> None:
    """What admission adds to a new object after who wrote what is noted, in place."""
    if kind == PODS:
        spec = thing["spec"]
        spec.setdefault("priority", 0)
        spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
        known = {str(one.get("key")) for one in spec.get("tolerations") or ()}
        more = [{"key": one, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
                for one in TOLERATED if one not in known]  # fmt: skip
        spec["tolerations"] = [*(spec.get("tolerations") or ()), *more]
    if kind == SERVICES and thing["spec"].get("type") != "ExternalName":
        thing["spec"].setdefault("ipFamilies", ["IPv4"])
        thing["spec"].setdefault("ipFamilyPolicy", "SingleStack")


def _quality(spec: Json) -> str:
    wants = [one.get("resources") or {} for one in spec.get("containers") or () if isinstance(one, dict)]
    if not any(one.get("limits") or one.get("requests") for one in wants):
        return "BestEffort"
    fixed = all({"cpu", "memory"} <= set(one.get("limits") or {}) for one in wants)
    same = all((one.get("requests") or one.get("limits")) == one.get("limits") for one in wants)
    return "Guaranteed" if fixed and same else "Burstable"


def _pod_faults(thing: Json, before: Json | None) -> Iterator[Cause]:
    spec = thing.get("spec") or {}
    containers = spec.get("containers") or ()
    if not containers:
        yield Cause("FieldValueRequired", "Required value", "spec.containers")
    for at, one in enumerate(containers):
        for field in ("name", "image"):
            if not one.get(field):
                yield Cause("FieldValueRequired", "Required value", f"spec.containers[{at}].{field}")
    if before is not None and _fixed(spec) != _fixed(before.get("spec") or {}):
        yield Cause("FieldValueForbidden", POD_RULE, "spec")


def _fixed(spec: Json) -> Json:
    """What of a pod's spec never changes."""
    free = {"activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "nodeName"}
    found = {key: one for key, one in spec.items() if key not in free}
    for key in ("containers", "initContainers"):
        found[key] = [{name: one for name, one in box.items() if name != "image"} for box in found.get(key) or ()]
    return found


def _service(thing: Json, *, new: bool) -> Json:
    found = copied(thing)
    spec = found["spec"] = {
        "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
        **(found.get("spec") or {}),
    }  # fmt: skip
    for port in spec.get("ports") or ():
        if isinstance(port, dict):
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port.get("port"))
    if new:
        found["status"] = {"loadBalancer": {}}
    return dict(found)


def _secret(thing: Json) -> Json:
    found = copied(thing)
    plain = found.pop("stringData", None) or {}
    if plain:
        coded = {key: base64.b64encode(str(one).encode()).decode() for key, one in plain.items()}
        found["data"] = {**(found.get("data") or {}), **coded}
    found.setdefault("type", "Opaque")
    return dict(found)


def _service_faults(thing: Json) -> Iterator[Cause]:
    spec = thing.get("spec") or {}
    ports = spec.get("ports") or ()
    if not ports and spec.get("clusterIP") != "None":
        yield Cause("FieldValueRequired", "Required value", "spec.ports")
    for at, one in enumerate(ports):
        port = one.get("port")
        if not isinstance(port, int) or not 0 < port < 65536:
            said = f"Invalid value: {json.dumps(port)}: must be between 1 and 65535, inclusive"
            yield Cause("FieldValueInvalid", said, f"spec.ports[{at}].port")
