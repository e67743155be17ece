"""The command line in full: every command, and how failures are said.

Owns the exit codes. Invariant: whatever fails ends as one sentence on stderr, a next step, and the exit code of its
kind - never as a traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import cast

from krayne.errors import KrayneError, UsageError
from krayne_client.commands import (
    changing,
    completing,
    copying,
    daemon,
    declaring,
    doctoring,
    editing,
    entering,
    forwarding,
    job,
    metering,
    reaching,
    reading,
    sandbox,
    screening,
    setup,
    sshing,
    tending,
)
from krayne_client.grammar import USAGE, Grammar, Help, Parser, Unread, VerbParser, before_dashes, global_options

INTERRUPTED = 130
CUT_OFF = 141
# In the order of the help.
PARTS = (
    reading,
    screening,
    declaring,
    changing,
    tending,
    editing,
    forwarding,
    reaching,
    entering,
    copying,
    sshing,
    job,
    setup,
    doctoring,
    metering,
    sandbox,
    daemon,
    completing,
)


def main(words: Sequence[str]) -> int:
    """Run one command; its exit code."""
    verb = ""
    try:
        before, behind = before_dashes(words)
        options = parser(brief=before in (["--help"], ["-h"])).parse_args(before)
        verb = options.verb
        if behind is not None:
            if not hasattr(options, "command"):
                raise UsageError(f"krayne {verb} takes nothing behind --")
            options.command = behind
        code = _run(options)
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


def _run(options: argparse.Namespace) -> int:
    """The command; once more when a daemon of another version had to be replaced first."""
    try:
        return int(options.run(options))
    except KrayneError as error:
        if error.kind != "api-version" or options.no_start:
            raise
        from krayne_client.start import replace_daemon

        replace_daemon(error)
        return int(options.run(options))


def say_error(error: KrayneError, verb: str) -> None:
    """One sentence, and what to do next."""
    typed_wrong = error.kind in ("usage", "config-invalid")
    hint = error.hint or (f"krayne {verb} --help" if typed_wrong else "krayne status")
    sys.stderr.write(f"krayne: {error.message}\ntry: {hint}\n")


def parser(*, brief: bool = False) -> argparse.ArgumentParser:
    """The whole grammar; `brief`: enough for its own help."""
    root = Parser(
        prog="krayne",
        usage="krayne COMMAND [options]",
        description="Ray clusters on Kubernetes that are always one ssh away.",
        epilog="examples:\n  krayne create demo --workers 2 --wait\n  krayne ls\n"
        "  ssh -p PORT ray@localhost       (PORT: the SSH column of krayne ls)",
        formatter_class=Help,
        parents=[global_options()],
        allow_abbrev=False,
    )
    root.set_defaults(namespace=None, all_namespaces=False, output="table", no_color=False, no_start=False)
    each = cast("type[VerbParser]", Unread) if brief else VerbParser
    verbs = root.add_subparsers(
        title="commands", metavar="COMMAND", dest="verb", required=True, prog="krayne", parser_class=each
    )
    grammar = Grammar(verbs)
    for part in PARTS:
        part.add(grammar)
    return root
