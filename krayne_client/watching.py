"""`ls -w`: a list that stays true. A live page on a terminal; in a pipe a line for each change, or JSON lines.

The daemon's watch says when to look, and the list is asked for anew: what is shown is chosen in one place.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from krayne.errors import UsageError
from krayne_client.asking import reach
from krayne_client.connection import VIEW_SECONDS
from krayne_client.main import terminal, write_all

CALM = 0.1  # seconds changes are gathered: a cluster that starts has many in a row
HOME_AND_CLEAR = b"\x1b[H\x1b[2J"

View = dict[str, Any]


def watch(options: argparse.Namespace) -> int:
    """Show the list and every change of it, until interrupted."""
    if options.output in ("yaml", "name"):
        raise UsageError(f"-w has no output format {options.output}", hint="-o json prints JSON lines")
    live = sys.stdout.isatty() and options.output != "json"
    show = _page if live else _Lines(options.output == "json")
    try:
        for _ in _moments(options):
            show(options)
    except KeyboardInterrupt:
        sys.stderr.write("\n" if live else "")
        return 0
    return 0


def _moments(options: argparse.Namespace) -> Iterator[None]:
    """Now, and after each burst of changes."""
    while True:
        with reach(options) as daemon:
            daemon.call("cluster.watch", {})
            yield
            for event in daemon.notifications("watch.event"):
                lost = [event, *daemon.notifications("watch.event", seconds=CALM)][-1]["kind"] == "resync"
                if lost:
                    break
                yield


def _page(options: argparse.Namespace) -> None:
    width, color = terminal(options.no_color)
    params = {"view": "clusters", "format": options.output, "width": width, "color": color, **_which(options)}
    with reach(options) as daemon:
        _, out, remarks = daemon.render(params, seconds=VIEW_SECONDS)
    if not write_all(HOME_AND_CLEAR + out + remarks, b""):
        raise BrokenPipeError


class _Lines:
    """Prints what is new since it printed last."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._told: dict[tuple[str, str], str] = {}

    def __call__(self, options: argparse.Namespace) -> None:
        with reach(options) as daemon:
            views = daemon.call("cluster.list", _which(options), seconds=VIEW_SECONDS)["clusters"]
        now = {(one["namespace"], one["name"]): one for one in views}
        for key, view in now.items():
            self._tell(key, "changed" if key in self._told else "added", view)
        for key in [key for key in self._told if key not in now]:
            self._tell(key, "removed", None)
            del self._told[key]
        sys.stdout.flush()

    def _tell(self, key: tuple[str, str], kind: str, view: View | None) -> None:
        text = json.dumps(view) if self._as_json else _line(key, view)
        if self._told.get(key) == text:
            return
        self._told[key] = text
        event = {"kind": kind, "namespace": key[0], "name": key[1], "cluster": view}
        sys.stdout.write((json.dumps(event) if self._as_json else text) + "\n")


def _line(key: tuple[str, str], view: View | None) -> str:
    if view is None:
        return f"{key[0]}/{key[1]} gone"
    workers = view["workers"]
    return f"{key[0]}/{key[1]} {view['phase']} {workers['ready']}/{workers['desired']} {view['reason']}".rstrip()


def _which(options: argparse.Namespace) -> dict[str, Any]:
    return {"name": options.name, "namespace": options.namespace, "all_namespaces": options.all_namespaces}
