"""The three-way difference: last applied, declared, live, as guarded JSON patch steps.

Only what we declare, or once declared, is ever touched. Lists with a key are compared element by element; a whole
declared list is replaced only where the elements have no identity (a command line). Pure.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kraynd.core.model import Json

# What identifies an element of each list of a pod template or RayCluster; "" means the element is its own identity.
_LIST_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "port", "protocol"),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "tolerations": (),
    "workerGroupSpecs": ("groupName",),
}
_DEFAULTS = {"protocol": "TCP"}  # filled in by the API server, so its absence is the same port


class Change(msgspec.Struct, frozen=True):
    """One step of a JSON patch. `field` names it for people, by names instead of indexes."""

    op: str
    path: str
    field: str
    value: Any = None

    @property
    def step(self) -> Json:
        """The JSON patch operation (RFC 6902)."""
        if self.op == "remove":
            return {"op": "remove", "path": self.path}
        return {"op": self.op, "path": self.path, "value": self.value}


class Place(msgspec.Struct, frozen=True):
    """Where in the object we are: the JSON pointer, and the same in names."""

    path: str = ""
    field: str = ""

    def under(self, key: str) -> "Place":
        """The member `key` of the object here."""
        token = key.replace("~", "~0").replace("/", "~1")
        return Place(f"{self.path}/{token}", f"{self.field}.{key}" if self.field else key)

    def at(self, index: int | str, name: str) -> "Place":
        """The element of the list here at `index`, called `name`."""
        return Place(f"{self.path}/{index}", f"{self.field}[{name}]")

    @property
    def member(self) -> str:
        """The last member name, which tells what kind of list this is."""
        return self.field.rsplit(".", 1)[-1]

    def add(self, value: Any) -> Change:
        """Put `value` here."""
        return Change("add", self.path, self.field, value)

    def replace(self, value: Any) -> Change:
        """Put `value` here instead of what is."""
        return Change("replace", self.path, self.field, value)

    def remove(self) -> Change:
        """Take away what is here."""
        return Change("remove", self.path, self.field)


def differences(place: Place, declared: Json, live: Json, applied: Json) -> Iterator[Change]:
    """The steps that bring the object at `place` from `live` to what is declared; idempotent."""
    for key, wanted in declared.items():
        if wanted is None:
            continue
        here = place.under(key)
        if live.get(key) is None:
            if wanted not in ({}, []):
                yield here.add(wanted)
            continue
        yield from _value(here, wanted, live[key], applied.get(key))
    for key, before in applied.items():
        if declared.get(key) is None and before is not None and live.get(key) is not None:
            yield from _removals(place.under(key), before, live[key])


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values mean the same; True is not 1, and a quantity may be a number or its text."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (int, float, str)) and isinstance(other, (int, float, str)):
        return one == other or str(one) == str(other)
    return bool(one == other)


def _value(here: Place, wanted: Any, live: Any, applied: Any) -> Iterator[Change]:
    if isinstance(wanted, dict) and isinstance(live, dict):
        yield from differences(here, wanted, live, applied if isinstance(applied, dict) else {})
        return
    if isinstance(wanted, list) and isinstance(live, list):
        before = applied if isinstance(applied, list) else []
        name = _identity(here.member)
        if name is not None and _keyed(name, wanted, live, before):
            yield from _elements(here, name, (wanted, live, before))
            return
    if not same(wanted, live):
        yield here.replace(wanted)


def _elements(
    here: Place, name: Callable[[Any], Hashable], lists: tuple[Sequence[Any], Sequence[Any], Sequence[Any]]
) -> Iterator[Change]:
    """Changes inside elements first, removals from the end next, additions last: every index stays true."""
    wanted, live, applied = ({name(one): one for one in elements} for elements in lists)
    indexes = {key: index for index, key in enumerate(live)}
    for key, one in wanted.items():
        if key in live:
            yield from _value(here.at(indexes[key], _shown(key)), one, live[key], applied.get(key))
    gone = [key for key in applied if key not in wanted and key in live]
    for key in sorted(gone, key=lambda key: -indexes[key]):
        yield here.at(indexes[key], _shown(key)).remove()
    for key, one in wanted.items():
        if key not in live:
            yield here.at("-", _shown(key)).add(one)


def _removals(here: Place, applied: Any, live: Any) -> Iterator[Change]:
    """Take away what we once declared and nothing that others put beside it."""
    if isinstance(applied, dict) and isinstance(live, dict) and not _within(live, applied):
        for key, before in applied.items():
            if key in live:
                yield from _removals(here.under(key), before, live[key])
        return
    name = _identity(here.member)
    lists = isinstance(applied, list) and isinstance(live, list)
    if lists and name is not None and _keyed(name, applied, live) and _others(name, live, applied):
        yield from _elements(here, name, ([], live, applied))
        return
    yield here.remove()


def _within(live: Json, applied: Json) -> bool:
    """Whether all of `live` was ours."""
    return all(
        key in applied and (not isinstance(value, (dict, list)) or same(value, applied[key]))
        for key, value in live.items()
    )


def _identity(member: str) -> Callable[[Any], Hashable] | None:
    keys = _LIST_KEYS.get(member)
    if keys is None:
        return None

    def name(element: Any) -> Hashable:
        if not keys:
            return msgspec.json.encode(element, order="deterministic")
        if not isinstance(element, dict):
            return None
        named = tuple(str(element.get(key, _DEFAULTS.get(key, ""))) for key in keys)
        return named if named[0] or len(keys) > 1 else None

    return name


def _keyed(name: Callable[[Any], Hashable], *lists: Sequence[Any]) -> bool:
    """Whether in each list every element has a name of its own."""
    named = [[name(element) for element in elements] for elements in lists]
    return all(None not in names and len(set(names)) == len(names) for names in named)


def _others(name: Callable[[Any], Hashable], live: Sequence[Any], applied: Sequence[Any]) -> bool:
    """Whether the live list has elements that were never ours."""
    return not {name(one) for one in live} <= {name(one) for one in applied}


def _shown(key: Hashable) -> str:
    if isinstance(key, bytes):
        return key.decode()
    if isinstance(key, tuple):
        return "/".join(part for part in key if part and part != "TCP")
    return str(key)


def merged(one: Any, other: Any, member: str = "") -> Any:
    """Everything either of two applied objects declared; where both did, the first one's value."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys([*one, *other])
        return {key: merged(one.get(key, other.get(key)), other.get(key, one.get(key)), key) for key in keys}
    name = _identity(member)
    if isinstance(one, list) and isinstance(other, list) and name is not None and _keyed(name, one, other):
        first, second = ({name(element): element for element in elements} for elements in (one, other))
        keys = dict.fromkeys([*first, *second])
        return [merged(first.get(key, second.get(key)), second.get(key, first.get(key))) for key in keys]
    return one
