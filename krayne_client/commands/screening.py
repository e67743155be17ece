"""`krayne tui`: the clusters on a screen. The screen itself is the package krayne_tui, loaded when it is asked for."""

import argparse
import sys

from krayne.errors import UsageError
from krayne_client.connection import VIEW_SECONDS, connect
from krayne_client.grammar import Grammar


def add(grammar: Grammar) -> None:
    """What can be typed."""
    grammar.verb("tui", tui, "show the clusters on a screen that follows them, with keys to act", "tui", "tui -n team")


def tui(options: argparse.Namespace) -> int:
    """`krayne tui`."""
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec("textual") is None:
        raise UsageError("the screen needs Textual, which is not installed", hint="pip install 'kraynd[tui]'")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the screen needs a terminal", hint="krayne ls -w")
    running = connect()
    if running is not None:
        with running:
            # One that lacks a credential plugin is helped here, before the screen is drawn.
            running.call("daemon.hello", seconds=VIEW_SECONDS)
    import_module("krayne_tui.app").run(options.namespace or "")
    return 0
