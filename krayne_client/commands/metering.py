"""`krayne metrics`: what the daemon counts, as Prometheus text."""

import argparse
import sys

from krayne_client import words
from krayne_client.asking import reach
from krayne_client.grammar import Grammar

ASK_SECONDS = 10.0


def add(grammar: Grammar) -> None:
    """What can be typed."""
    grammar.verb(
        "metrics", metrics, "print what the daemon counts, as Prometheus text", "metrics", "metrics --no-start"
    )


def metrics(options: argparse.Namespace) -> int:
    """`krayne metrics`."""
    with reach(options) as daemon:
        found = daemon.call("daemon.metrics", seconds=ASK_SECONDS)
    sys.stdout.write(words.as_json(found) if options.output == "json" else found["text"])
    return 0
