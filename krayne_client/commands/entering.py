"""Into a cluster's pods: exec, logs."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from krayne.errors import UsageError
from krayne_client import words
from krayne_client.asking import reach
from krayne_client.grammar import Grammar

if TYPE_CHECKING:
    from krayne_client.remote import Remote

LOGGED = ("notebook", "ssh", "code-server")
READ_SIZE = 65_536


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.on_cluster(
        "exec",
        execute,
        "run a command in a cluster's head pod, or in a worker's",
        "exec demo -- nvidia-smi",
        "exec demo -it -- bash",
        "exec demo --worker demo-worker-abcde -- df -h",
        "exec demo -i -- python - < script.py",
    )
    typed.usage = "krayne exec NAME [-i] [-t] [--worker POD] [options] -- COMMAND [ARGUMENT ...]"
    typed.add_argument("-i", "--stdin", action="store_true", help="pass our input to the command")
    typed.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    add_worker(typed, "run it in this worker pod")
    typed.set_defaults(command=[])
    typed = grammar.on_cluster(
        "logs",
        logs,
        "show what a cluster's pod, or a service of its head, has said",
        "logs demo -f",
        "logs demo --worker",
        "logs demo --service ssh --tail 50",
        "logs demo --previous",
    )
    typed.usage = "krayne logs NAME [-f] [--worker [POD]] [--service SERVICE] [--tail N] [--previous] [options]"
    typed.add_argument("-f", "--follow", action="store_true", help="go on with what is added, until ^C")
    add_worker(typed, "of this worker pod", nargs="?", const="")
    typed.add_argument("--service", choices=LOGGED, help="of this service of the head")
    typed.add_argument("--tail", type=int, metavar="N", help="only the last N lines")
    typed.add_argument("--previous", action="store_true", help="of the container before its last restart")


def add_worker(command: argparse.ArgumentParser, says: str, **more: Any) -> None:
    """A worker pod instead of the head."""
    says += " (its name or its end; empty: the only one)"
    command.add_argument("--worker", metavar="POD", help=says, **more)


def execute(options: argparse.Namespace) -> int:
    """`krayne exec`: the command's own exit code. ^C without -t ends the connection, with -t it is the command's."""
    if not options.command:
        raise UsageError("there is no command to run", hint=f"krayne exec {options.name} -- ls")
    has_terminal = options.tty and options.stdin and os.isatty(0)
    if options.tty and options.stdin and not has_terminal:
        words.aside("no terminal is given to the command: our input is not one")
        options.tty = False
    from krayne_client import terminal
    from krayne_client.remote import Remote

    width, height = terminal.size()
    params = {
        **_pod(options),
        "command": options.command,
        "stdin": options.stdin,
        "tty": options.tty,
        "width": width,
        "height": height,
    }
    with reach(options) as daemon:
        _, connected, first = daemon.upgrade("pod.exec", params)
        with Remote(connected, first) as remote:
            if not has_terminal:
                return _relay(remote, 0 if options.stdin else None)
            with terminal.resizes() as resized, terminal.raw():
                return _relay(remote, 0, resized)


def _relay(remote: "Remote", source: int | None, resized: int | None = None) -> int:
    """Ours to the other side, the other side's to us; its exit code."""
    from krayne import frames
    from krayne_client import terminal
    from krayne_client.remote import write_out

    while True:
        while (one := remote.take()) is not None:
            write_out(*one)
        if remote.exit_code is not None:
            return remote.exit_code
        wanted = [one for one in (None if remote.full else source, resized) if one is not None]
        for ready in remote.turn(wanted):
            if ready == resized:
                os.read(resized, READ_SIZE)
                width, height = terminal.size()
                remote.put(frames.json_frame(frames.RESIZE, {"width": width, "height": height}))
                continue
            data = os.read(ready, READ_SIZE)
            remote.put(frames.frame(frames.STDIN, data))
            source = source if data else None


def logs(options: argparse.Namespace) -> int:
    """`krayne logs`."""
    from krayne_client.remote import Remote

    if options.service and (options.worker is not None or options.previous):
        raise UsageError("--service goes with neither --worker nor --previous", hint="krayne logs --help")
    params = {
        **_pod(options),
        "service": options.service or "",
        "follow": options.follow,
        "tail": options.tail,
        "previous": options.previous,
    }
    with reach(options) as daemon:
        told, connected, first = daemon.upgrade("pod.logs", params)
        if sys.stderr.isatty():
            words.aside(f"{options.service or told['container']} of {told['pod']}:")
        with Remote(connected, first) as remote:
            return _relay(remote, None)


def _pod(options: argparse.Namespace) -> dict[str, Any]:
    return {"name": options.name, "namespace": options.namespace, "worker": options.worker}
