"""Looking: ls, describe, ports, status, version, wait."""

import argparse
import os
import sys
from typing import Any

from krayne import paths
from krayne_client import words
from krayne_client.asking import render, wait_for
from krayne_client.connection import API_VERSION, connect, version_of
from krayne_client.grammar import Grammar, add_timeout

NOT_RUNNING = 3
HELLO_SECONDS = 2.0  # a daemon that connects and stays silent this long hangs


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.verb("ls", ls, "list clusters and their local ports", "ls", "ls -A -o json", "ls -w", alias="get")
    typed.usage = "krayne ls [NAME] [options]"
    typed.add_argument("name", nargs="?", metavar="NAME", help="only this cluster")
    typed.add_argument(
        "-w", "--watch", action="store_true", help="follow changes: live on a terminal, a line for each in a pipe"
    )
    grammar.on_cluster("describe", describe, "show everything known of a cluster", "describe demo")
    typed = grammar.verb("ports", ports, "list every forwarded port with its counters", "ports", "ports demo")
    typed.usage = "krayne ports [NAME] [options]"
    typed.add_argument("name", nargs="?", metavar="NAME", help="only this cluster")
    grammar.verb("status", status, "show the daemon and its connection to Kubernetes", "status")
    grammar.verb("version", version, "show the versions of the client and of the daemon", "version")
    typed = grammar.on_cluster(
        "wait", wait, "wait until a cluster is as it should be", "wait demo", "wait demo --for=service=ssh"
    )
    typed.add_argument(
        "--for", dest="condition", default="ready", metavar="WHAT", help="ready, deleted, suspended, open, service=NAME"
    )
    add_timeout(typed)


def ls(options: argparse.Namespace) -> int:
    """`krayne ls`."""
    if options.watch:
        from krayne_client.watching import watch

        return watch(options)
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
    """`krayne version`: works without a daemon, and beside one of any version."""
    found = connect()
    facts: dict[str, Any] = {"client": version_of("kraynd") or "not installed", "daemon": None, "kuberay": None}
    if found is not None:
        with found:
            hello = found.call("daemon.hello", seconds=HELLO_SECONDS)
            facts["daemon"] = hello["version"]
            if hello["api_oldest"] <= API_VERSION <= hello["api"]:
                facts["kuberay"] = found.call("daemon.status", seconds=HELLO_SECONDS)["kuberay"] or None
    if options.output == "json":
        sys.stdout.write(words.as_json(facts))
        return 0
    sys.stdout.write(f"krayne {facts['client']}\nkraynd {facts['daemon'] or 'not running'}\n")
    if facts["daemon"] is not None:
        sys.stdout.write(f"kuberay {facts['kuberay'] or 'unknown'}\n")
    return 0


def wait(options: argparse.Namespace) -> int:
    """`krayne wait`."""
    wait_for(options, options.condition)
    if options.output not in ("json", "yaml", "name"):
        kind, _, service = options.condition.partition("=")
        sys.stdout.write(f"{options.name} is {kind}\n" if not service else f"{service} of {options.name} is ready\n")
    return 0
