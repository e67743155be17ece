"""Changing clusters that are there: scale, delete, adopt, confirm."""

import argparse
import sys

from krayne.errors import KrayneError, UsageError
from krayne_client.asking import change, reach, show, wait_for
from krayne_client.grammar import Grammar, add_timeout


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.on_cluster(
        "scale", scale, "change the number of workers", "scale demo 4", "scale demo --min 1 --max 8"
    )
    typed.usage = "krayne scale NAME [N] [options]"
    typed.add_argument("replicas", nargs="?", type=int, metavar="N", help="how many workers")
    typed.add_argument("--group", metavar="GROUP", help="the worker group, where there are several")
    typed.add_argument("--min", dest="minimum", type=int, metavar="N", help="the autoscaler's lower bound")
    typed.add_argument("--max", dest="maximum", type=int, metavar="N", help="the autoscaler's upper bound")
    typed = grammar.on_cluster(
        "delete", delete, "delete a cluster and its declaration", "delete demo", "delete demo --yes"
    )
    typed.add_argument("-y", "--yes", action="store_true", help="do not ask")
    typed.add_argument(
        "--force",
        action="store_true",
        help="do not ask; also while it is being changed",
    )
    typed.add_argument("--wait", action="store_true", help="return when it is gone")
    add_timeout(typed)
    grammar.on_cluster("adopt", adopt, "take over a cluster that somebody else made", "adopt theirs -n team")
    grammar.on_cluster("confirm", confirm, "agree to a deletion that waits for you", "confirm demo")


def scale(options: argparse.Namespace) -> int:
    """`krayne scale`."""
    if options.replicas is None and options.minimum is None and options.maximum is None:
        raise UsageError("nothing to scale to", hint=f"krayne scale {options.name} 2")
    counts = {name: getattr(options, name) for name in ("group", "replicas", "minimum", "maximum")}
    return show(options, change(options, "cluster.scale", **counts), "is scaled")


def delete(options: argparse.Namespace) -> int:
    """`krayne delete`: asks on a terminal, refuses without --yes in a pipe."""
    if not (options.yes or options.force):
        _ask_first(options)
    view = change(options, "cluster.delete", force=options.force)
    options.namespace = view["namespace"]
    if options.wait:
        wait_for(options, "deleted")
    gone = options.wait or view["phase"] == "absent"
    return show(options, view, "is deleted" if gone else "is being deleted", said=not gone)


def _ask_first(options: argparse.Namespace) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{options.name} is not deleted: without a terminal there is nobody to ask",
            hint=f"krayne delete {options.name} --yes",
        )
    with reach(options) as daemon:
        view = daemon.call("cluster.get", {"name": options.name, "namespace": options.namespace})
    options.namespace = view["namespace"]
    sys.stderr.write(f"Delete {view['name']} in {view['namespace']} ({view['phase']}), its pods and its data? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise KrayneError(f"{options.name} is not deleted", kind="usage")


def adopt(options: argparse.Namespace) -> int:
    """`krayne adopt`."""
    return show(options, change(options, "cluster.adopt"), "is adopted")


def confirm(options: argparse.Namespace) -> int:
    """`krayne confirm`."""
    return show(options, change(options, "cluster.confirm"), "is being deleted")
