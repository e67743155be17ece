"""Server-side apply: who owns which fields, what an apply merges and removes, and where it conflicts.

A field set is a set of paths; a path is a tuple of the elements metadata.managedFields is written with ("f:name",
"k:{...}", "v:..."). Pure: the time of a change is an argument.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from krayne_sandbox.core.meta import Json, copied, metadata
from krayne_sandbox.core.shapes import ATOMIC, LISTMAP, SET, Shape

Path = tuple[str, ...]
APPLY: Final = "Apply"
UPDATE: Final = "Update"
# Written by the server, owned by nobody.
UNOWNED: Final = frozenset(
    {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink", "managedFields",
     "deletionTimestamp", "deletionGracePeriodSeconds"}
)  # fmt: skip


class Manager(NamedTuple):
    """Who wrote: a name, how, and through which subresource."""

    name: str
    operation: str
    subresource: str = ""


class Owned(NamedTuple):
    """What one manager owns, and since when."""

    fields: frozenset[Path]
    time: str
    api_version: str


Owners = dict[Manager, Owned]
FIRST: Final = Manager("before-first-apply", UPDATE)  # who owns what was there before anybody applied


class Clash(NamedTuple):
    """A field somebody else owns with another value."""

    path: Path
    owner: Manager
    api_version: str


# Field sets.


def fields_of(shape: Shape, thing: Json) -> set[Path]:
    """The fields an object sets; containers only where they are empty or items of a list."""
    found: set[Path] = set()
    for key, one in thing.items():
        if key not in {"apiVersion", "kind"}:
            skip = UNOWNED if key == "metadata" else frozenset()
            if isinstance(one, dict) and skip:
                one = {name: inner for name, inner in one.items() if name not in skip}
                if not one:
                    continue
            found |= set(_leaves(shape.field(key), one, (f"f:{key}",)))
    return found


def _leaves(shape: Shape, value: Any, path: Path) -> Iterator[Path]:
    children = list(_children(shape, value))
    if not children or (path[-1].startswith("k:")):
        yield path
    for step, inner, one in children:
        yield from _leaves(inner, one, (*path, step))


def _children(shape: Shape, value: Any) -> Iterator[tuple[str, Shape, Any]]:
    if isinstance(value, dict) and shape.kind != ATOMIC:
        for key, one in value.items():
            yield f"f:{key}", shape.field(key), one
    elif isinstance(value, list) and shape.kind == LISTMAP:
        for one in value:
            yield f"k:{shape.key_of(one)}", shape.item(), one
    elif isinstance(value, list) and shape.kind == SET:
        for one in value:
            yield f"v:{json.dumps(one)}", Shape({}), one


def _values(shape: Shape, thing: Json) -> dict[Path, Any]:
    """Every place of an object: leaves with their value in a tuple, what holds others with its type."""
    found: dict[Path, Any] = {}

    def walk(inner: Shape, value: Any, path: Path) -> None:
        children = list(_children(inner, value))
        found[path] = type(value) if children else (value,)
        for step, deeper, one in children:
            walk(deeper, one, (*path, step))

    for key, one in thing.items():
        if key in {"apiVersion", "kind"}:
            continue
        if key == "metadata" and isinstance(one, dict):
            one = {name: inner for name, inner in one.items() if name not in UNOWNED}
            if not one:
                continue
        walk(shape.field(key), one, (f"f:{key}",))
    return found


class Difference(NamedTuple):
    """From one object to another."""

    written: frozenset[Path]  # new or changed
    removed: frozenset[Path]


def difference(shape: Shape, old: Json, new: Json) -> Difference:
    """Which fields an update wrote and which it took away."""
    was, now = _values(shape, old), _values(shape, new)
    written = {path for path, one in now.items() if path not in was or _is_new(was[path], one)}
    written -= shape.fixed
    return Difference(frozenset(written), frozenset(path for path in was if path not in now))


def _is_new(was: Any, now: Any) -> bool:
    """Whether a place's own value changed; a container is as new as what is in it."""
    return was != now and not (isinstance(now, type) and was == (now(),))


# What managers own.


def read_owners(thing: Json) -> Owners:
    """From metadata.managedFields. Entries nobody can read are left out."""
    found: Owners = {}
    for one in metadata(thing).get("managedFields") or ():
        if isinstance(one, dict) and isinstance(one.get("fieldsV1"), dict):
            manager = Manager(
                str(one.get("manager") or ""), str(one.get("operation")), str(one.get("subresource") or "")
            )
            paths = frozenset(_paths(one["fieldsV1"]))
            found[manager] = Owned(paths, str(one.get("time") or ""), str(one.get("apiVersion") or ""))
    return found


def _paths(tree: Json, above: Path = ()) -> Iterator[Path]:
    for step, inner in tree.items():
        if step == ".":
            yield above
        elif not inner:
            yield (*above, step)
        else:
            yield from _paths(inner, (*above, step))


def write_owners(thing: Json, owners: Owners) -> None:
    """Into metadata.managedFields, without those who own nothing any more."""
    entries: list[Json] = []
    for manager, owned in sorted(owners.items(), key=lambda one: (one[0].operation, one[1].time, one[0].name)):
        if owned.fields:
            entry: Json = {
                "manager": manager.name, "operation": manager.operation, "apiVersion": owned.api_version,
                "time": owned.time, "fieldsType": "FieldsV1", "fieldsV1": _tree(owned.fields),
            }  # fmt: skip
            if manager.subresource:
                entry["subresource"] = manager.subresource
            entries.append(entry)
    thing["metadata"].pop("managedFields", None)
    if entries:
        thing["metadata"]["managedFields"] = entries


def _tree(paths: frozenset[Path]) -> Json:
    root: Json = {}
    for path in sorted(paths):
        node = root
        for step in path:
            node = node.setdefault(step, {})
    for path in paths:
        node = root
        for step in path:
            node = node[step]
        if node:
            node["."] = {}
    return _sorted(root)


def _sorted(tree: Json) -> Json:
    return {key: _sorted(tree[key]) for key in sorted(tree)}


def after_update(shape: Shape, old: Json | None, new: Json, manager: Manager, now: str) -> None:
    """Note in `new` who wrote what in a create, an update or a patch that is no apply."""
    changed = difference(shape, old or {}, new)
    owners = read_owners(old) if old is not None else {}
    if old is not None and not owners:
        new["metadata"].pop("managedFields", None)
        return  # nobody kept the books before: they begin with the first apply
    if manager.subresource != "status":
        changed = _without_status(changed)
    touched = changed.written | changed.removed
    if touched:
        owners = {one: owned._replace(fields=owned.fields - touched) for one, owned in owners.items()}
        mine = owners.get(manager, Owned(frozenset(), "", ""))
        if changed.written or mine.fields:
            fields = mine.fields | changed.written
            owners[manager] = Owned(fields, now, str(new.get("apiVersion") or ""))
    write_owners(new, owners)


def _without_status(changed: Difference) -> Difference:
    return Difference(*(frozenset(path for path in one if path[0] != "f:status") for one in changed))


# Apply.


class Applied(NamedTuple):
    """What an apply comes to. With clashes and no force, nothing may be written."""

    thing: Json
    clashes: list[Clash]


def applied(shape: Shape, live: Json, config: Json, manager: Manager, now: str) -> Applied:
    """Merge a configuration into an object (empty for a new one) and settle who owns what."""
    wanted = {key: one for key, one in config.items() if key not in {"apiVersion", "kind"}}
    mine = frozenset(fields_of(shape, wanted))
    owners = read_owners(live)
    if not owners and metadata(live).get("uid"):
        owners[FIRST] = Owned(difference(shape, {}, live).written, now, str(live.get("apiVersion") or ""))
    before = owners.pop(manager, Owned(frozenset(), now, ""))
    merged = _merged(shape, live, wanted)
    changed = frozenset().union(*difference(shape, live, merged))
    clashes = [
        Clash(path, other, owned.api_version)
        for other, owned in sorted(owners.items())
        for path in sorted(owned.fields & changed)
    ]
    owners = {other: owned._replace(fields=owned.fields - changed) for other, owned in owners.items()}
    others = frozenset().union(*(owned.fields for owned in owners.values()))
    said = {path[:size] for path in before.fields for size in range(1, len(path) + 1)}  # what held it goes with it
    for path in sorted(said - mine - others, key=len, reverse=True):
        if not any(one[: len(path)] == path for one in mine | others):
            _take_away(shape, merged, path)
    same = before.fields == mine and not changed
    api_version = str(config.get("apiVersion") or live.get("apiVersion") or "")
    owners[manager] = Owned(mine, before.time if same else now, api_version)
    write_owners(merged, owners)
    return Applied(merged, clashes)


def _merged(shape: Shape, live: Any, config: Any) -> Any:
    if isinstance(config, dict) and isinstance(live, dict) and shape.kind != ATOMIC:
        found = copied(live)
        for key, one in config.items():
            found[key] = _merged(shape.field(key), live.get(key), one)
        return found
    if isinstance(config, list) and isinstance(live, list) and shape.kind == LISTMAP:
        return _merged_list(shape, live, config)
    if isinstance(config, list) and isinstance(live, list) and shape.kind == SET:
        return [*copied(live), *(one for one in config if one not in live)]
    return copied(config)


def _merged_list(shape: Shape, live: Sequence[Any], config: Sequence[Any]) -> list[Any]:
    known = {shape.key_of(one): one for one in live}
    wanted = {shape.key_of(one): one for one in config}
    found = [_merged(shape.item(), one, wanted[key]) if key in wanted else copied(one) for key, one in known.items()]
    return found + [copied(one) for key, one in wanted.items() if key not in known]


def _take_away(shape: Shape, thing: Any, path: Path) -> None:
    step, rest = path[0], path[1:]
    if step.startswith("f:") and isinstance(thing, dict):
        name = step[2:]
        if not rest:
            thing.pop(name, None)
        elif name in thing:
            _take_away(shape.field(name), thing[name], rest)
    elif isinstance(thing, list):
        at = _index(shape, thing, step)
        if at is not None and not rest:
            del thing[at]
        elif at is not None:
            _take_away(shape.item(), thing[at], rest)


def _index(shape: Shape, items: list[Any], step: str) -> int | None:
    wanted = step[2:]
    for at, one in enumerate(items):
        if (json.dumps(one) if step.startswith("v:") else shape.key_of(one)) == wanted:
            return at
    return None


def spelled(path: Path) -> str:
    """A path as conflicts name it: `.spec.ports[port=80].name`."""
    parts = []
    for step in path:
        if step.startswith("f:"):
            parts.append(f".{step[2:]}")
        elif step.startswith("k:"):
            keys = json.loads(step[2:])
            parts.append("[" + ",".join(f"{key}={json.dumps(one)}" for key, one in keys.items()) + "]")
        else:
            parts.append(f"[={step[2:]}]")
    return "".join(parts)
