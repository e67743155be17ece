"""`krayne doctor`: each thing krayne rests on, one line, with its mend. Starts nothing; exits 1 for a failure."""

import argparse
import os
import sys
from typing import Any

from krayne import paths
from krayne.errors import KrayneError
from krayne_client import words
from krayne_client.commands.declaring import client_versions
from krayne_client.connection import Connection, connect, version_of
from krayne_client.grammar import Grammar

OK, WARN, FAIL = "ok", "warn", "fail"
LOOK_SECONDS = 90.0  # the look at Kubernetes: a credential plugin alone may take a minute
ASK_SECONDS = 10.0
LINGERING = "/var/lib/systemd/linger"  # a file for each user whose services outlast their last logout
_PAINT = {OK: "32", WARN: "33", FAIL: "31"}

Check = dict[str, str]


def add(grammar: Grammar) -> None:
    """What can be typed."""
    grammar.verb("doctor", doctor, "check everything krayne rests on", "doctor", "doctor -o json")


def doctor(options: argparse.Namespace) -> int:
    """`krayne doctor`."""
    kubernetes = _look_at_kubernetes()
    found = [*_daemon(kubernetes), *kubernetes, _unit(), _ssh_config()]
    if options.output == "json":
        sys.stdout.write(words.as_json(found))
    else:
        color = sys.stdout.isatty() and not options.no_color and not os.environ.get("NO_COLOR")
        wide = max(len(one["name"]) for one in found)
        for one in found:
            state = f"\x1b[{_PAINT[one['state']]}m{one['state']:4}\x1b[0m" if color else f"{one['state']:4}"
            sys.stdout.write(f"{state}  {one['name']:{wide}}  {words.plain(one['detail'])}\n")
            sys.stdout.write(f"{'':{wide + 8}}try: {words.plain(one['mend'])}\n" if one["mend"] else "")
    return 1 if any(one["state"] == FAIL for one in found) else 0


def _check(name: str, state: str, detail: str, mend: str = "") -> Check:
    return {"name": name, "state": state, "detail": detail, "mend": mend}


def _look_at_kubernetes() -> list[Check]:
    """What a process beside the daemon sees: it works without one, and by this shell's environment."""
    import json
    import subprocess

    command = [sys.executable, "-P", "-m", "kraynd.doctor"]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter and our own module
            command, capture_output=True, timeout=LOOK_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
        found: list[Check] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return [_check("kubernetes", FAIL, f"no answer within {LOOK_SECONDS:.0f} s", "check the network and the VPN")]
    except ValueError:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return [_check("kubernetes", FAIL, f"the check itself failed: {' '.join(last)}", "install kraynd again")]
    return found


def _daemon(kubernetes: list[Check]) -> list[Check]:
    """The daemon and what only it knows."""
    try:
        daemon = connect()
        if daemon is None:
            return [_check("daemon", WARN, f"nothing listens on {paths.socket_path()}", "krayne daemon start")]
        with daemon:
            return _asked(daemon, kubernetes)
    except KrayneError as error:
        return [_check("daemon", FAIL, error.message, error.hint)]


def _asked(daemon: Connection, kubernetes: list[Check]) -> list[Check]:
    status = daemon.call("daemon.status", seconds=ASK_SECONDS)
    forwards = daemon.call("forward.list", seconds=ASK_SECONDS)["forwards"]
    clusters = daemon.call("cluster.list", {"all_namespaces": True}, seconds=ASK_SECONDS)["clusters"]
    return [
        _running(status),
        *_files(status),
        _world(status, kubernetes),
        *_ports(forwards),
        *map(_match, filter(_is_ours, clusters)),
    ]


def _running(status: dict[str, Any]) -> Check:
    ours, said = version_of("kraynd"), f"pid {status['pid']}, version {status['version']}, on {status['socket']}"
    if status["frozen"]:
        return _check("daemon", FAIL, f"changes nothing any more: {status['frozen']}", "krayne daemon restart")
    if ours != status["version"]:
        return _check("daemon", WARN, f"{said}; this client is {ours}", "krayne daemon restart")
    return _check("daemon", OK, said)


def _files(status: dict[str, Any]) -> list[Check]:
    """Files the daemon cannot follow."""
    return [_check("files", FAIL, one["message"], one["hint"] or "krayne status") for one in status["problems"]]


def _world(status: dict[str, Any], kubernetes: list[Check]) -> Check:
    world = status["world"]
    if world["condition"] != "ready":
        return _check("connection", FAIL, f"{world['condition']}: {world['reason']}", world["hint"] or "krayne status")
    here = next((one["detail"] for one in kubernetes if one["name"] == "kubeconfig" and one["state"] == OK), "")
    said = f"context {world['context']} at {world['server']}, KubeRay {status['kuberay'] or 'of unknown version'}"
    if here and not here.startswith(f"context {world['context']},"):
        said += f"; this shell's is {here}"
        return _check("connection", WARN, said, "krayne context NAME, which holds for both")
    return _check("connection", OK, said)


def _ports(forwards: list[dict[str, Any]]) -> list[Check]:
    taken = [one for one in forwards if one["state"] == "port-taken"]
    if not taken:
        return [_check("local ports", OK, f"{len(forwards)} held, none taken by others")]
    return [
        _check(
            "local ports",
            FAIL,
            f"{one['local_port']} of {one['cluster']} {one['service']}: {one['reason']}",
            f"end that program, or krayne tun-open {one['cluster']} {one['remote_port']}:OTHER",
        )
        for one in taken
    ]


def _is_ours(view: dict[str, Any]) -> bool:
    return bool(view["declared"] and view["ray_version"])


def _match(view: dict[str, Any]) -> Check:
    """Ray's client speaks only to its own version, and pickles want the same Python."""
    name, here = f"versions of {view['name']}", client_versions()
    ray, python = here["ray"], ".".join(here["python"].split(".")[:2])
    there = f"Ray {view['ray_version']} in {view['image']}"
    if ray is None:
        return _check(name, OK, f"{there}; no Ray is installed beside krayne")
    tag = view["image"].rpartition(":")[2]
    other = next((part[2:] for part in tag.split("-") if part.startswith("py") and part[2:].isdecimal()), "")
    if ray != view["ray_version"]:
        return _check(name, WARN, f"{there}, Ray {ray} here", f"pip install 'ray[client]=={view['ray_version']}'")
    if other and other != python.replace(".", ""):
        return _check(name, WARN, f"{there}, Python {python} here", "use the Python of the image, or another image")
    return _check(name, OK, there)


def _unit() -> Check:
    """The unit, whether what it starts is there, and how long it lasts."""
    from krayne_client import service

    path = service.unit_path()
    if not path.exists():
        return _check("service", OK, "not installed; the daemon is started when it is needed")
    said = f"installed as {path}"
    if not service.installed():
        return _check("service", WARN, f"{said}, for another home or by another hand", "krayne daemon install")
    if service.renewed(path.read_text()) != path.read_text():
        return _check("service", WARN, f"{said}, by another version of krayne", "krayne daemon restart")
    if sys.platform != "darwin" and not os.path.exists(f"{LINGERING}/{_user()}"):
        said += "; ends at the last logout (loginctl enable-linger keeps it)"
    return _check("service", OK, said)


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _ssh_config() -> Check:
    try:
        with open(os.path.expanduser("~/.ssh/config"), encoding="utf-8", errors="replace") as file:
            lines = [line.split(None, 1) for line in file if line.lower().startswith("include") and "krayne" in line]
    except OSError:
        lines = []
    named = [os.path.expanduser(line[1].strip().strip('"')) for line in lines if len(line) > 1]
    for path in named:
        if not os.path.exists(path):
            return _check("ssh config", WARN, f"~/.ssh/config includes {path}, which is not there", "krayne ls")
    if named:
        return _check("ssh config", OK, f"~/.ssh/config includes {', '.join(named)}")
    return _check("ssh config", OK, "not installed; ssh -p PORT ray@localhost works")
