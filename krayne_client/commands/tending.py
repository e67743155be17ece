"""Tending clusters: suspend, resume, idle, events, diff."""

import argparse
import sys
import time
from typing import Any

from krayne.errors import DaemonUnreachableError, KrayneError, UsageError
from krayne_client import words
from krayne_client.asking import change, reach, show, wait_for
from krayne_client.commands.declaring import client_versions
from krayne_client.grammar import Grammar, add_timeout

DIFFERS, DIFF_FAILED = 1, 2
NEWS_MS = 20_000  # how long the daemon may look for new events before it answers that there are none
NEWS_SECONDS = 60.0


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.on_cluster("suspend", suspend, "stop a cluster's pods and keep the rest", "suspend demo --wait")
    typed.add_argument("--wait", action="store_true", help="return when no pod runs any more")
    add_timeout(typed)
    typed = grammar.on_cluster("resume", resume, "let a suspended cluster run again", "resume demo --wait")
    typed.add_argument("--wait", action="store_true", help="return when it is ready")
    add_timeout(typed)
    typed = grammar.on_cluster(
        "idle", idle, "suspend a cluster by itself when nobody uses it", "idle demo 2h", "idle demo off"
    )
    typed.usage = "krayne idle NAME TIME|off [options]"
    typed.add_argument("limit", metavar="TIME|off", help="how long without jobs and connections: 30m, 2h; or off")
    typed = grammar.on_cluster(
        "events", events, "show what Kubernetes says of a cluster and its pods", "events demo", "events demo -w"
    )
    typed.add_argument("-w", "--watch", action="store_true", help="go on with new ones")
    typed = grammar.verb(
        "diff", diff, "show what a write would change; exits 0 for nothing, 1 for a difference, else 2 or more",
        "diff demo", "diff -f demo.yaml",
    )  # fmt: skip
    typed.usage = "krayne diff NAME | -f FILE [options]"
    typed.add_argument("name", nargs="?", metavar="NAME", help="a declared cluster")
    typed.add_argument("-f", "--file", metavar="FILE", help="a cluster file, or - for stdin")


def suspend(options: argparse.Namespace) -> int:
    """`krayne suspend`."""
    view = change(options, "cluster.suspend")
    options.namespace = view["namespace"]
    if options.wait:
        wait_for(options, "suspended")
    return show(options, view, "is suspended" if options.wait else "is being suspended", again=options.wait)


def resume(options: argparse.Namespace) -> int:
    """`krayne resume`."""
    view = change(options, "cluster.resume")
    options.namespace = view["namespace"]
    if options.wait:
        wait_for(options, "ready")
    return show(options, view, "is ready" if options.wait else "is resumed", again=options.wait)


def idle(options: argparse.Namespace) -> int:
    """`krayne idle`."""
    seconds = 0 if options.limit == "off" else int(words.seconds(options.limit))
    if options.limit != "off" and not seconds:
        raise UsageError("a time is needed", hint=f"krayne idle {options.name} 2h, or off")
    view = change(options, "cluster.idle", seconds=seconds)
    done = f"is suspended when idle for {options.limit}" if seconds else "is never suspended by itself"
    return show(options, view, done, said=False)


def events(options: argparse.Namespace) -> int:
    """`krayne events`."""
    params = {"name": options.name, "namespace": options.namespace}
    with reach(options) as daemon:
        found = daemon.call("cluster.events", params)
        _tell_events(options, found["events"])
        told = {_mark(one) for one in found["events"]}
        while options.watch:
            more = {**params, "known": found["state"], "wait_ms": NEWS_MS}
            try:
                found = daemon.call("cluster.events", more, seconds=NEWS_SECONDS)
            except KeyboardInterrupt:
                return 0
            _tell_events(options, [one for one in found["events"] if _mark(one) not in told])
            told = {_mark(one) for one in found["events"]}
    return 0


def _mark(event: dict[str, Any]) -> tuple[Any, ...]:
    return event["id"], event["count"], event["at"]


def _tell_events(options: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    if options.output == "json" and not options.watch:
        sys.stdout.write(words.as_json(found))
        return
    for one in found:
        sys.stdout.write(words.as_json_line(one) if options.output == "json" else _event_line(one))
    if not found and not options.watch:
        words.aside(f"no events of {options.name}: Kubernetes keeps them for about an hour")
    sys.stdout.flush()


def _event_line(one: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["at"])) if one["at"] else "-".ljust(19)
    times = f" (x{one['count']})" if one["count"] > 1 else ""
    mark = "!" if one["warning"] else " "
    return words.plain(f"{at} {mark} {one['object']} {one['reason']}: {one['text']}{times}") + "\n"


def diff(options: argparse.Namespace) -> int:
    """`krayne diff`: like kubectl's, failures never exit with 1."""
    if bool(options.name) == bool(options.file):
        raise UsageError("a cluster's name or -f FILE is needed, and not both", hint="krayne diff demo")
    text = words.read_text(options.file) if options.file else ""
    params = {
        "name": options.name or "",
        "namespace": options.namespace,
        "text": text,
        "source": options.file or "",
        "client": client_versions(),
    }
    try:
        with reach(options) as daemon:
            found = daemon.call("cluster.diff", params)
    except DaemonUnreachableError:
        raise
    except KrayneError as error:
        if type(error).exit_code != DIFFERS:
            raise
        from krayne_client.cli import say_error

        say_error(error, "diff")
        return DIFF_FAILED
    return _tell_difference(options, found)


def _tell_difference(options: argparse.Namespace, found: dict[str, Any]) -> int:
    differs = not found["exists"] or bool(found["changes"])
    if options.output == "json":
        sys.stdout.write(words.as_json(found))
        return DIFFERS if differs else 0
    if not found["exists"]:
        words.aside(f"{found['name']} in {found['namespace']} does not exist; it would be created")
        sys.stdout.write("".join(f"+ {line}\n" for line in found["manifest"].splitlines()))
    for one in found["changes"]:
        sys.stdout.write(f"{one['field']}\n")
        sys.stdout.write(f"  - {one['live']}\n" if one["live"] else "")
        sys.stdout.write(f"  + {one['declared']}\n" if one["declared"] else "")
    return DIFFERS if differs else 0
