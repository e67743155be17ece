"""The daemon itself: run, start, stop, restart, status, logs."""

import argparse
import os
import sys

from krayne.errors import DaemonUnreachableError, KrayneError
from krayne_client import words
from krayne_client.commands.reading import status
from krayne_client.connection import Connection, connect, new_token
from krayne_client.grammar import Grammar


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.verb(
        "daemon",
        daemon,
        "run, start, stop or look at the daemon",
        "daemon install",
        "daemon restart",
        "daemon logs -f -n 50",
    )
    typed.usage = f"krayne daemon {{{','.join(DAEMON_ACTIONS)}}} [options]"
    typed.add_argument("action", choices=tuple(DAEMON_ACTIONS), help="what to do")
    typed.add_argument("--dry-run", action="store_true", help="install: print the unit and change nothing")
    typed.add_argument("-f", "--follow", action="store_true", help="logs: go on with what is added")
    # -n is every command's; a daemon has no namespace, so for logs it is the lines.
    typed.add_argument("--lines", metavar="N", help="logs: how many of the last lines, also -n N (200)")


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
    from krayne_client import service

    serviced = service.installed() and service.active()
    found = connect()
    if found is None and not serviced:
        sys.stdout.write("the daemon is not running\n")
        return 0
    # The daemon is told first, also under a manager: it then knows that nobody follows, and leaves no socket's path.
    if found is not None:
        with found:
            try:
                _end(found)
            except KrayneError:
                if not serviced:
                    raise
    if serviced:
        service.stop()
    sys.stdout.write("the daemon is stopped; clusters go on, local ports are closed\n")
    return 0


def _end(found: Connection) -> None:
    """Stop the daemon at the other end and wait until it is gone. Raises KrayneError."""
    pid = found.call("daemon.stop", seconds=STOP_SECONDS)["pid"]
    if not (found.wait_closed(STOP_SECONDS) and words.wait_gone(pid, STOP_SECONDS)):
        raise DaemonUnreachableError(f"the daemon (pid {pid}) does not stop", hint=f"kill {pid}")


def daemon_restart(options: argparse.Namespace) -> int:
    """Start anew in place: its listeners stay open, so nobody is refused. A daemon that does not run is started.

    It takes this shell's PATH; a unit that recorded another PATH or another command is written anew.
    """
    from krayne_client import service

    if service.installed() and service.active() and service.install():
        service.restart()
        words.aside(f"{service.unit_path()} is written anew, for this version and the PATH of this shell")
        return daemon_start(options)
    found = connect()
    if found is None:
        return daemon_start(options)
    with found:
        # Not every byte of a PATH is text.
        path = os.environ.get("PATH", "").encode(errors="ignore").decode()
        pid = found.call("daemon.restart", {"path": path, "token": new_token()})["pid"]
        if not found.wait_closed(STOP_SECONDS):
            raise DaemonUnreachableError(f"the daemon (pid {pid}) does not stop", hint=f"kill {pid}")
    return daemon_start(options)


def daemon_install(options: argparse.Namespace) -> int:
    """Make it a service of the user: started at login, and again after a fault. `--dry-run` prints the unit."""
    from krayne_client import service

    if options.dry_run:
        sys.stdout.write(service.render())
        return 0
    changed = service.install()
    if not service.active():
        running = connect()
        if running is not None:
            with running:
                _end(running)
        service.start()
    if (fleeting := service.fleeting()) is not None:
        words.aside(f"{fleeting} is in a place that is cleaned up: install krayne for good, then install this anew")
    sys.stdout.write(
        f"{service.unit_path()} is {'installed' if changed else 'installed already'}, and the daemon runs\n"
    )
    if sys.platform != "darwin":
        words.aside("it ends at your last logout; to keep it on a shared machine: loginctl enable-linger")
    if changed:
        words.aside(
            "credential plugins are looked for in the PATH of this shell; krayne daemon restart takes over another one"
        )
    return 0


def daemon_uninstall(_: argparse.Namespace) -> int:
    """Stop the service and remove its unit; fine when there is none. Clusters and settings stay."""
    from krayne_client import service

    gone = service.uninstall()
    sys.stdout.write("the service is removed; clusters go on\n" if gone else "no service is installed\n")
    return 0


def daemon_logs(options: argparse.Namespace) -> int:
    """The last lines; with -f what is added, until interrupted."""
    from krayne_client.daemonlog import read_log

    return read_log(options.lines or options.namespace, follow=options.follow)


STOP_SECONDS = 15.0
DAEMON_ACTIONS = {
    "run": daemon_run,
    "start": daemon_start,
    "stop": daemon_stop,
    "restart": daemon_restart,
    "install": daemon_install,
    "uninstall": daemon_uninstall,
    "status": status,
    "logs": daemon_logs,
}
