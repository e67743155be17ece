"""What every command does with the daemon: reach it, ask for a view or a change, show the result.

Knows nothing of clusters beyond what the daemon says. Results go to stdout, everything said to a person to stderr.
"""

import argparse
import sys
from typing import Any

from krayne.errors import DaemonUnreachableError
from krayne_client import words
from krayne_client.connection import VIEW_SECONDS, Connection, connect, new_token
from krayne_client.main import CUT_OFF, terminal, write_all


def reach(options: argparse.Namespace) -> Connection:
    """A connection to the daemon, started where that is allowed. Raises DaemonUnreachableError."""
    found = connect()
    if found is not None:
        return found
    if options.no_start:
        raise DaemonUnreachableError("the daemon is not running", hint="krayne daemon start")
    from krayne_client.start import start_daemon

    return start_daemon(say=words.aside)


def render(options: argparse.Namespace, view: str, *, name: str | None = None, seconds: float = VIEW_SECONDS) -> int:
    """Print a view as the daemon renders it."""
    width, color = terminal(options.no_color)
    params = {
        "view": view,
        "format": options.output,
        "width": width,
        "color": color,
        "name": name,
        "namespace": options.namespace,
        "all_namespaces": options.all_namespaces,
    }
    with reach(options) as daemon:
        code, out, remarks = daemon.render(params, seconds=seconds)
    if daemon.path_taken:  # what it showed was why it could not connect
        with reach(options) as daemon:
            code, out, remarks = daemon.render(params, seconds=seconds)
    return code if write_all(out, remarks) else CUT_OFF


def change(options: argparse.Namespace, method: str, **more: Any) -> Any:
    """Call a method that changes the cluster named; its result."""
    params = {"name": options.name, "namespace": options.namespace, "token": new_token(), **more}
    with reach(options) as daemon:
        return daemon.call(method, params)


def show(
    options: argparse.Namespace, view: dict[str, Any], done: str, *, again: bool = False, said: bool = True
) -> int:
    """A changed cluster in the form asked for. `again`: it has changed since; `said`: its phase is worth a word."""
    if options.output in ("wide", "yaml") or (again and options.output == "json"):
        options.all_namespaces = False
        return render(options, "clusters" if options.output == "wide" else "cluster", name=view["name"])
    if options.output == "json":
        sys.stdout.write(words.as_json(view))
    elif options.output == "name":
        sys.stdout.write(f"{view['name']}\n")
    else:
        phase = f" ({view['phase']}: {view['reason']})" if said and view["reason"] and not again else ""
        sys.stdout.write(f"{view['name']} in {view['namespace']} {done}{phase}\n")
        for note in view["notes"]:
            words.aside(note)
        if view["restart_needed"]:
            words.aside(f"running pods keep the old {', '.join(view['restart_needed'])} until they are replaced")
    return 0


def wait_for(options: argparse.Namespace, condition: str) -> None:
    """Return when the condition holds; each change of the cluster is told as it comes."""
    seconds = words.seconds(options.timeout)
    story = words.Story(options.name)
    params = {
        "name": options.name,
        "namespace": options.namespace,
        "condition": condition,
        "timeout_ms": int(seconds * 1000),
    }
    try:
        with reach(options) as daemon:
            # A wait is answered at its end alone; a daemon that lacks a credential plugin says so in this answer.
            daemon.call("forward.list", {"namespace": "-"})
            daemon.call("cluster.wait", params, seconds=seconds + 30.0, on_progress=story.tell)
    except KeyboardInterrupt:
        words.aside(f"stopped watching; {options.name} goes on (krayne wait {options.name})")
        raise
