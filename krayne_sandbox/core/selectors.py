"""Label and field selectors: parsed once into a test of one object. Raises StatusError 400 for what is no selector."""

import re
from collections.abc import Callable, Mapping
from typing import Final

from krayne_sandbox.core.meta import Json, metadata
from krayne_sandbox.core.statuses import StatusError, bad_request
from krayne_sandbox.kinds import EVENTS, NAMESPACES, PODS, SECRETS, Kind

Test = Callable[[Json], bool]
LabelTest = Callable[[Mapping[str, str]], bool]

KEY: Final = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
VALUE: Final = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_SET: Final = re.compile(rf"({KEY})\s+(in|notin)\s*\(([^()]*)\)")
_COMPARED: Final = re.compile(rf"({KEY})\s*(==|=|!=|>|<)\s*({VALUE})")
_EXISTS: Final = re.compile(rf"(!?)\s*({KEY})")
_ONE_VALUE: Final = re.compile(VALUE)
# A comma inside the parentheses of a set separates values, not requirements.
_COMMA: Final = re.compile(r",(?![^(]*\))")

COMMON_FIELDS: Final = ("metadata.name", "metadata.namespace")
FIELDS: Final[Mapping[Kind, tuple[str, ...]]] = {
    PODS: (
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    ),
    EVENTS: (
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
        "reason", "reportingComponent", "source", "type",
    ),
    NAMESPACES: ("status.phase",),
    SECRETS: ("type",),
}  # fmt: skip


def label_test(selector: str) -> Test:
    """A test of an object's labels."""
    tests = label_requirements(selector)
    return lambda thing: _all(tests, _labels(thing))


def label_requirements(selector: str) -> list[LabelTest]:
    """Its parts, all of which must hold."""
    return [_requirement(part.strip()) for part in _COMMA.split(selector)] if selector.strip() else []


def _labels(thing: Json) -> Mapping[str, str]:
    found = metadata(thing).get("labels")
    return found if isinstance(found, dict) else {}


def _all(tests: list[LabelTest], labels: Mapping[str, str]) -> bool:
    return all(test(labels) for test in tests)


def _requirement(text: str) -> LabelTest:
    if match := _SET.fullmatch(text):
        return _in_set(match[1], match[2] == "in", match[3])
    if match := _COMPARED.fullmatch(text):
        return _compared(match[1], match[2], match[3])
    if match := _EXISTS.fullmatch(text):
        key, wanted = match[2], not match[1]
        return lambda labels: (key in labels) is wanted
    raise bad_request(f"unable to parse requirement: found {text!r}, expected a label selector")


def _in_set(key: str, wanted: bool, inner: str) -> LabelTest:
    values = frozenset(one.strip() for one in inner.split(","))
    if not all(_ONE_VALUE.fullmatch(one) for one in values):
        raise bad_request(f"unable to parse requirement: values: Invalid value: {inner!r}")
    if wanted:
        return lambda labels: labels.get(key) in values
    return lambda labels: labels.get(key) not in values


def _compared(key: str, operator: str, value: str) -> LabelTest:
    if operator == "!=":
        return lambda labels: labels.get(key) != value
    if operator in {"=", "=="}:
        return lambda labels: labels.get(key) == value
    if not re.fullmatch(r"-?[0-9]+", value):
        raise bad_request(f"values[0]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, must be an integer")
    limit, more = int(value), operator == ">"

    def test(labels: Mapping[str, str]) -> bool:
        found = labels.get(key, "")
        return bool(re.fullmatch(r"-?[0-9]+", found)) and (int(found) > limit if more else int(found) < limit)

    return test


def field_test(kind: Kind, selector: str) -> Test:
    """A test of an object's fields; only those Kubernetes indexes for the kind."""
    wanted = [_field(kind, part.strip()) for part in selector.split(",") if part.strip()]
    return lambda thing: all((_at(thing, path) == value) is equal for path, value, equal in wanted)


def _field(kind: Kind, text: str) -> tuple[str, str, bool]:
    match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", text)
    if match is None:
        raise bad_request(f"invalid selector: {text!r}; can't understand {text!r}")
    path = match[1].strip()
    if path not in (*COMMON_FIELDS, *FIELDS.get(kind, ())):
        raise _unknown_field(kind, path)
    return path, match[3].strip(), match[2] != "!="


def _unknown_field(kind: Kind, path: str) -> StatusError:
    if kind.group.endswith("ray.io"):
        return bad_request(f"field label not supported: {path}")
    if kind in FIELDS:
        return bad_request(f"field label not supported: {path}")
    return bad_request(f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"')


def _at(thing: Json, path: str) -> str:
    found: object = thing
    if path == "source":
        path = "source.component"
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if path == "spec.hostNetwork":
        return "true" if found else "false"
    return "" if found is None else str(found)
