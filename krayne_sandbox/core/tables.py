"""Objects as `kubectl get` prints them: meta.k8s.io/v1 Tables with the columns Kubernetes and KubeRay define."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from krayne_sandbox.core.meta import Json, is_deleting, metadata, name_of, seconds_of
from krayne_sandbox.kinds import (
    CONFIGMAPS,
    CRDS,
    EVENTS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    RAYCLUSTERS,
    SECRETS,
    SERVICEACCOUNTS,
    SERVICES,
    Kind,
)

NONE: Final = "<none>"
UNKNOWN: Final = "<unknown>"
MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
YEAR: Final = 365 * DAY

Cell = Callable[[Json, float], Any]


class Column(NamedTuple):
    """One column: its title, its cell, and whether it is shown with `-o wide` alone."""

    name: str
    cell: Cell
    type: str = "string"
    priority: int = 0
    format: str = ""


def span(seconds: float) -> str:
    """An age in the few characters kubectl gives it."""
    whole = int(seconds)
    if whole < 0:
        return "0s" if whole >= -1 else "<invalid>"
    for limit, big, small in (
        (2 * MINUTE, 0, 1),
        (10 * MINUTE, MINUTE, 1),
        (3 * HOUR, 0, MINUTE),
        (8 * HOUR, HOUR, MINUTE),
        (2 * DAY, 0, HOUR),
        (8 * DAY, DAY, HOUR),
        (2 * YEAR, 0, DAY),
        (8 * YEAR, YEAR, DAY),
    ):
        if whole < limit:
            return _two(whole, big, small)
    return f"{whole // YEAR}y"


_UNITS: Final = {1: "s", MINUTE: "m", HOUR: "h", DAY: "d", YEAR: "y"}


def _two(whole: int, big: int, small: int) -> str:
    if not big:
        return f"{whole // small}{_UNITS[small]}"
    rest = whole % big // small
    return f"{whole // big}{_UNITS[big]}" + (f"{rest}{_UNITS[small]}" if rest else "")


def since(text: object, now: float) -> str:
    """How long ago."""
    seconds = seconds_of(text)
    return UNKNOWN if seconds is None else span(now - seconds)


def _name(thing: Json, now: float) -> str:  # noqa: ARG001 every cell is asked the same way
    return name_of(thing)


def _age(thing: Json, now: float) -> str:
    return since(metadata(thing).get("creationTimestamp"), now)


def _at(path: str, absent: Any = NONE) -> Cell:
    def cell(thing: Json, now: float) -> Any:  # noqa: ARG001
        found = _value(thing, path)
        return absent if found in (None, "") else found

    return cell


def _value(thing: Any, path: str) -> Any:
    for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(thing, dict):
            thing = thing.get(part)
        elif isinstance(thing, list) and part.isdecimal() and int(part) < len(thing):
            thing = thing[int(part)]
        else:
            return None
    return thing


def _count(path: str) -> Cell:
    return lambda thing, now: len(_value(thing, path) or ())  # noqa: ARG005


# Pods.


def _pod_ready(thing: Json, now: float) -> str:  # noqa: ARG001
    states = _value(thing, "status.containerStatuses") or ()
    ready = sum(bool(one.get("ready")) for one in states)
    return f"{ready}/{len(_value(thing, 'spec.containers') or ())}"


def _pod_status(thing: Json, now: float) -> str:  # noqa: ARG001
    status = thing.get("status") or {}
    said = str(status.get("reason") or status.get("phase") or "")
    for one in status.get("containerStatuses") or ():
        state = one.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated")
        if waiting.get("reason"):
            said = str(waiting["reason"])
        elif ended is not None:
            said = str(ended.get("reason") or f"ExitCode:{ended.get('exitCode', 0)}")
    if is_deleting(thing):
        return "Terminating"
    return said


def _pod_restarts(thing: Json, now: float) -> str:
    states = _value(thing, "status.containerStatuses") or ()
    count = sum(int(one.get("restartCount") or 0) for one in states)
    ended = [_value(one, "lastState.terminated.finishedAt") for one in states]
    last = max((str(one) for one in ended if one), default="")
    return f"{count} ({since(last, now)} ago)" if count and last else str(count)


# Services, events, nodes.


def _service_ports(thing: Json, now: float) -> str:  # noqa: ARG001
    ports = _value(thing, "spec.ports") or ()
    node = {True: ":{}", False: ""}
    said = [f"{one.get('port')}{node[bool(one.get('nodePort'))].format(one.get('nodePort'))}/{one.get('protocol')}"
            for one in ports]  # fmt: skip
    return ",".join(said) or NONE


def _selector(thing: Json, now: float) -> str:  # noqa: ARG001
    found = _value(thing, "spec.selector") or {}
    return ",".join(f"{key}={one}" for key, one in sorted(found.items())) or NONE


def _event_seen(thing: Json, now: float) -> str:
    return since(thing.get("lastTimestamp") or _value(thing, "series.lastObservedTime") or thing.get("eventTime"), now)


def _first_seen(thing: Json, now: float) -> str:
    return since(thing.get("firstTimestamp") or thing.get("eventTime"), now)


def _event_object(thing: Json, now: float) -> str:  # noqa: ARG001
    involved = thing.get("involvedObject") or {}
    return f"{str(involved.get('kind') or '').lower()}/{involved.get('name') or ''}"


def _node_status(thing: Json, now: float) -> str:  # noqa: ARG001
    for one in _value(thing, "status.conditions") or ():
        if one.get("type") == "Ready":
            ready = "Ready" if one.get("status") == "True" else "NotReady"
            return ready + (",SchedulingDisabled" if _value(thing, "spec.unschedulable") else "")
    return "Unknown"


def _node_roles(thing: Json, now: float) -> str:  # noqa: ARG001
    prefix = "node-role.kubernetes.io/"
    labels = metadata(thing).get("labels") or {}
    return ",".join(sorted(one[len(prefix) :] for one in labels if one.startswith(prefix))) or NONE


_NAME: Final = Column("Name", _name, format="name")
_AGE: Final = Column("Age", _age)
COLUMNS: Final[dict[Kind, Sequence[Column]]] = {
    PODS: (
        _NAME, Column("Ready", _pod_ready), Column("Status", _pod_status), Column("Restarts", _pod_restarts), _AGE,
        Column("IP", _at("status.podIP"), priority=1), Column("Node", _at("spec.nodeName"), priority=1),
        Column("Nominated Node", _at("status.nominatedNodeName"), priority=1),
        Column("Readiness Gates", lambda *_: NONE, priority=1),
    ),
    SERVICES: (
        _NAME, Column("Type", _at("spec.type")), Column("Cluster-IP", _at("spec.clusterIP")),
        Column("External-IP", lambda *_: NONE), Column("Port(s)", _service_ports), _AGE,
        Column("Selector", _selector, priority=1),
    ),
    EVENTS: (
        Column("Last Seen", _event_seen), Column("Type", _at("type", "")), Column("Reason", _at("reason", "")),
        Column("Object", _event_object), Column("Subobject", _at("involvedObject.fieldPath", ""), priority=1),
        Column("Source", _at("source.component", ""), priority=1), Column("Message", _at("message", "")),
        Column("First Seen", _first_seen, priority=1),
        Column("Count", _at("count", 1), priority=1), Column("Name", _name, priority=1, format="name"),
    ),
    NAMESPACES: (_NAME, Column("Status", _at("status.phase", "")), _AGE),
    NODES: (
        _NAME, Column("Status", _node_status), Column("Roles", _node_roles), _AGE,
        Column("Version", _at("status.nodeInfo.kubeletVersion", "")),
        Column("Internal-IP", _at("status.addresses[0].address"), priority=1),
        Column("External-IP", lambda *_: NONE, priority=1),
        Column("OS-Image", _at("status.nodeInfo.osImage", UNKNOWN), priority=1),
        Column("Kernel-Version", _at("status.nodeInfo.kernelVersion", UNKNOWN), priority=1),
        Column("Container-Runtime", _at("status.nodeInfo.containerRuntimeVersion", UNKNOWN), priority=1),
    ),
    CONFIGMAPS: (_NAME, Column("Data", _count("data")), _AGE),
    SECRETS: (_NAME, Column("Type", _at("type", "Opaque")), Column("Data", _count("data"), "integer"), _AGE),
    SERVICEACCOUNTS: (_NAME, Column("Secrets", _count("secrets"), "integer"), _AGE),
    LEASES: (_NAME, Column("Holder", _at("spec.holderIdentity", "")), _AGE),
    CRDS: (_NAME, Column("Created At", _at("metadata.creationTimestamp", ""), "date")),
}  # fmt: skip


def columns_of(kind: Kind, definition: Json) -> Sequence[Column]:
    """The columns of a kind; a RayCluster's are KubeRay's."""
    if kind != RAYCLUSTERS:
        return COLUMNS.get(kind, (_NAME, _AGE))
    printed = definition["spec"]["versions"][0]["additionalPrinterColumns"]
    return (_NAME, *(_printed(one) for one in printed))


def _printed(column: Json) -> Column:
    path, how = str(column["jsonPath"]), str(column["type"])

    def cell(thing: Json, now: float) -> Any:
        found = _value(thing, path)
        if how == "date":
            return since(found, now)
        if how == "string" and found is not None:
            return found if isinstance(found, str) else str(found)
        return found

    return Column(str(column["name"]), cell, how, int(column.get("priority", 0)))


def table(columns: Sequence[Column], things: Sequence[Json], now: float, *, include: str, head: bool = True) -> Json:
    """The Table. `include`: Metadata, Object or None; `head`: with the columns' definitions."""
    rows = [{"cells": [one.cell(thing, now) for one in columns], "object": _included(thing, include)}
            for thing in things]  # fmt: skip
    if include == "None":
        for row in rows:
            del row["object"]
    definitions = [
        {"name": one.name, "type": one.type, "format": one.format, "description": "", "priority": one.priority}
        for one in columns
    ]
    return {
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": definitions if head else [], "rows": rows,
    }  # fmt: skip


def _included(thing: Json, include: str) -> Json:
    if include == "Object":
        return thing
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata(thing)}
