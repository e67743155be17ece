"""What an event does to a cache of objects, and how a watch's bytes become events. Pure.

The cache converges to the server's state whatever is sent twice, late or out of order; only a whole list and a deletion
take objects away.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from kraynd.core.model import Json
from kraynd.kube.refusals import nonsense, refusal
from krayne.rpc import DECODE_FAULTS

LINE_LIMIT = 16 * 1024 * 1024  # bytes of one event; etcd's own limit is 1.5 MiB an object
ObjectKey = tuple[str, str]


class Change(NamedTuple):
    """One object before and after; None where it was not there."""

    before: Json | None
    after: Json | None


class Cache:
    """Objects by namespace and name, and the resourceVersion up to which they are known; empty: nothing is."""

    def __init__(self, objects: Iterable[Json] = ()) -> None:
        self.version = ""
        self.objects: dict[ObjectKey, Json] = dict(map(key_and_object, objects))

    def replace(self, items: Iterable[Json], version: str) -> list[Change]:
        """A whole list is the truth, older than what was known or not. Raises KubeConnectionError, changing nothing."""
        before, found = self.objects, dict(map(key_and_object, items))
        self.objects, self.version = found, version
        names = dict.fromkeys([*before, *found])
        return [Change(before.get(name), found.get(name)) for name in names if before.get(name) != found.get(name)]

    def take(self, event: Json, server: str) -> Change | None:
        """A watch's event; None when it changes nothing. Raises the KrayneError an ERROR event stands for."""
        kind, item = event.get("type"), event.get("object")
        if not isinstance(item, dict):
            raise nonsense("an event")
        if kind == "ERROR":
            raise refusal(_code(item), msgspec.json.encode(item), server)
        if kind == "BOOKMARK":
            self._advance(item.get("metadata"))
            return None
        if kind not in ("ADDED", "MODIFIED", "DELETED"):
            return None
        name, item = key_and_object(item)
        if not self._advance(item["metadata"]):
            return None  # sent twice or out of order: what it says is known, or was true once
        before = self.objects.get(name)
        if kind == "DELETED":
            self.objects.pop(name, None)
            return Change(before, None) if before is not None else None
        self.objects[name] = item
        return Change(before, item) if before != item else None

    def _advance(self, metadata: Any) -> bool:
        """Whether this is news. The version never goes back, or a resumed watch would tell old stories again."""
        version = str((metadata if isinstance(metadata, dict) else {}).get("resourceVersion") or "")
        if not version or _is_before(version, self.version):
            return not version
        self.version = version
        return True


class Lines:
    """Bytes of a watch to its events, one JSON text a line."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Json]:
        """The events that are whole by now. Raises KubeConnectionError for anything else than events."""
        head, newline, rest = data.rpartition(b"\n")
        if not newline:
            head, rest = b"", data
        whole = b"".join([*self._parts, head]) if newline else b""
        if newline:
            self._parts, self._size = [], 0
        self._parts.append(rest)
        self._size += len(rest)
        if self._size > LINE_LIMIT:
            raise nonsense("an event of a possible size")
        return [_event(line) for line in whole.split(b"\n") if line.strip()]


def list_page(page: Json) -> tuple[list[Json], str, str]:
    """A list's items, its version, and the token of its next page. Raises KubeConnectionError: never an empty list."""
    metadata, items = page.get("metadata"), page.get("items")
    items = [] if items is None else items
    if not isinstance(metadata, dict) or not isinstance(items, list) or not str(page.get("kind")).endswith("List"):
        raise nonsense("a list")
    return items, str(metadata.get("resourceVersion") or ""), str(metadata.get("continue") or "")


def key_and_object(item: Any) -> tuple[ObjectKey, Json]:
    """Without managedFields: nothing reads them, and they are half of an object. Raises KubeConnectionError."""
    metadata = item.get("metadata") if isinstance(item, dict) else None
    if not isinstance(metadata, dict) or not metadata.get("name"):
        raise nonsense("an object")
    metadata.pop("managedFields", None)
    return (str(metadata.get("namespace") or ""), str(metadata["name"])), item


def _event(line: bytes) -> Json:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except DECODE_FAULTS:
        raise nonsense("an event") from None


def _code(status: Json) -> int:
    found = status.get("code")
    return found if isinstance(found, int) else HTTPStatus.INTERNAL_SERVER_ERROR


def _is_before(version: str, other: str) -> bool:
    """Versions of one resource are ordered numbers (KEP-5504); where a server has others, nothing is known."""
    return version.isdigit() and other.isdigit() and int(version) < int(other)
