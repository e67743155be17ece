"""Metrics in Prometheus' text format (version 0.0.4). Pure: families in, text out.

Invariant: each family has one HELP and one TYPE line, counters end in _total, and no label can break a line.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec


class Sample(msgspec.Struct, frozen=True):
    """One value and its labels."""

    value: float
    labels: Mapping[str, str] = {}


class Family(msgspec.Struct, frozen=True):
    """Samples of one name. A counter's name is given with its _total."""

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    samples: tuple[Sample, ...]


def render(families: Iterable[Family]) -> str:
    """The text a scraper reads."""
    lines = []
    for family in families:
        about = family.about.replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {family.name} {about}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{family.name}{_labels(one.labels)} {_number(one.value)}" for one in family.samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
