"""The sandbox on this machine: up, status, down. Standard library only; the sandbox is a process of its own.

Invariant: a process is signalled only when its pid and start time are those written down, or it bears our mark.
"""

import argparse
import os
import signal
import sys
import time
from typing import Any

from krayne import paths
from krayne.errors import KrayneError
from krayne_client import words
from krayne_client.grammar import Grammar

START_SECONDS = 60.0  # a slow machine makes its keys and its first file in a few
END_SECONDS = 30.0
PAUSE = 0.1  # seconds between looks at a process that is not our child to wait for
NOT_RUNNING = 3
PYTHON = "KRAYNE_SANDBOX_PYTHON"
SPOKEN = {"setup": "up", "teardown": "down"}


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.verb(
        "sandbox", sandbox, "run real Ray clusters on this machine, without Kubernetes",
        "sandbox up", "sandbox status -o json", "sandbox down --purge",
    )  # fmt: skip
    typed.usage = "krayne sandbox {up,status,down} [options]"
    typed.add_argument("action", choices=("up", "status", "down", "setup", "teardown"), help="what to do")
    typed.add_argument("--purge", action="store_true", help="down: forget its clusters, keys and port too")


def sandbox(options: argparse.Namespace) -> int:
    """`krayne sandbox ACTION`."""
    action = {"up": up, "status": status, "down": down}[SPOKEN.get(options.action, options.action)]
    return action(options)


def folder() -> str:
    """Where the sandbox keeps everything."""
    return paths.sandbox_dir()


def kubeconfig() -> str:
    """The file that leads to it."""
    return os.path.join(folder(), "kubeconfig")


def up(_: argparse.Namespace) -> int:
    """Start it; fine when it runs already."""
    found = serving()
    if found is not None:
        sys.stdout.write(f"the sandbox runs already at {found['url']} (pid {found['pid']})\n")
        return 0
    words.aside("starting the sandbox's Kubernetes API ...")
    before = _last_port()
    found = _start()
    if before and not str(found["url"]).endswith(f":{before}"):
        words.aside(f"https://127.0.0.1:{before} of last time is somebody else's now: kubectl wants the new kubeconfig")
    words.aside(f"it answers at {found['url']} (pid {found['pid']})")
    if not _has_ray():
        words.aside("Ray is not installed here: clusters will wait for it. Mend it with: pip install 'kraynd[sandbox]'")
    sys.stdout.write(_use())
    sys.stdout.write("next: krayne create demo --workers 1 --wait\n")
    return 0


def status(options: argparse.Namespace) -> int:
    """What runs; exit code 3 when nothing does."""
    found = serving()
    facts: dict[str, Any] = {"running": found is not None, "folder": folder(), "kubeconfig": kubeconfig()}
    if found is not None:
        pods = _pods()
        facts |= {"url": found["url"], "pid": found["pid"], "pods": pods, "ray": _has_ray()}
    if options.output == "json":
        sys.stdout.write(words.as_json(facts))
    elif options.output == "yaml":
        sys.stdout.write(words.as_plain_yaml({key: one for key, one in facts.items() if key != "pods"}))
    elif found is None:
        sys.stdout.write("the sandbox is not running\n")
        words.aside("start it with: krayne sandbox up")
    else:
        sys.stdout.write(f"the sandbox runs at {found['url']} (pid {found['pid']}), {len(facts['pods'])} pods\n")
        sys.stdout.write("".join(f"  {pod['namespace']}/{pod['name']}  {pod['phase']}\n" for pod in facts["pods"]))
    return 0 if found is not None else NOT_RUNNING


def down(options: argparse.Namespace) -> int:
    """End it and every process of its pods; fine when it does not run."""
    import shutil
    import subprocess

    known = _known()
    if known is not None:
        words.aside(f"stopping the sandbox (pid {known['pid']}) ...")
        _end(known)
    words.aside("ending what its pods run ...")
    done = subprocess.run(  # noqa: S603 - our own command, no shell
        [sys.executable, "-P", "-m", "krayne_sandbox", "--home", folder(), "--end"], check=False
    )
    if done.returncode:
        raise KrayneError("some processes of the sandbox do not end", hint=f"grep {folder()} in /proc/*/environ")
    if options.purge:
        shutil.rmtree(folder(), ignore_errors=True)
    gone = "and its clusters are forgotten" if options.purge else "its clusters come back with: krayne sandbox up"
    sys.stdout.write(f"the sandbox is down; {gone}\n")
    return 0


def serving() -> dict[str, Any] | None:
    """The sandbox's own word, when it is alive and answers."""
    known = _known()
    return known if known is not None and _answers(known["url"]) else None


def _known() -> dict[str, Any] | None:
    """What the running sandbox has written down; None when that process is gone."""
    import json

    try:
        with open(os.path.join(folder(), "sandbox.json"), encoding="utf-8") as file:
            known: dict[str, Any] = json.load(file)
        return known if _start_of(int(known["pid"])) == known["start"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _start_of(pid: int) -> int | None:
    """When a process was started, in the kernel's own count; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _ask(path: str) -> Any:
    import json
    import ssl
    import urllib.request

    url = _known_url() + path
    with open(os.path.join(folder(), "token"), encoding="utf-8") as file:
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {file.read().strip()}"})  # noqa: S310
    trust = ssl.create_default_context(cafile=os.path.join(folder(), "ca.crt"))
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    with direct.open(asked, timeout=5.0) as reply:
        return json.load(reply)


def _known_url() -> str:
    known = _known()
    if known is None:
        raise OSError("the sandbox is not running")
    return str(known["url"])


def _answers(_: str) -> bool:
    try:
        return bool(_ask("/version"))
    except (OSError, ValueError):
        return False


def _pods() -> list[dict[str, str]]:
    found = _ask("/api/v1/pods").get("items") or []
    return [
        {
            "namespace": one["metadata"]["namespace"], "name": one["metadata"]["name"],
            "phase": str((one.get("status") or {}).get("phase", "")),
        }
        for one in found
    ]  # fmt: skip


def _start() -> dict[str, Any]:
    import subprocess

    os.makedirs(folder(), mode=0o700, exist_ok=True)
    output = os.path.join(folder(), "sandbox.log")
    with open(output, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as said:
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [sys.executable, "-P", "-m", "krayne_sandbox", "--home", folder()],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = serving()
        if found is not None:
            return found
        if process.poll() is not None:
            raise KrayneError(
                f"the sandbox ended at once: {_last_line(output)}",
                hint=f"see {output}; krayne sandbox down --purge forgets its state",
            )
        time.sleep(PAUSE)
    raise KrayneError(f"the sandbox did not answer in {START_SECONDS:g} s", hint=f"see {output}")


def _last_port() -> str:
    """The port the API had, empty when it never ran."""
    try:
        with open(os.path.join(folder(), "port"), encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def _last_line(path: str) -> str:
    """What a program said last."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _end(known: dict[str, Any]) -> None:
    """SIGTERM, then SIGKILL, to the very process that wrote its name down."""
    for number, seconds in ((signal.SIGTERM, END_SECONDS / 2), (signal.SIGKILL, END_SECONDS / 2)):
        deadline = time.monotonic() + seconds
        if _start_of(known["pid"]) == known["start"]:
            os.kill(known["pid"], number)
        while _start_of(known["pid"]) == known["start"]:
            if time.monotonic() > deadline:
                break
            time.sleep(PAUSE)
        else:
            return
    raise KrayneError(f"the sandbox (pid {known['pid']}) does not end", hint=f"kill -9 {known['pid']}")


def _has_ray() -> bool:
    if os.environ.get(PYTHON):
        return os.path.exists(os.path.join(os.path.dirname(os.environ[PYTHON]), "ray"))
    import importlib.util

    return importlib.util.find_spec("ray") is not None


def _use() -> str:
    """Make it the current context when there is none; say how to switch and how to go back."""
    import json

    settings = paths.settings_file()
    listed = os.environ.get("KUBECONFIG") or os.path.join(os.path.expanduser("~"), ".kube", "config")
    in_use = [path for path in listed.split(os.pathsep) if path and path != kubeconfig() and os.path.exists(path)]
    if os.path.exists(settings):
        with open(settings, encoding="utf-8") as file:
            mine = kubeconfig() in file.read()
        if mine:
            return f"krayne uses it; to go back, delete {settings}\n"
    if in_use or os.path.exists(settings):
        where = settings if os.path.exists(settings) else in_use[0]
        return f"krayne goes on using {where}; to use the sandbox: export KUBECONFIG={kubeconfig()}\n"
    with open(settings, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(f"kubeconfig: {json.dumps(kubeconfig())}\n")
    return f"krayne uses it from now on; to go back, delete {settings}\n"
