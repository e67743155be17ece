"""YAML text to plain data with the place of every key and value; hostile text is refused, not survived.

Reads parser events, never composes or constructs through PyYAML, so there is no recursion, no alias expansion and no
object construction. Invariant: any bytes give a `Document` or an `InvalidConfigError`, in time linear in their length.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.resolver import Resolver

from krayne.config.problems import (
    PROBLEM_LIMIT,
    InvalidConfigError,
    Path,
    Place,
    Problem,
    clipped,
    dotted,
    invalid,
    is_secret,
)

# Real cluster files have a few KiB; the largest allowed one still parses within one tenth of a second.
SIZE_LIMIT = 256 * 1024
# A Kubernetes affinity nests 12 deep below a group; nothing a person writes comes near this.
DEPTH_LIMIT = 32
NODE_LIMIT = 20_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = Resolver()
# The numbers that mean the same in YAML 1.1, YAML 1.2 and JSON. All others (22:22, 010, 0x1f, 1_000) are refused.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:[eE][-+]?[0-9]{1,3})?")
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: its data, and where each path's key and value stand; `words` is the text of non-strings."""

    data: Any
    keys: Mapping[Path, Place]
    values: Mapping[Path, Place]
    words: Mapping[Path, str]


def read_document(text: bytes, source: str) -> Document:
    """Parse exactly one YAML document; InvalidConfigError names `source` and the place."""
    if len(text) > SIZE_LIMIT:
        raise invalid(source, f"the file is larger than {SIZE_LIMIT // 1024} KiB")
    try:
        decoded = text.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        place = _place_of_byte(text, error.start)
        raise invalid(source, "the file is not UTF-8 text", place=place) from None
    builder = _Builder(source)
    try:
        for event in yaml.parse(decoded, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        raise _syntax_error(error, decoded, source) from None
    if builder.problems:
        raise InvalidConfigError(builder.problems)
    return Document(builder.root, builder.keys, builder.values, builder.words)


def _place_of_byte(text: bytes, offset: int) -> Place:
    before = text[:offset]
    return Place(before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1)


def _syntax_error(error: yaml.YAMLError, text: str, source: str) -> InvalidConfigError:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else None
        said = error.problem or error.context or "it cannot be parsed"
        if "nesting depth" in said:  # libyaml from 0.2.6 on has a limit too, and reads ahead up to it
            return invalid(source, f"the file nests deeper than {DEPTH_LIMIT} levels", place=place)
        return invalid(source, f"this is not valid YAML: {clipped(said, 100)}", place=place)
    # The reader's own error: a control character, with an offset and no mark.
    offset = getattr(error, "position", 0)
    before = text[:offset] if isinstance(offset, int) else ""
    place = Place(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    return invalid(source, "this is not valid YAML: a control character", place=place)


def _place(event: yaml.Event) -> Place:
    mark: Any = event.start_mark  # never None on an event of the parser
    return Place(mark.line + 1, mark.column + 1)


@dataclass(slots=True)
class _Open:
    """A mapping or list still being filled; `key` is set between a mapping's key and its value."""

    path: Path
    value: dict[str, Any] | list[Any]
    key: str | None = None


@dataclass(slots=True)
class _Builder:
    source: str
    root: Any = None
    documents: int = 0
    nodes: int = 0
    stack: list[_Open] = field(default_factory=list)
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    words: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._refusal(event, "a second YAML document begins here", "one cluster a file")
        elif isinstance(event, yaml.AliasEvent):
            raise self._refusal(event, "YAML aliases are not allowed here", "write the value out")
        elif isinstance(event, yaml.ScalarEvent):
            self._count(event)
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._count(event)
            self._begin(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.stack.pop()

    def _count(self, event: yaml.NodeEvent) -> None:
        """What every node must satisfy."""
        self.nodes += 1
        if self.nodes > NODE_LIMIT:
            raise self._refusal(event, f"the file has more than {NODE_LIMIT} values")
        if event.anchor is not None:
            raise self._refusal(event, "YAML anchors are not allowed here", "write the value out")
        if getattr(event, "tag", None) is not None:
            raise self._refusal(event, "YAML tags are not allowed here", "quote the value instead")

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        if len(self.stack) >= DEPTH_LIMIT:
            raise self._refusal(event, f"the file nests deeper than {DEPTH_LIMIT} levels")
        if self._expects_key():
            raise self._refusal(event, "a field's name must be text, not a list or a mapping")
        value: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._next_path()
        self._attach(path, value, event)
        self.stack.append(_Open(path, value))

    def _expects_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        if self._expects_key():
            self._name(event)
            return
        path = self._next_path()
        value = self._meaning(event, path)
        if not isinstance(value, str):
            self.words[path] = event.value
        self._attach(path, value, event)

    def _name(self, event: yaml.ScalarEvent) -> None:
        top = self.stack[-1]
        top.key = event.value
        path = (*top.path, event.value)
        if not isinstance(self._meaning(event, path), str):
            self._note(event, path, f'the name {clipped(event.value)} must be written in quotes, as "..."')
        if path in self.keys:
            first = self.keys[path].line
            self._note(event, path, f"{dotted(path)} is written twice, first on line {first}")
        else:
            self.keys[path] = _place(event)

    def _next_path(self) -> Path:
        """The path of the value that begins now."""
        if not self.stack:
            return ()
        top = self.stack[-1]
        if isinstance(top.value, list):
            return (*top.path, len(top.value))
        assert top.key is not None
        return (*top.path, top.key)

    def _attach(self, path: Path, value: Any, event: yaml.NodeEvent) -> None:
        self.values[path] = _place(event)
        if not self.stack:
            self.root = value
            return
        top = self.stack[-1]
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is not None:
            top.value[top.key] = value
            top.key = None

    def _meaning(self, event: yaml.ScalarEvent, path: Path) -> Any:
        """Text, number, boolean or None; what YAML versions disagree on becomes a problem."""
        text = event.value
        if not event.implicit[0]:
            return text
        tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)).removeprefix(_TAG)
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() in ("true", "yes", "on")
        if tag == "int" and _INTEGER.fullmatch(text):
            return int(text)
        if tag == "float" and _DECIMAL.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        if tag in ("int", "float", "timestamp"):
            what = "this value" if is_secret(path) else clipped(text)
            self._note(event, path, f"{what} is no plain decimal number: write digits, or put it in quotes")
        return text

    def _note(self, event: yaml.Event, path: Path, message: str) -> None:
        place = _place(event)
        problem = Problem(self.source, place.line, dotted(path), message, column=place.column)
        self.problems.append(problem)
        if len(self.problems) >= PROBLEM_LIMIT:
            raise InvalidConfigError(self.problems)

    def _refusal(self, event: yaml.Event, message: str, hint: str = "") -> InvalidConfigError:
        return invalid(self.source, message, place=_place(event), hint=hint)
