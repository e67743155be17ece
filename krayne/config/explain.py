"""Pydantic's refusals as sentences with a place: file and line, or the override that caused it.

Owns the wording and the nearest-name hints. Never repeats a value that may be a secret.
"""

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from krayne.config.document import Document
from krayne.config.models import ClusterConfig
from krayne.config.problems import (
    PROBLEM_LIMIT,
    InvalidConfigError,
    Path,
    Place,
    Problem,
    clipped,
    dotted,
    is_secret,
    shown,
)

# Beyond this a word is not a slip of the keyboard, and comparing it costs time.
_WORD_LIMIT = 64
_WANTED = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "list_type": "must be a list, each entry on a line that starts with -",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of fields",
    "string_too_short": "must not be empty",
}


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice a person most likely meant by `name`, ignoring case, `_` and `-`; None if none is near."""
    if len(name) > _WORD_LIMIT:
        return None
    by_bare = {_bare(choice): choice for choice in choices}
    found = difflib.get_close_matches(_bare(name), by_bare, n=1, cutoff=0.6)
    return by_bare[found[0]] if found else None


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


@dataclass(frozen=True, slots=True)
class Origins:
    """Where each value came from: the file's document, and the override behind each path it set."""

    source: str
    document: Document
    overrides: Mapping[Path, str]
    root: type[BaseModel] = ClusterConfig

    def override_of(self, path: Path) -> str:
        """The override key that set `path`, a part of it, or what contains it; empty if the file did."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.overrides:
                return self.overrides[path[:length]]
        if path in self.document.values:
            return ""
        below = (key for at, key in self.overrides.items() if at[: len(path)] == path and path)
        return next(below, "")

    def place_of(self, path: Path, *, of_key: bool = False) -> Place | None:
        """Where `path` stands in the file, else the nearest thing that contains it."""
        if of_key and path in self.document.keys:
            return self.document.keys[path]
        for length in range(len(path), -1, -1):
            if path[:length] in self.document.values:
                return self.document.values[path[:length]]
        return None


def invalid_model(error: ValidationError, origins: Origins) -> InvalidConfigError:
    """Every refusal of `error`, worded and placed, in the order of the file; overrides come last."""
    details = error.errors(include_url=False)
    # Wording costs more than finding; only what will be shown is worded.
    details = sorted(details[: 5 * PROBLEM_LIMIT], key=lambda one: one["type"] == "missing")
    problems = [_problem(detail, origins) for detail in details]
    problems.sort(key=lambda one: (bool(one.override), one.line or 0, one.column or 0))
    return InvalidConfigError(problems)


def _problem(detail: ErrorDetails, origins: Origins) -> Problem:
    context = detail.get("ctx", {})
    path = tuple(part for part in detail["loc"] if part != "[key]")
    involved = [(*path, name) for name in context.get("fields", ())]
    path = (*path, *context.get("at", ()))
    override = next(filter(None, map(origins.override_of, (path, *involved))), "")
    unknown = detail["type"] == "extra_forbidden"
    place = origins.place_of(path, of_key=unknown)
    if not override and path not in origins.document.values:
        # A default takes part in the refusal: point at the field that was written.
        written = (at for at in involved if at in origins.document.values)
        place = next((origins.place_of(at) for at in written), place)
    line, column = place if place and not override else (None, None)
    message, hint = _unknown(path, origins.root) if unknown else (_sentence(detail, path, origins), "")
    hint = hint or context.get("hint", "")
    return Problem(origins.source, line, dotted(path), message, column, hint, override)


def _sentence(detail: ErrorDetails, path: Path, origins: Origins) -> str:
    field = dotted(path) or "the cluster"
    kind = detail["type"]
    given = detail["input"]
    context = detail.get("ctx", {})
    if kind == "krayne_rule":
        return f"{field} {context['says']}"
    if kind == "missing":
        return f"{field} is required"
    if given is None:
        return f"{field} has no value: give it one, or remove the line"
    if kind == "literal_error":
        return f"{field} must be {_choice(path, given, origins.root)}"
    if kind == "greater_than_equal":
        return f"{field} must be {context['ge']} or more, not {shown(given)}"
    if kind == "less_than_equal":
        return f"{field} must be at most {context['le']}, not {shown(given)}"
    if kind == "string_type" and isinstance(given, bool | int | float):
        return f"{field} must be text: {_quoting_advice(path, given, origins)}"
    if kind in _WANTED:
        return f"{field} {_WANTED[kind]}" + ("" if is_secret(path) else f", not {shown(given)}")
    return f"{field} is not valid: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _quoting_advice(path: Path, given: Any, origins: Origins) -> str:
    if is_secret(path):
        return "write the value in quotes"
    word = clipped(origins.document.words.get(path, shown(given)))
    if isinstance(given, bool):
        return f'{word} means {shown(given)} in YAML, write "{word}" in quotes'
    return f'{word} is a number, write "{word}" in quotes'


def _choice(path: Path, given: Any, root: type[BaseModel]) -> str:
    owner = _model_at(path[:-1], root)
    choices: list[str] = []
    if owner is not None:
        annotation = owner.model_fields[str(path[-1])].annotation
        choices = [str(one) for part in _parts(annotation) for one in get_args(part)]
    near = nearest(given, choices) if isinstance(given, str) else None
    meant = f" (did you mean {near}?)" if near else ""
    return f"{', '.join(choices[:-1])} or {choices[-1]}, not {shown(given)}{meant}"


def _unknown(path: Path, root: type[BaseModel]) -> tuple[str, str]:
    """The sentence and the hint for a field that does not exist."""
    field, name = dotted(path), str(path[-1])
    owner = _model_at(path[:-1], root)
    if owner is None:
        return f"{field} is not a known field", ""
    why = getattr(owner, "refused", {}).get(name)
    if why:
        return f"{field} is not a field here: {why}", ""
    choices = list(owner.model_fields)
    where = dotted(path[:-1])
    hint = f"fields of {where}: {', '.join(choices)}" if where else f"fields: {', '.join(choices)}"
    near = nearest(name, choices)
    meant = f"; did you mean {near}?" if near else ""
    return f"{field} is not a known field{meant}", hint


def _model_at(path: Path, root: type[BaseModel]) -> type[BaseModel] | None:
    """The model that validates what stands at `path`; None inside free JSON."""
    current: Any = root
    for part in path:
        if isinstance(part, int):
            current = next((get_args(one)[0] for one in _parts(current) if get_origin(one) is list), None)
        else:
            model = _as_model(current)
            info = model.model_fields.get(part) if model else None
            current = info.annotation if info else None
    return _as_model(current)


def _as_model(annotation: Any) -> type[BaseModel] | None:
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _parts(annotation: Any) -> list[Any]:
    """The alternatives of `X | None`, without Annotated."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for one in get_args(annotation) for part in _parts(one)]
    return [annotation]
