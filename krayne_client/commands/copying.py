"""Files and folders between here and a cluster's pods: cp."""

import argparse
import os
import sys
from typing import NamedTuple

from krayne.errors import UsageError
from krayne_client.commands.entering import add_worker
from krayne_client.grammar import Grammar


class Place(NamedTuple):
    """A path, in a cluster's pod or (no cluster) here."""

    cluster: str
    path: str


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.verb(
        "cp",
        copy,
        "copy a file or a folder to or from a cluster's head pod, or a worker's",
        "cp train.py demo:",
        "cp demo:/tmp/results results",
        "cp data demo:/home/ray/data --worker demo-worker-abcde",
    )
    typed.usage = "krayne cp NAME:PATH PATH | PATH NAME:PATH [--worker POD] [options]"
    typed.add_argument("source", metavar="FROM", help="NAME:PATH in the pod, or a path here")
    typed.add_argument("target", metavar="TO", help="a path here, or NAME:PATH in the pod")
    add_worker(typed, "in this worker pod")


def copy(options: argparse.Namespace) -> int:
    """`krayne cp`: an existing folder as the target takes the source into itself."""
    from krayne_client import tarcopy

    source, target = _place(options.source), _place(options.target)
    if bool(source.cluster) == bool(target.cluster):
        raise UsageError("one side of a copy is in a pod, the other here", hint="krayne cp demo:/tmp/results results")
    options.name = source.cluster or target.cluster
    say = _progress() if sys.stderr.isatty() else None
    try:
        if source.cluster:
            tarcopy.fetch(options, source.path, target.path, say)
        else:
            tarcopy.send(options, source.path, target.path, say)
    finally:
        if say is not None:
            sys.stderr.write("\n")
    return 0


def _place(text: str) -> Place:
    """`NAME:PATH`; a path with a slash before its first colon is one of here."""
    name, colon, path = text.partition(":")
    if not colon or os.sep in name or not name:
        if not text:
            raise UsageError("an empty path", hint="krayne cp --help")
        return Place("", text)
    return Place(name, path or ".")


class _progress:  # noqa: N801 - called like a function
    """Bytes so far, rewritten on one line a few times a second."""

    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, size: int, what: str) -> None:
        import time

        now = time.monotonic()
        if now - self._said > 0.2:
            self._said = now
            sys.stderr.write(f"\r\x1b[K{size / 1e6:8.1f} MB  {what[-50:]}")
            sys.stderr.flush()
