"""Shows how a cluster comes up: a table that changes in a notebook, lines on a terminal, nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from krayne.api.types import ClusterInfo

Told = Callable[[ClusterInfo], None]


@contextmanager
def narrated(name: str, progress: Told | None, wait: bool) -> Iterator[Told | None]:
    """What to tell of each change: the caller's own function, else what suits the place."""
    if progress is not None or not wait:
        yield progress
    elif notebook() is not None:
        yield _in_notebook()
    elif sys.stderr is not None and sys.stderr.isatty():
        yield _on_terminal(name)
    else:
        yield None


def notebook() -> Any:
    """IPython's shell when it runs in a notebook's kernel; None elsewhere. Imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def _in_notebook() -> Told:
    display = sys.modules["IPython"].display
    handle: list[Any] = []

    def tell(info: ClusterInfo) -> None:
        if handle:
            handle[0].update(info)
        else:
            handle.append(display.display(info, display_id=True))

    return tell


def _on_terminal(name: str) -> Told:
    told = ""

    def tell(info: ClusterInfo) -> None:
        nonlocal told
        text = f"{name}: {info.status}"
        if info.num_workers:
            text += f", workers {info.workers_ready}/{info.num_workers}"
        if info.reason:
            text += f" ({info.reason})"
        if text != told:
            told = text
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    return tell
