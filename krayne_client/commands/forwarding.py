"""Opening and closing local ports: tun-open, tun-close."""

import argparse
import sys
from typing import Any

from krayne.errors import UsageError
from krayne_client import words
from krayne_client.asking import change
from krayne_client.grammar import Grammar


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.on_cluster(
        "tun-open",
        tun_open,
        "open a cluster's local ports",
        "tun-open demo",
        "tun-open demo ssh 9000:19000",
        "tun-open demo 9000 --local 9000",
    )
    typed.usage = "krayne tun-open NAME [PORT[:LOCAL] ...] [options]"
    typed.add_argument("ports", nargs="*", metavar="PORT[:LOCAL]", help="a port or a service; none: all services")
    typed.add_argument("--local", metavar="LOCAL", help="the local port, where one port is named")
    typed = grammar.on_cluster(
        "tun-close", tun_close, "close a cluster's local ports", "tun-close demo", "tun-close demo notebook"
    )
    typed.usage = "krayne tun-close NAME [PORT ...] [options]"
    typed.add_argument("ports", nargs="*", metavar="PORT", help="a port or a service; none: all")


def tun_open(options: argparse.Namespace) -> int:
    """`krayne tun-open`."""
    chosen = [words.port_pair(text) for text in options.ports]
    if options.local is not None:
        if len(chosen) != 1 or chosen[0]["local"]:
            raise UsageError("--local goes with one PORT", hint=f"krayne tun-open {options.name} 9000 --local 9000")
        chosen[0]["local"] = words.port_number(options.local)
    return _services(options, change(options, "forward.open", ports=chosen))


def tun_close(options: argparse.Namespace) -> int:
    """`krayne tun-close`."""
    chosen = [words.port_number(text) for text in options.ports]
    return _services(options, change(options, "forward.close", ports=chosen))


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
