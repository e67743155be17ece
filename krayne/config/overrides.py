"""Overrides laid over a cluster file's data: `{"head.cpus": 32}`, nested dicts, group by index or by name.

Pure: data in, new data out, with the override key behind every path it set. Later overrides win over earlier ones,
dicts are merged, everything else is replaced.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from krayne.config.explain import nearest
from krayne.config.models import WorkerGroupConfig
from krayne.config.plain import to_plain
from krayne.config.problems import InvalidConfigError, Path, Problem, dotted, shown

# Deeper values cannot be part of a cluster file either.
_DEPTH_LIMIT = 32
_DEFAULT_GROUP: str = WorkerGroupConfig.model_fields["name"].default


def apply_overrides(
    data: dict[str, Any], overrides: Mapping[str, Any], source: str
) -> tuple[dict[str, Any], dict[Path, str]]:
    """`data` with `overrides` on top, and which override set each path; InvalidConfigError names the override."""
    layer = _Layer(source, _copied(data, 0))
    for key, value in overrides.items():
        layer.apply(key, value)
    return layer.data, layer.set_by


class _Layer:
    """Data being overridden; `key` is the override at work, for errors."""

    def __init__(self, source: str, data: dict[str, Any]) -> None:
        self.source = source
        self.data = data
        self.set_by: dict[Path, str] = {}
        self.key = ""

    def apply(self, key: str, value: Any) -> None:
        self.key = str(key)
        parts = key.split(".") if isinstance(key, str) else []
        if not parts or not all(parts):
            raise self._refused("is not the name of a field, such as head.cpus")
        try:
            plain = _copied(value, 0)
        except RecursionError:
            raise self._refused(f"nests deeper than {_DEPTH_LIMIT} levels") from None
        self._put(self.data, parts, plain, ())

    def _put(self, node: Any, parts: list[str], value: Any, path: Path) -> None:
        index = self._index(node, parts[0], path)
        here = (*path, index)
        if len(parts) == 1 and not (isinstance(value, dict) and value):
            node[index] = value
            self._record(here)
            return
        inner = node.get(index) if isinstance(node, dict) else node[index]
        if len(parts) == 1 and not isinstance(inner, dict | list | None):
            node[index] = inner = {}
            self._record(here)
        elif inner is None:
            # A group that the file leaves to its default can be overridden like a written one.
            inner = [{}] if here == ("worker_groups",) else {}
            node[index] = inner
        if len(parts) > 1:
            self._put(inner, parts[1:], value, here)
            return
        for name, one in value.items():
            self._put(inner, [name], one, here)

    def _record(self, path: Path) -> None:
        """`path` is now this override's, and so is all below it."""
        self.set_by = {at: key for at, key in self.set_by.items() if at[: len(path)] != path}
        self.set_by[path] = self.key

    def _index(self, node: Any, part: Any, path: Path) -> Any:
        """The dict key or list index that `part` names in `node`."""
        if isinstance(node, dict):
            return part
        if not isinstance(node, list):
            raise self._refused(f"{dotted(path)} has no fields")
        names = [_group_name(item) for item in node] if path == ("worker_groups",) else []
        hits = [index for index, name in enumerate(names) if name == part]
        if str(part).isdecimal() and len(part) < 6 and int(part) < len(node):
            hits = sorted({*hits, int(part)})
        if len(hits) == 1:
            return hits[0]
        where = dotted(path)
        if hits:
            raise self._refused(f"{shown(part)} names more than one entry of {where}")
        known = [name for name in names if isinstance(name, str)]
        near = nearest(str(part), known)
        meant = f"; did you mean {near}?" if near else ""
        raise self._refused(
            f"{where} has no entry {shown(part)}{meant}",
            hint=f"{where} holds {', '.join(known)}" if known else "",
        )

    def _refused(self, message: str, hint: str = "") -> InvalidConfigError:
        problem = Problem(self.source, None, self.key, message, hint=hint, override=self.key)
        return InvalidConfigError([problem])


def _group_name(item: Any) -> Any:
    return item.get("name", _DEFAULT_GROUP) if isinstance(item, dict) else None


def _copied(value: Any, depth: int) -> Any:
    """A copy that shares no dict or list with the caller's; models become the data they stand for."""
    if depth > _DEPTH_LIMIT:
        raise RecursionError
    if isinstance(value, BaseModel):
        value = to_plain(value)
    if isinstance(value, Mapping):
        return {key: _copied(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(inner, depth + 1) for inner in value]
    return value
