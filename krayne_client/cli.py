"""The command line in full: what can be typed, its help, and how failures are said.

Owns the parser and the exit codes; `commands` does the work. Invariant: whatever fails ends as one sentence on stderr,
a next step, and the exit code of its kind - never as a traceback.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from krayne.errors import KrayneError
from krayne_client import commands

INTERRUPTED = 130
CUT_OFF = 141
USAGE = 2
FORMATS = ("table", "wide", "json", "yaml", "name")


class _Parser(argparse.ArgumentParser):
    """argparse, with errors said our way."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"krayne: {message}\ntry: {self.prog} --help\n")
        raise SystemExit(USAGE)


class _VerbParser(_Parser):
    """One command's arguments, in any order: argparse alone refuses `scale demo -n team 4`."""

    _mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Options first, wherever they stand, then the rest; Python 3.11 does so by calling this again."""
        if self._mixing:
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


def main(words: Sequence[str]) -> int:
    """Run one command; its exit code."""
    verb = ""
    try:
        options = parser().parse_args(words)
        verb = options.verb
        code: int = options.run(options)
        sys.stdout.flush()
    except KrayneError as error:
        say_error(error, verb)
        return type(error).exit_code
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return CUT_OFF
    except SystemExit as end:  # argparse: help, or a usage error it has said
        return end.code if isinstance(end.code, int) else USAGE
    return code


def say_error(error: KrayneError, verb: str) -> None:
    """One sentence, and what to do next."""
    typed_wrong = error.kind in ("usage", "config-invalid")
    hint = error.hint or (f"krayne {verb} --help" if typed_wrong else "krayne status")
    sys.stderr.write(f"krayne: {error.message}\ntry: {hint}\n")


def parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    root = _Parser(
        prog="krayne",
        usage="krayne COMMAND [options]",
        description="Ray clusters on Kubernetes that are always one ssh away.",
        epilog="examples:\n  krayne create demo --workers 2 --wait\n  krayne ls\n"
        "  ssh -p PORT ray@localhost       (PORT: the SSH column of krayne ls)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_global_options()],
        allow_abbrev=False,
    )
    root.set_defaults(namespace=None, all_namespaces=False, output="table", no_color=False, no_start=False)
    grammar = _Grammar(
        root.add_subparsers(
            title="commands", metavar="COMMAND", dest="verb", required=True, prog="krayne", parser_class=_VerbParser
        )
    )
    _reading(grammar)
    _declaring(grammar)
    _changing(grammar)
    _forwarding(grammar)
    _daemon(grammar)
    return root


def _global_options() -> _VerbParser:
    """Absent ones leave nothing behind, so that a command's own parser does not reset what stood before it."""
    options = _VerbParser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    group = options.add_argument_group("options of every command")
    group.add_argument("-n", "--namespace", metavar="NS", help="the Kubernetes namespace")
    group.add_argument("-A", "--all-namespaces", action="store_true", help="every namespace")
    group.add_argument("-o", "--output", choices=FORMATS, help="how to print the result (table)")
    group.add_argument("--no-color", action="store_true", help="no colours (NO_COLOR=1 does the same)")
    group.add_argument("--no-start", action="store_true", help="do not start the daemon when it is not running")
    return options


class _Grammar:
    """Adds commands: each with its help, its examples and what runs it."""

    def __init__(self, verbs: "argparse._SubParsersAction[_VerbParser]") -> None:
        self._verbs = verbs
        self._globals = _global_options()

    def verb(
        self, name: str, run: Callable[[argparse.Namespace], int], summary: str, *examples: str, alias: str = ""
    ) -> argparse.ArgumentParser:
        added = self._verbs.add_parser(
            name,
            aliases=[alias] if alias else [],
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  krayne {example}" for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage=f"krayne {name} [options]",
            parents=[self._globals],
            allow_abbrev=False,
        )
        added.set_defaults(run=run)
        return added

    def on_cluster(
        self, name: str, run: Callable[[argparse.Namespace], int], summary: str, *examples: str
    ) -> argparse.ArgumentParser:
        added = self.verb(name, run, summary, *examples)
        added.usage = f"krayne {name} NAME [options]"
        added.add_argument("name", metavar="NAME", help="the cluster")
        return added


def _reading(grammar: _Grammar) -> None:
    ls = grammar.verb("ls", commands.ls, "list clusters and their local ports", "ls", "ls -A -o json", alias="get")
    ls.usage = "krayne ls [NAME] [options]"
    ls.add_argument("name", nargs="?", metavar="NAME", help="only this cluster")
    grammar.on_cluster("describe", commands.describe, "show everything known of a cluster", "describe demo")
    ports = grammar.verb("ports", commands.ports, "list every forwarded port with its counters", "ports", "ports demo")
    ports.usage = "krayne ports [NAME] [options]"
    ports.add_argument("name", nargs="?", metavar="NAME", help="only this cluster")
    grammar.verb("status", commands.status, "show the daemon and its connection to Kubernetes", "status")
    grammar.verb("version", commands.version, "show the versions of the client and of the daemon", "version")
    wait = grammar.on_cluster(
        "wait", commands.wait, "wait until a cluster is as it should be", "wait demo", "wait demo --for=service=ssh"
    )
    wait.add_argument("--for", dest="condition", default="ready", metavar="WHAT", help="ready, deleted, service=NAME")
    _timeout(wait)


def _declaring(grammar: _Grammar) -> None:
    create = grammar.on_cluster(
        "create",
        commands.create,
        "declare a new cluster",
        "create demo --workers 2 --wait",
        "create train --gpus-per-worker 1 --memory-per-worker 32Gi",
        "create demo --file demo.yaml --set head.cpus=4",
    )
    create.add_argument("--file", metavar="FILE", help="start from this cluster file (- is stdin)")
    for option, field in commands.CREATE_FIELDS.items():
        metavar = "SIZE" if "memory" in option else "N"
        create.add_argument(option, dest=field, metavar=metavar, help=f"sets {field}")
    create.add_argument("--no-autoscaling", action="store_true", help="sets autoscaler.enabled to false")
    create.add_argument("--image", metavar="IMAGE", help="the image of the head and of the workers")
    create.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any field, dotted")
    create.add_argument("--dry-run", action="store_true", help="print the manifest and change nothing")
    create.add_argument("--wait", action="store_true", help="return when it is ready")
    _timeout(create)
    apply = grammar.verb(
        "apply", commands.apply, "declare clusters from files", "apply -f demo.yaml", "apply -f clusters/", "apply -f -"
    )
    apply.usage = "krayne apply -f PATH [options]"
    apply.add_argument(
        "-f", "--file", action="append", required=True, metavar="PATH", help="a file, a folder, or - for stdin"
    )
    apply.add_argument("--dry-run", action="store_true", help="say what would be done")


def _changing(grammar: _Grammar) -> None:
    scale = grammar.on_cluster(
        "scale", commands.scale, "change the number of workers", "scale demo 4", "scale demo --min 1 --max 8"
    )
    scale.usage = "krayne scale NAME [N] [options]"
    scale.add_argument("replicas", nargs="?", type=int, metavar="N", help="how many workers")
    scale.add_argument("--group", metavar="GROUP", help="the worker group, where there are several")
    scale.add_argument("--min", dest="minimum", type=int, metavar="N", help="the autoscaler's lower bound")
    scale.add_argument("--max", dest="maximum", type=int, metavar="N", help="the autoscaler's upper bound")
    delete = grammar.on_cluster(
        "delete", commands.delete, "delete a cluster and its declaration", "delete demo", "delete demo --yes"
    )
    delete.add_argument("-y", "--yes", action="store_true", help="do not ask")
    delete.add_argument("--force", action="store_true", help="also when it is not yours; does not ask")
    delete.add_argument("--wait", action="store_true", help="return when it is gone")
    _timeout(delete)
    grammar.on_cluster("adopt", commands.adopt, "take over a cluster that somebody else made", "adopt theirs -n team")
    grammar.on_cluster("confirm", commands.confirm, "agree to a deletion that waits for you", "confirm demo")


def _forwarding(grammar: _Grammar) -> None:
    tun_open = grammar.on_cluster(
        "tun-open",
        commands.tun_open,
        "open a cluster's local ports",
        "tun-open demo",
        "tun-open demo ssh 9000:19000",
    )
    tun_open.usage = "krayne tun-open NAME [PORT[:LOCAL] ...] [options]"
    tun_open.add_argument("ports", nargs="*", metavar="PORT[:LOCAL]", help="a port or a service; none: all services")
    tun_close = grammar.on_cluster(
        "tun-close", commands.tun_close, "close a cluster's local ports", "tun-close demo", "tun-close demo notebook"
    )
    tun_close.usage = "krayne tun-close NAME [PORT ...] [options]"
    tun_close.add_argument("ports", nargs="*", metavar="PORT", help="a port or a service; none: all")


def _daemon(grammar: _Grammar) -> None:
    daemon = grammar.verb(
        "daemon", commands.daemon, "run, start, stop or look at the daemon", "daemon restart", "daemon logs"
    )
    daemon.usage = f"krayne daemon {{{','.join(commands.DAEMON_ACTIONS)}}} [options]"
    daemon.add_argument("action", choices=tuple(commands.DAEMON_ACTIONS), help="what to do")


def _timeout(command: argparse.ArgumentParser) -> None:
    command.add_argument("--timeout", default="10m", metavar="TIME", help="how long to wait: 90, 90s, 10m, 1h (10m)")
