"""How commands are typed: one parser of ours over argparse, the options of every command, help with examples.

Knows no command; `commands` adds them.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

USAGE = 2
WIDTH = 80  # columns of a page without a terminal
FORMATS = ("table", "wide", "json", "yaml", "name")


class Help(argparse.RawDescriptionHelpFormatter):
    """argparse's, but for the width, which it asks of shutil: that loads three compression libraries."""

    def __init__(self, prog: str, width: int | None = None, **more: Any) -> None:
        super().__init__(prog, width=width or _columns() - 2, **more)


def _columns() -> int:
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(1).columns or WIDTH
    except OSError:
        return WIDTH


class Parser(argparse.ArgumentParser):
    """argparse, with errors said our way."""

    def error(self, message: str) -> NoReturn:
        """One sentence, a next step, exit code 2."""
        sys.stderr.write(f"krayne: {message}\ntry: {self.prog} --help\n")
        raise SystemExit(USAGE)


class VerbParser(Parser):
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


class Unread:
    """Stands for a command's parser where only its name is wanted: `krayne --help` builds none of forty."""

    def __init__(self, **_: Any) -> None:
        self.usage = self.epilog = ""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self


def before_dashes(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """A command line up to its `--`, and what stands behind it; None without one."""
    if "--" not in words:
        return list(words), None
    at = list(words).index("--")
    return list(words[:at]), list(words[at + 1 :])


def global_options() -> VerbParser:
    """Absent ones leave nothing behind, so that a command's own parser does not reset what stood before it."""
    options = VerbParser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    group = options.add_argument_group("options of every command")
    group.add_argument("-n", "--namespace", metavar="NS", help="the Kubernetes namespace")
    group.add_argument("-A", "--all-namespaces", action="store_true", help="every namespace")
    group.add_argument("-o", "--output", choices=FORMATS, help="how to print the result (table)")
    group.add_argument("--no-color", action="store_true", help="no colours (NO_COLOR=1 does the same)")
    group.add_argument("--no-start", action="store_true", help="do not start the daemon when it is not running")
    return options


class Grammar:
    """Adds commands: each with its help, its examples and what runs it."""

    def __init__(self, verbs: "argparse._SubParsersAction[VerbParser]") -> None:
        self._verbs = verbs
        self._globals = global_options()

    def verb(
        self, name: str, run: Callable[[argparse.Namespace], int], summary: str, *examples: str, alias: str = ""
    ) -> argparse.ArgumentParser:
        """A command; `examples` are typed after `krayne`."""
        added = self._verbs.add_parser(
            name,
            aliases=[alias] if alias else [],
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  krayne {example}" for example in examples),
            formatter_class=Help,
            usage=f"krayne {name} [options]",
            parents=[self._globals],
            allow_abbrev=False,
        )
        added.set_defaults(run=run)
        return added

    def on_cluster(
        self, name: str, run: Callable[[argparse.Namespace], int], summary: str, *examples: str
    ) -> argparse.ArgumentParser:
        """A command about one cluster."""
        added = self.verb(name, run, summary, *examples)
        added.usage = f"krayne {name} NAME [options]"
        added.add_argument("name", metavar="NAME", help="the cluster")
        return added


def add_timeout(command: argparse.ArgumentParser) -> None:
    """For commands that wait."""
    command.add_argument("--timeout", default="10m", metavar="TIME", help="how long to wait: 90, 90s, 10m, 1h (10m)")
