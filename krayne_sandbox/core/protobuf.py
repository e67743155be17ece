"""Kubernetes' protobuf for the few kinds that `kubectl create KIND` sends in it and in nothing else.

Decodes only; fields without a number here are dropped. Raises ValueError for what is no such message.
"""

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from krayne_sandbox.core.meta import Json

MAGIC: Final = b"k8s\x00"
TEXT, FLAG, MAP, BYTES_MAP, TEXTS, MESSAGE = "text", "flag", "map", "bytes-map", "texts", "message"


class Field(NamedTuple):
    """A field's name, how its value is read, and the fields of a message."""

    name: str
    how: str
    fields: "Mapping[int, Field] | None" = None


METADATA: Final = Field("metadata", MESSAGE, {
    1: Field("name", TEXT), 2: Field("generateName", TEXT), 3: Field("namespace", TEXT), 5: Field("uid", TEXT),
    6: Field("resourceVersion", TEXT), 11: Field("labels", MAP), 12: Field("annotations", MAP),
    14: Field("finalizers", TEXTS),
})  # fmt: skip
KINDS: Final[Mapping[tuple[str, str], Mapping[int, Field]]] = {
    ("v1", "Namespace"): {1: METADATA},
    ("v1", "ServiceAccount"): {1: METADATA},
    ("v1", "ConfigMap"): {1: METADATA, 2: Field("data", MAP), 3: Field("binaryData", BYTES_MAP),
                          4: Field("immutable", FLAG)},
    ("v1", "Secret"): {1: METADATA, 2: Field("data", BYTES_MAP), 3: Field("type", TEXT), 4: Field("stringData", MAP),
                       5: Field("immutable", FLAG)},
}  # fmt: skip


def decoded(data: bytes) -> Json:
    """An object from its envelope."""
    if not data.startswith(MAGIC):
        raise ValueError("the body does not begin as Kubernetes' protobuf")
    envelope = dict(_fields(data[len(MAGIC) :]))
    head = dict(_fields(_bytes(envelope.get(1, b""))))
    version, kind = (_bytes(head.get(at, b"")).decode() for at in (1, 2))
    known = KINDS.get((version, kind))
    if known is None:
        raise ValueError(f"{kind} of {version} is not taken as protobuf here; send it as JSON")
    return {"apiVersion": version, "kind": kind, **_message(_bytes(envelope.get(2, b"")), known)}


def _message(data: bytes, known: Mapping[int, Field]) -> Json:
    found: Json = {}
    for number, value in _fields(data):
        field = known.get(number)
        if field is not None:
            _take(found, field, value)
    return found


def _take(found: Json, field: Field, value: bytes | int) -> None:
    if field.how == FLAG:
        found[field.name] = bool(value)
        return
    raw = _bytes(value)
    if field.how == MESSAGE:
        found[field.name] = _message(raw, field.fields or {})
    elif field.how == TEXTS:
        found.setdefault(field.name, []).append(raw.decode())
    elif field.how in {MAP, BYTES_MAP}:
        pair = dict(_fields(raw))
        inner = _bytes(pair.get(2, b""))
        said = inner.decode() if field.how == MAP else base64.b64encode(inner).decode()
        found.setdefault(field.name, {})[_bytes(pair.get(1, b"")).decode()] = said
    elif raw:
        found[field.name] = raw.decode()


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where text belongs")  # noqa: TRY004 what was sent is wrong, not our types
    return value


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        wire = tag & 7
        if wire == 0:
            value: bytes | int
            value, at = _number(data, at)
        elif wire in {1, 2, 5}:
            size = {1: 8, 5: 4}.get(wire, 0)
            if wire == 2:
                size, at = _number(data, at)
            if at + size > len(data):
                raise ValueError("the message is cut short")
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"wire type {wire} is not known")
        yield tag >> 3, value


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("the message is cut short")
