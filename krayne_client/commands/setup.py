"""Setting up: init and context. The daemon reads the kubeconfig, saves the choice and says whether it connects."""

import argparse
import os
import sys
from typing import Any

from krayne.errors import KrayneError, UsageError
from krayne_client import words
from krayne_client.asking import reach
from krayne_client.connection import new_token
from krayne_client.grammar import Grammar

CONTACT_MS = 15_000  # the outcome of the first contact is worth so much waiting
ASK_SECONDS = 60.0


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.verb(
        "init", init, "choose the kubeconfig and the context krayne uses, and check that it connects",
        "init", "init --context prod", "init --kubeconfig ~/.kube/team.yaml --context prod",
    )  # fmt: skip
    typed.add_argument("--kubeconfig", metavar="FILE", help="the kubeconfig (as kubectl finds it)")
    typed.add_argument("--context", metavar="NAME", help="the context (asked for on a terminal)")
    typed = grammar.verb("context", context, "show, list or switch the context", "context", "context prod")
    typed.usage = "krayne context [NAME] [options]"
    typed.add_argument("name", nargs="?", metavar="NAME", help="use this one from now on")


def init(options: argparse.Namespace) -> int:
    """`krayne init`."""
    kubeconfig = _kubeconfig(options.kubeconfig)
    with reach(options) as daemon:
        found = daemon.call("setup.contexts", {"kubeconfig": kubeconfig}, seconds=ASK_SECONDS)
    return _use(options, kubeconfig, options.context or _chosen(found))


def _kubeconfig(named: str | None) -> str:
    """The file meant, whole: the daemon has another folder, and perhaps another KUBECONFIG."""
    environ = os.environ.get("KUBECONFIG", "")
    path = named or (environ if os.pathsep not in environ else "")
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def _chosen(found: dict[str, Any]) -> str:
    """Asked for on a terminal; elsewhere there must be nothing to choose. Raises UsageError."""
    contexts = found["contexts"]
    names = [one["name"] for one in contexts]
    if not names:
        raise KrayneError(f"{', '.join(found['files'])} has no contexts", hint="krayne init --kubeconfig FILE")
    if len(names) == 1:
        return str(names[0])
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"there are {len(names)} contexts", hint=f"--context with one of {', '.join(names)}")
    usual = next((at for at, one in enumerate(contexts, 1) if one["used"]), 1)
    for at, one in enumerate(contexts, 1):
        sys.stderr.write(words.plain(f"{'*' if at == usual else ' '} {at}  {one['name']}  {one['server']}") + "\n")
    sys.stderr.write(f"Which context? [{usual}] ")
    sys.stderr.flush()
    typed = sys.stdin.readline().strip() or str(usual)
    if typed in names:
        return typed
    if typed.isdecimal() and 0 < int(typed) <= len(names):
        return str(names[int(typed) - 1])
    raise UsageError(f"{typed!r} is none of them", hint="krayne init again, with a number or a name")


def _use(options: argparse.Namespace, kubeconfig: str, name: str) -> int:
    params = {"kubeconfig": kubeconfig, "context": name, "wait_ms": CONTACT_MS, "token": new_token()}
    with reach(options) as daemon:
        result = daemon.call("setup.use", params, seconds=ASK_SECONDS)
    world = result["world"]
    if options.output == "json":
        sys.stdout.write(words.as_json(result))
    elif options.output == "name":
        sys.stdout.write(f"{result['context']}\n")
    else:
        sys.stdout.write(f"krayne uses the context {result['context']} (saved in {result['settings']})\n")
        sys.stdout.write(words.plain(f"{world['condition']}: {world['reason']}") + "\n")
    if world["condition"] == "ready":
        return 0
    words.aside(f"try: {world['hint'] or 'krayne doctor'}")
    return 1


def context(options: argparse.Namespace) -> int:
    """`krayne context`."""
    if options.name:
        return _use(options, "", options.name)
    with reach(options) as daemon:
        found = daemon.call("setup.contexts", {}, seconds=ASK_SECONDS)
    if options.output == "json":
        sys.stdout.write(words.as_json(found))
        return 0
    for one in found["contexts"]:
        mark = "*" if one["used"] else " "
        line = one["name"] if options.output == "name" else f"{mark} {one['name']}  {one['server']}  {one['namespace']}"
        sys.stdout.write(words.plain(line) + "\n")
    return 0
