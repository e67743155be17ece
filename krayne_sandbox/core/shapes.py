"""How a value merges: field by field, by keys, as a set, or whole. Read from a structural schema, or from the value.

One description for server-side apply and for strategic merge. Where no schema is known, objects merge field by field
and lists are atomic, which is what the API server deduces too.
"""

import json
from typing import Any, Final, NamedTuple

from krayne_sandbox.core.meta import Json

GRANULAR: Final = "granular"
ATOMIC: Final = "atomic"
LISTMAP: Final = "listmap"
SET: Final = "set"
_DEDUCED: Final[Json] = {}
FIXED: Final = "x-krayne-fixed"

OWNER_REFERENCES: Final = {
    "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"],
    "items": {"x-kubernetes-map-type": "atomic"},
}  # fmt: skip
METADATA: Final[Json] = {
    "properties": {
        "ownerReferences": OWNER_REFERENCES,
        "finalizers": {"type": "array", "x-kubernetes-list-type": "set"},
    }
}
CONDITIONS: Final[Json] = {
    "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
}  # fmt: skip
SERVICE_PORTS: Final[Json] = {
    "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
}  # fmt: skip
KEY_DEFAULTS: Final = {"protocol": "TCP"}  # a key that may be left out counts as this


class Shape(NamedTuple):
    """The merging of one place in an object."""

    schema: Json

    @property
    def kind(self) -> str:
        """GRANULAR, ATOMIC, LISTMAP or SET; what a scalar says does not matter."""
        how = self.schema.get("x-kubernetes-list-type")
        if how == "map":
            return LISTMAP
        if how == "set":
            return SET
        if how == "atomic" or self.schema.get("x-kubernetes-map-type") == "atomic":
            return ATOMIC
        return GRANULAR

    @property
    def fixed(self) -> frozenset[tuple[str, ...]]:
        """Places that are there in the emptiest object, so that nobody owns them; said by the whole object's shape."""
        return frozenset(self.schema.get(FIXED) or {("f:metadata",)})

    def field(self, name: str) -> "Shape":
        """The shape of one of its fields."""
        known = self.schema.get("properties") or {}
        rest = self.schema.get("additionalProperties")
        return Shape(known.get(name) or (rest if isinstance(rest, dict) else _DEDUCED))

    def item(self) -> "Shape":
        """The shape of its list's items."""
        return Shape(self.schema.get("items") or _DEDUCED)

    def key_of(self, item: Any) -> str:
        """What tells an item of a LISTMAP from the others."""
        keys = self.schema.get("x-kubernetes-list-map-keys") or ()
        if not isinstance(item, dict):
            return json.dumps(item)
        found = {key: item.get(key, KEY_DEFAULTS.get(key)) for key in keys}
        return json.dumps({key: one for key, one in found.items() if one is not None}, separators=(",", ":"))
