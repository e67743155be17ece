"""What each command does: ask the daemon, print, answer with an exit code.

Knows nothing of clusters beyond what the daemon says. Results go to stdout, everything said to a person to stderr.
"""

import argparse
import os
import sys
from typing import Any

from krayne import paths
from krayne.errors import DaemonUnreachableError, KrayneError, UsageError
from krayne_client import words
from krayne_client.connection import VIEW_SECONDS, Connection, connect, new_token, version_of
from krayne_client.main import CUT_OFF, terminal, write_all

NOT_RUNNING = 3
HELLO_SECONDS = 2.0  # a daemon that connects and stays silent this long hangs
CREATE_FIELDS = {
    "--workers": "worker_groups.0.replicas",
    "--min-workers": "worker_groups.0.min_replicas",
    "--max-workers": "worker_groups.0.max_replicas",
    "--gpus-per-worker": "worker_groups.0.gpus",
    "--cpus-per-worker": "worker_groups.0.cpus",
    "--memory-per-worker": "worker_groups.0.memory",
    "--cpus-in-head": "head.cpus",
    "--memory-in-head": "head.memory",
}


def reach(options: argparse.Namespace) -> Connection:
    """A connection to the daemon, started where that is allowed. Raises DaemonUnreachableError."""
    found = connect()
    if found is not None:
        return found
    if options.no_start:
        raise DaemonUnreachableError("the daemon is not running", hint="krayne daemon start")
    from krayne_client.start import start_daemon

    return start_daemon(say=words.aside)


# Reading.


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
    return code if write_all(out, remarks) else CUT_OFF


def ls(options: argparse.Namespace) -> int:
    """`krayne ls`."""
    return render(options, "clusters", name=options.name)


def describe(options: argparse.Namespace) -> int:
    """`krayne describe`."""
    return render(options, "cluster", name=options.name)


def ports(options: argparse.Namespace) -> int:
    """`krayne ports`."""
    return render(options, "ports", name=options.name)


def status(options: argparse.Namespace) -> int:
    """`krayne status`: never starts the daemon; 3 when it does not run."""
    found = connect()
    if found is not None:
        found.close()
        return render(options, "status", seconds=HELLO_SECONDS)
    if options.output in ("json", "yaml"):
        facts = {"running": False, "home": paths.home(), "socket": paths.socket_path()}
        sys.stdout.write(words.as_json(facts) if options.output == "json" else words.as_plain_yaml(facts))
    else:
        was = "was never started here" if not os.path.isdir(paths.home()) else "is not running"
        sys.stderr.write(f"krayne: the daemon {was} (nothing listens on {paths.socket_path()})\n")
        sys.stderr.write("try: krayne daemon start\n")
    return NOT_RUNNING


def version(options: argparse.Namespace) -> int:
    """`krayne version`: works without a daemon."""
    found = connect()
    facts: dict[str, Any] = {"client": version_of("kraynd") or "not installed", "daemon": None}
    if found is not None:
        with found:
            facts["daemon"] = found.call("daemon.hello", seconds=HELLO_SECONDS)["version"]
    if options.output == "json":
        sys.stdout.write(words.as_json(facts))
    else:
        sys.stdout.write(f"krayne {facts['client']}\nkraynd {facts['daemon'] or 'not running'}\n")
    return 0


def wait(options: argparse.Namespace) -> int:
    """`krayne wait`."""
    _wait(options, options.condition)
    if options.output not in ("json", "yaml", "name"):
        kind, _, service = options.condition.partition("=")
        sys.stdout.write(f"{options.name} is {kind}\n" if not service else f"{service} of {options.name} is ready\n")
    return 0


def _wait(options: argparse.Namespace, condition: str) -> None:
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
            daemon.call("cluster.wait", params, seconds=seconds + 30.0, on_progress=story.tell)
    except KeyboardInterrupt:
        words.aside(f"stopped watching; {options.name} goes on (krayne wait {options.name})")
        raise


# Declaring and changing.


def create(options: argparse.Namespace) -> int:
    """`krayne create`."""
    text, source = "", ""
    if options.file:
        source = "standard input" if options.file == "-" else options.file
        text = words.read_text(options.file)
    params = {
        "name": options.name,
        "namespace": options.namespace,
        "text": text,
        "source": source,
        "set": _chosen_fields(options),
        "client": client_versions(),
        "dry_run": options.dry_run,
        "token": new_token(),
    }
    with reach(options) as daemon:
        created = daemon.call("cluster.create", params)
    if options.dry_run:
        as_json = options.output == "json"
        sys.stdout.write(words.as_json(created["manifest"]) if as_json else created["text"])
        return 0
    view = created["cluster"]
    options.namespace = view["namespace"]
    if options.wait:
        words.aside(f"{view['name']} is declared in {view['namespace']}")
        _wait(options, "ready")
    return _show(options, view, "is ready" if options.wait else "is declared", again=options.wait)


def _chosen_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The dotted fields of the models that the options set."""
    chosen = {field: words.value(found) for field in CREATE_FIELDS.values() if (found := getattr(options, field))}
    workers, least = "worker_groups.0.replicas", "worker_groups.0.min_replicas"
    if least in chosen and workers not in chosen:
        chosen[workers] = chosen[least]  # fewer than the minimum would be refused, and is never meant
    if options.image:
        chosen |= {"head.image": options.image, "worker_groups.0.image": options.image}
    if options.no_autoscaling:
        chosen["autoscaler.enabled"] = False
    for one in options.set:
        key, equals, found = one.partition("=")
        if not key or not equals:
            raise UsageError(f"--set takes KEY=VALUE, not {one!r}", hint="for example --set head.cpus=4")
        chosen[key] = words.value(found)
    return chosen


def client_versions() -> dict[str, Any]:
    """Ray's and Python's versions beside this client: they choose the default image. Ray is not imported."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    return {"ray": version_of("ray"), "python": python, "client": version_of("kraynd") or ""}


def apply(options: argparse.Namespace) -> int:
    """`krayne apply`."""
    params = {
        "files": words.read_cluster_files(options.file),
        "namespace": options.namespace,
        "client": client_versions(),
        "dry_run": options.dry_run,
        "token": new_token(),
    }
    with reach(options) as daemon:
        results = daemon.call("cluster.apply", params)["results"]
    if options.output == "json":
        sys.stdout.write(words.as_json(results))
    elif options.output == "name":
        sys.stdout.write("".join(f"{one['name']}\n" for one in results))
    else:
        for one in results:
            sys.stdout.write(f"{one['name']} in {one['namespace']}: {one['action']} ({one['source']})\n")
    return 0


def scale(options: argparse.Namespace) -> int:
    """`krayne scale`."""
    if options.replicas is None and options.minimum is None and options.maximum is None:
        raise UsageError("nothing to scale to", hint=f"krayne scale {options.name} 2")
    counts = {name: getattr(options, name) for name in ("group", "replicas", "minimum", "maximum")}
    return _show(options, _change(options, "cluster.scale", **counts), "is scaled")


def delete(options: argparse.Namespace) -> int:
    """`krayne delete`: asks on a terminal, refuses without --yes in a pipe."""
    if not (options.yes or options.force):
        _ask_first(options)
    view = _change(options, "cluster.delete", force=options.force)
    options.namespace = view["namespace"]
    if options.wait:
        _wait(options, "deleted")
    gone = options.wait or view["phase"] == "absent"
    return _show(options, view, "is deleted" if gone else "is being deleted", said=not gone)


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
    return _show(options, _change(options, "cluster.adopt"), "is adopted")


def confirm(options: argparse.Namespace) -> int:
    """`krayne confirm`."""
    return _show(options, _change(options, "cluster.confirm"), "is being deleted")


def _change(options: argparse.Namespace, method: str, **more: Any) -> Any:
    params = {"name": options.name, "namespace": options.namespace, "token": new_token(), **more}
    with reach(options) as daemon:
        return daemon.call(method, params)


def _show(
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


# Forwards.


def tun_open(options: argparse.Namespace) -> int:
    """`krayne tun-open`."""
    chosen = [words.port_pair(text) for text in options.ports]
    return _services(options, _change(options, "forward.open", ports=chosen))


def tun_close(options: argparse.Namespace) -> int:
    """`krayne tun-close`."""
    chosen = [words.port_number(text) for text in options.ports]
    return _services(options, _change(options, "forward.close", ports=chosen))


def _services(options: argparse.Namespace, result: dict[str, Any]) -> int:
    services = result["services"]
    if options.output == "json":
        sys.stdout.write(words.as_json(services))
        return 0
    for one in services:
        where = one["url"] or "-"
        why = f"  {one['reason']}" if one["reason"] else ""
        sys.stdout.write(f"{one['name']:12} {one['remote_port']:5} {one['state']:10} {where}{why}\n")
    return 0


# The daemon.


def daemon(options: argparse.Namespace) -> int:
    """`krayne daemon ACTION`."""
    return DAEMON_ACTIONS[options.action](options)


def daemon_run(_: argparse.Namespace) -> int:
    """Become the daemon, in the foreground."""
    from krayne_client.start import daemon_command

    command = daemon_command()
    os.execv(command[0], command)  # noqa: S606 - our own command, no shell


def daemon_start(options: argparse.Namespace) -> int:
    """Start it; fine when it runs already."""
    from krayne_client.start import ensure_daemon

    with ensure_daemon(say=words.aside) as found:
        hello = found.call("daemon.hello", seconds=10.0)
    if options.output == "json":
        sys.stdout.write(words.as_json(hello))
    else:
        sys.stdout.write(f"the daemon runs (pid {hello['pid']})\n")
    return 0


def daemon_stop(_: argparse.Namespace) -> int:
    """Stop it; fine when it does not run. Clusters stay, local ports close."""
    found = connect()
    if found is None:
        sys.stdout.write("the daemon is not running\n")
        return 0
    with found:
        pid = found.call("daemon.stop")["pid"]
        if not (found.wait_closed(STOP_SECONDS) and words.wait_gone(pid, STOP_SECONDS)):
            raise DaemonUnreachableError(f"the daemon (pid {pid}) does not stop", hint=f"kill {pid}")
    sys.stdout.write("the daemon is stopped; clusters go on, local ports are closed\n")
    return 0


def daemon_restart(options: argparse.Namespace) -> int:
    """Stop and start."""
    return daemon_stop(options) or daemon_start(options)


def daemon_logs(_: argparse.Namespace) -> int:
    """The last lines, then what is added, until interrupted."""
    path = paths.log_file()
    if not os.path.exists(path):
        raise KrayneError(f"there is no log at {path} yet", hint="krayne daemon start")
    follow = ["-f"] if sys.stdout.isatty() else []
    os.execvp("tail", ["tail", "-n", "200", *follow, path])  # noqa: S606, S607 - the system's own tail, no shell


STOP_SECONDS = 15.0
DAEMON_ACTIONS = {
    "run": daemon_run,
    "start": daemon_start,
    "stop": daemon_stop,
    "restart": daemon_restart,
    "status": status,
    "logs": daemon_logs,
}
