"""A structural OpenAPI schema as the API server applies it: prune, default, validate.

Faults are collected, each with its field; the words are the API server's, so that a person meets the same ones.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from krayne_sandbox.core.meta import Json, copied
from krayne_sandbox.core.statuses import Cause

PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING: Final = "x-kubernetes-int-or-string"
RULES: Final = "x-kubernetes-validations"
INTEGERS: Final = {"int32": 2**31, "int64": 2**63}
# With one of these faults, the rules are not looked at.
BLOCKING: Final = frozenset(
    {"FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid"}
)
UNCHECKED: Final = Cause(
    "FieldValueInvalid",
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
    "<nil>",
)


def pruned(schema: Json, value: Any, path: str = "") -> tuple[Any, list[str]]:
    """The value without what the schema does not know, and the paths that went. `value` is not changed."""
    unknown: list[str] = []
    return _pruned(schema, value, path, unknown), unknown


def _pruned(schema: Json, value: Any, path: str, unknown: list[str]) -> Any:
    if isinstance(value, list):
        items = schema.get("items")
        if items is None:
            return copied(value)
        return [_pruned(items, one, f"{path}[{at}]", unknown) for at, one in enumerate(value)]
    if not isinstance(value, dict) or schema.get(INT_OR_STRING):
        return value
    known, rest = schema.get("properties") or {}, schema.get("additionalProperties")
    kept = {}
    for key, one in value.items():
        inner = known.get(key) or (rest if isinstance(rest, dict) else None)
        if inner is not None:
            kept[key] = _pruned(inner, one, _joined(path, key), unknown)
        elif rest is True or schema.get(PRESERVE):
            kept[key] = copied(one)
        else:
            unknown.append(_joined(path, key))
    return kept


def default(schema: Json, value: Any) -> None:
    """Fill in what the schema gives where nothing is said, in place."""
    if isinstance(value, list):
        for one in value:
            default(schema.get("items") or {}, one)
    if not isinstance(value, dict):
        return
    known, rest = schema.get("properties") or {}, schema.get("additionalProperties")
    for key, inner in known.items():
        if "default" in inner and (key not in value or (value[key] is None and not inner.get("nullable"))):
            value[key] = copied(inner["default"])
        elif key in value and value[key] is None and not inner.get("nullable"):
            del value[key]
    for key, one in value.items():
        default(known.get(key) or (rest if isinstance(rest, dict) else {}), one)


def faults(schema: Json, value: Any, path: str = "") -> list[Cause]:
    """Everything that breaks the schema itself."""
    return list(_faults(schema, value, path))


def _faults(schema: Json, value: Any, path: str) -> Iterator[Cause]:
    if value is None and schema.get("nullable"):
        return
    wrong = _type_fault(schema, value, path)
    if wrong is not None:
        yield wrong
        return
    if isinstance(value, dict):
        yield from _object_faults(schema, value, path)
    elif isinstance(value, list):
        yield from _list_faults(schema, value, path)
    elif isinstance(value, str):
        yield from _text_faults(schema, value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number_faults(schema, value, path)
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(json.dumps(one) for one in schema["enum"])
        yield Cause(
            "FieldValueNotSupported", f"Unsupported value: {json.dumps(value)}: supported values: {choices}", path
        )


def _type_fault(schema: Json, value: Any, path: str) -> Cause | None:
    found, wanted = _type_of(value), schema.get("type")
    if schema.get(INT_OR_STRING):
        fits, wanted = found in {"integer", "string"}, "integer,string"
    else:
        fits = wanted is None or found == wanted or (wanted == "number" and found == "integer")
    if fits:
        return None
    text = f'Invalid value: "{found}": {path} in body must be of type {wanted}: "{found}"'
    return Cause("FieldValueTypeInvalid", text, path)


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, float) and value.is_integer():
        return "integer"
    names = {dict: "object", list: "array", str: "string", int: "integer", float: "number"}
    return names.get(type(value), "null")


def _object_faults(schema: Json, value: Json, path: str) -> Iterator[Cause]:
    for key in schema.get("required") or ():
        if key not in value:
            yield Cause("FieldValueRequired", "Required value", _joined(path, key))
    known, rest = schema.get("properties") or {}, schema.get("additionalProperties")
    for key, one in value.items():
        inner = known.get(key) or (rest if isinstance(rest, dict) else None)
        if inner is not None:
            yield from _faults(inner, one, _joined(path, key))


def _list_faults(schema: Json, value: list[Any], path: str) -> Iterator[Cause]:
    for at, one in enumerate(value):
        yield from _faults(schema.get("items") or {}, one, f"{path}[{at}]")
    least, most = schema.get("minItems"), schema.get("maxItems")
    if least is not None and len(value) < least:
        yield Cause("FieldValueInvalid", f"Invalid value: {len(value)}: {path} in body should have at least "
                    f"{least} items", path)  # fmt: skip
    if most is not None and len(value) > most:
        yield Cause("FieldValueTooMany", f"Too many: {len(value)}: must have at most {most} items", path)
    yield from _doubles(schema, value, path)


def _doubles(schema: Json, value: list[Any], path: str) -> Iterator[Cause]:
    how = schema.get("x-kubernetes-list-type")
    if how not in {"map", "set"}:
        return
    keys, seen = schema.get("x-kubernetes-list-map-keys") or (), set()
    for at, one in enumerate(value):
        said = {key: one[key] for key in keys if key in one} if how == "map" and isinstance(one, dict) else one
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        if text in seen:
            yield Cause("FieldValueDuplicate", f"Duplicate value: {text}", f"{path}[{at}]")
        seen.add(text)


def _text_faults(schema: Json, value: str, path: str) -> Iterator[Cause]:
    said = json.dumps(value, ensure_ascii=False)
    most, least, pattern = schema.get("maxLength"), schema.get("minLength"), schema.get("pattern")
    if most is not None and len(value) > most:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {most} bytes", path)
    if least is not None and len(value) < least:
        text = f"Invalid value: {said}: {path} in body should be at least {least} chars long"
        yield Cause("FieldValueInvalid", text, path)
    if pattern is not None and not _compiled(pattern).search(value):
        yield Cause("FieldValueInvalid", f"Invalid value: {said}: {path} in body should match '{pattern}'", path)


def _number_faults(schema: Json, value: float, path: str) -> Iterator[Cause]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and value < least:
        text = f"Invalid value: {value}: {path} in body should be greater than or equal to {least}"
        yield Cause("FieldValueInvalid", text, path)
    if most is not None and value > most:
        text = f"Invalid value: {value}: {path} in body should be less than or equal to {most}"
        yield Cause("FieldValueInvalid", text, path)
    size = INTEGERS.get(str(schema.get("format")))
    if size is not None and not -size <= value < size:
        text = f"Invalid value: {value}: {path} in body must be of type {schema['format']}: {json.dumps(value)}"
        yield Cause("FieldValueInvalid", text, path)


@lru_cache(maxsize=128)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def rule_faults(schema: Json, value: Any, before: Any, path: str = "") -> list[Cause]:
    """The validation rules (CEL) of the two forms KubeRay uses: a choice of values, and what never changes."""
    return list(_rule_faults(schema, value, before, path))


def _rule_faults(schema: Json, value: Any, before: Any, path: str) -> Iterator[Cause]:
    for rule in schema.get(RULES) or ():
        if not _holds(str(rule.get("rule")), value, before):
            said = json.dumps(value, ensure_ascii=False)
            yield Cause("FieldValueInvalid", f"Invalid value: {said}: {rule.get('message')}", path)
    if not isinstance(value, dict):
        return
    for key, one in value.items():
        inner = (schema.get("properties") or {}).get(key)
        if inner is not None:
            old = before.get(key) if isinstance(before, dict) else None
            yield from _rule_faults(inner, one, old, _joined(path, key))


def _holds(rule: str, value: Any, before: Any) -> bool:
    if rule == "self == oldSelf":
        return before is None or value == before
    match = re.fullmatch(r"self in \[(.*)\]", rule)
    return match is None or value in [one.strip().strip("'\"") for one in match[1].split(",")]


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
