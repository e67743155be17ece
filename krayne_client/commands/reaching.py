"""The cluster's addresses for other programs: open in a browser, env for a shell."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from krayne.errors import KrayneError, UsageError
from krayne_client import words
from krayne_client.asking import reach
from krayne_client.grammar import Grammar

PAGES = ("dashboard", "notebook", "code-server")
SHELLS = ("sh", "fish", "csh")
QUOTED = {"'": "'\\''", "!": "'\\!'"}  # csh expands ! within quotes too


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.on_cluster(
        "open",
        open_page,
        "open a cluster's dashboard, notebook or code-server in the browser",
        "open demo",
        "open demo notebook",
        "open demo code-server --print",
    )
    typed.usage = "krayne open NAME [dashboard|notebook|code-server] [options]"
    typed.add_argument("page", nargs="?", default="dashboard", choices=PAGES, help="what to open (dashboard)")
    typed.add_argument("--print", dest="only_print", action="store_true", help="print the address, open nothing")
    typed = grammar.on_cluster(
        "env",
        env,
        "print the variables that lead Ray's own tools to a cluster, for eval",
        'env demo                      (eval "$(krayne env demo)")',
        "env demo --shell fish | source",
        "env demo -o json",
    )
    typed.add_argument("--shell", choices=SHELLS, default="sh", help="whose words to print them in (sh)")


def open_page(options: argparse.Namespace) -> int:
    """`krayne open`: without a display, or with --print, the address is printed."""
    service = _service(options, options.page)
    if options.output == "json":
        sys.stdout.write(words.as_json(service))
        return 0
    if service["state"] != "ready":
        words.aside(f"{options.page} is {service['state']}" + (f": {service['reason']}" if service["reason"] else ""))
    if options.only_print or not _browse(service["url"]):
        sys.stdout.write(service["url"] + "\n")
    return 0


def env(options: argparse.Namespace) -> int:
    """`krayne env`."""
    view = _cluster(options)
    ports = {one["name"]: one["local_port"] for one in view["services"] if one["url"]}
    found: dict[str, str] = {}
    if ports.get("client"):
        found["RAY_ADDRESS"] = f"ray://127.0.0.1:{ports['client']}"
    if ports.get("dashboard"):
        # `ray job` reads the second one; the first is what people and other tools look for.
        found["RAY_DASHBOARD_ADDRESS"] = found["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{ports['dashboard']}"
    if not found:
        raise KrayneError(f"{options.name} has no open ports for Ray", hint=f"krayne tun-open {options.name}")
    if options.output == "json":
        sys.stdout.write(words.as_json(found))
    else:
        say = EXPORTS[options.shell]
        sys.stdout.write("".join(say(name, value) for name, value in found.items()))
    return 0


def _cluster(options: argparse.Namespace) -> dict[str, Any]:
    with reach(options) as daemon:
        found: dict[str, Any] = daemon.call("cluster.get", {"name": options.name, "namespace": options.namespace})
    return found


def _service(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """The service's view. Raises when the cluster offers no such one, or its port is closed."""
    services = {one["name"]: one for one in _cluster(options)["services"]}
    if name not in services:
        offered = [one for one in PAGES if one in services]
        raise UsageError(f"{options.name} has no {name}", hint=f"it has {', '.join(offered) or 'no web page'}")
    found: dict[str, Any] = services[name]
    if not found["url"]:
        raise KrayneError(f"{name} of {options.name} is {found['state']}", hint=f"krayne tun-open {options.name}")
    return found


def _browse(url: str) -> bool:
    """Whether a browser could be asked to open it. Never a browser within the terminal."""
    has_display = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not (has_display or os.environ.get("BROWSER")):
        return False
    import webbrowser

    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False


def _quoted(text: str) -> str:
    return "'" + "".join(QUOTED.get(one, one) for one in text) + "'"


EXPORTS: dict[str, Callable[[str, str], str]] = {
    "sh": lambda name, value: f"export {name}={_quoted(value)}\n",
    "fish": lambda name, value: f"set -gx {name} {_quoted(value)};\n",
    "csh": lambda name, value: f"setenv {name} {_quoted(value)};\n",
}
