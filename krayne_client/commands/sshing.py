"""ssh: into a cluster, and ssh-config for every other program that speaks it."""

import argparse
import os
import sys
from typing import Any

from krayne import paths
from krayne.errors import KrayneError, UsageError
from krayne_client import words
from krayne_client.asking import reach, wait_for
from krayne_client.grammar import Grammar, add_timeout


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.on_cluster(
        "ssh",
        ssh,
        "log in to a cluster's head, or run a command there",
        "ssh demo",
        "ssh demo -- nvidia-smi",
        "ssh demo --timeout 2m -- python train.py",
    )
    typed.usage = "krayne ssh NAME [options] [-- COMMAND [ARGUMENT ...]]"
    add_timeout(typed)
    typed.set_defaults(command=[])
    typed = grammar.verb(
        "ssh-config",
        ssh_config,
        "let ssh, scp, rsync and editors know every cluster as krayne-NAME",
        "ssh-config --install --dry-run",
        "ssh-config --install        (then: ssh krayne-demo)",
        "ssh-config --print",
        "ssh-config --remove",
    )
    typed.usage = "krayne ssh-config --install|--print|--remove [--dry-run] [options]"
    what = typed.add_mutually_exclusive_group(required=True)
    what.add_argument("--install", action="store_true", help="put one Include line at the top of ~/.ssh/config")
    what.add_argument("--print", dest="show", action="store_true", help="print our configuration; change nothing")
    what.add_argument("--remove", action="store_true", help="take the line out again")
    typed.add_argument("--dry-run", action="store_true", help="show what would change in ~/.ssh/config")


def ssh(options: argparse.Namespace) -> int:
    """`krayne ssh`: becomes the system's ssh, whose exit code is the command's."""
    if not _is_ready(options):
        wait_for(options, "service=ssh")
    found = _hosts(options)
    host = found["hosts"][0] if found["hosts"] else None
    if host is None or not host["host_key"]:
        raise KrayneError(
            f"the head of {options.name} has told no ssh host key, so it is not trusted",
            hint=f"krayne logs {options.name} --service ssh",
        )
    # What stands behind the second -- is never an option of ssh's own.
    command = ["ssh", "-F", found["config"], "--", host["aliases"][-1], *options.command]
    sys.stdout.flush()
    try:
        os.execvp("ssh", command)  # noqa: S606, S607 - the system's own ssh, no shell
    except FileNotFoundError:
        raise KrayneError("there is no ssh on this machine", hint="install OpenSSH's client") from None


def _is_ready(options: argparse.Namespace) -> bool:
    with reach(options) as daemon:
        view = daemon.call("cluster.get", {"name": options.name, "namespace": options.namespace})
    options.namespace = view["namespace"]
    services = {one["name"]: one for one in view["services"]}
    if "ssh" not in services:
        raise UsageError(f"{options.name} has no ssh", hint="services: {ssh: true} in its file")
    return bool(services["ssh"]["state"] == "ready")


def _hosts(options: argparse.Namespace) -> dict[str, Any]:
    params = {"name": getattr(options, "name", None), "namespace": options.namespace}
    with reach(options) as daemon:
        found: dict[str, Any] = daemon.call("ssh.hosts", {**params, "all_namespaces": options.all_namespaces})
    return found


def ssh_config(options: argparse.Namespace) -> int:
    """`krayne ssh-config`."""
    if options.show:
        return _show(options)
    from krayne_client import sshinclude

    line = sshinclude.line_for(paths.ssh_config_file())
    if any(one in line[9:-2] for one in '"\n\r'):
        raise UsageError("ssh cannot include a file of such a name", hint="set KRAYNE_HOME to a path without quotes")
    if options.install and not options.dry_run:
        _hosts(options)  # so that what is included is there
    path = sshinclude.user_config()
    before = sshinclude.read(path)
    after = sshinclude.installed(before, line) if options.install else sshinclude.removed(before, line)
    if before == after:
        words.aside(f"{path} {'includes our hosts already' if options.install else 'has no line of ours'}")
    elif options.dry_run:
        sys.stdout.write(_difference(path, before or "", after or ""))
    else:
        sshinclude.write(path, after, line)
        words.aside(f"{path} {'includes our hosts now: ssh krayne-NAME' if options.install else 'is as it was before'}")
    return 0


def _show(options: argparse.Namespace) -> int:
    found = _hosts(options)
    if options.output == "json":
        sys.stdout.write(words.as_json(found))
    elif options.output == "name":
        sys.stdout.write("".join(f"{one['aliases'][0]}\n" for one in found["hosts"]))
    else:
        sys.stdout.write(found["text"])
    return 0


def _difference(path: str, before: str, after: str) -> str:
    import difflib

    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), path, f"{path} (changed)", lineterm="")
    # A file may hold bytes that are no text: shown as ?, and kept as they are when it is changed.
    return "".join(f"{one}\n" for one in lines).encode("utf-8", "replace").decode()
