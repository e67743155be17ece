"""Ray jobs: submit, ls, status, logs, stop, over the cluster's own dashboard forward."""

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from krayne.errors import KrayneError, UsageError
from krayne_client import words
from krayne_client.asking import reach
from krayne_client.grammar import Grammar

if TYPE_CHECKING:  # its HTTP and zip modules would cost every --help half of its time
    from krayne_client.rayjobs import Jobs

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
LOOK_EVERY = 1.0  # seconds between two looks at a running job: Ray's log stream is a WebSocket, and this is plain HTTP
GONE_ON = 130


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.verb(
        "job", job, "submit, list, follow or stop Ray jobs of a cluster",
        "job submit demo -- python train.py --lr 0.1",
        "job submit demo --working-dir src --pip requests --env TOKEN=x --no-wait -- python -m train",
        "job ls demo", "job logs demo ID -f", "job stop demo ID",
    )  # fmt: skip
    typed.usage = f"krayne job {{{','.join(ACTIONS)}}} NAME [ID] [options] [-- COMMAND ...]"
    typed.set_defaults(command=[])
    typed.add_argument("action", choices=tuple(ACTIONS), help="what to do")
    typed.add_argument("name", metavar="NAME", help="the cluster")
    typed.add_argument("job", nargs="?", metavar="ID", help="which job; for submit the id it gets")
    typed.add_argument("--working-dir", metavar="DIR", default=".", help="what is sent along (the current folder)")
    typed.add_argument("--no-upload", action="store_true", help="send nothing along")
    typed.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="leave these files out")
    typed.add_argument("--pip", action="append", default=[], metavar="PACKAGE", help="installed for the job")
    typed.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="set for the job")
    typed.add_argument("--no-wait", action="store_true", help="return once it is submitted")
    typed.add_argument("-f", "--follow", action="store_true", help="logs: go on until the job ends")


def job(options: argparse.Namespace) -> int:
    """`krayne job ACTION`."""
    if options.action not in ("submit", "ls") and not options.job:
        raise UsageError("which job?", hint=f"krayne job ls {options.name}")
    command = options.command
    if (options.action == "submit") != bool(command):
        raise UsageError(
            "a command stands after -- , and only for submit", hint="krayne job submit demo -- python x.py"
        )
    return ACTIONS[options.action](options, _jobs(options))


def _jobs(options: argparse.Namespace) -> "Jobs":
    """The jobs of the cluster, by its dashboard's local port. Raises KrayneError when that leads nowhere now."""
    with reach(options) as daemon:
        view = daemon.call("cluster.get", {"name": options.name, "namespace": options.namespace})
    options.namespace = view["namespace"]
    found = next((one for one in view["services"] if one["name"] == "dashboard"), None)
    if found is None or not found["local_port"]:
        raise KrayneError(f"{view['name']} has no dashboard port", hint=f"krayne tun-open {view['name']} dashboard")
    if found["state"] != "ready":
        why = found["reason"] or view["reason"]
        hint = f"krayne resume {view['name']}" if view["phase"] == "suspended" else f"krayne wait {view['name']}"
        raise KrayneError(f"the dashboard of {view['name']} is not there: {found['state']}, {why}", hint=hint)
    from krayne_client.rayjobs import Jobs

    return Jobs(view["name"], found["local_port"])


def submit(options: argparse.Namespace, jobs: "Jobs") -> int:
    """Send the folder, begin the job, follow it."""
    runtime: dict[str, Any] = {"env_vars": dict(_pair(one) for one in options.env)} if options.env else {}
    if options.pip:
        runtime["pip"] = options.pip
    if not options.no_upload:
        if not os.path.isdir(options.working_dir):
            raise UsageError(f"{options.working_dir} is no folder", hint="--working-dir DIR, or --no-upload")
        runtime["working_dir"], size = jobs.upload(options.working_dir, options.exclude)
        sent = f"sent {os.path.abspath(options.working_dir)}, {size // 1024 + 1} KiB"
        words.aside(sent if size else f"{options.name} has these files already")
    # One argument is a line for the shell, as with ssh; several are words.
    from shlex import join

    command = options.command
    name = jobs.submit(command[0] if len(command) == 1 else join(command), runtime, options.job)
    words.aside(f"job {name} is submitted to {options.name}")
    if options.no_wait:
        sys.stdout.write(words.as_json(jobs.get(name)) if options.output == "json" else f"{name}\n")
        return 0
    return _follow(options, jobs, name)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError("--env takes NAME=VALUE", hint="for example --env SEED=1")
    return name, value


def _follow(options: argparse.Namespace, jobs: "Jobs", name: str) -> int:
    """Its log as it grows, then its exit code."""
    told = 0
    try:
        while True:
            found = jobs.get(name)  # before the log: what it wrote last is then in it
            text = jobs.logs(name)
            sys.stdout.write(text[told:])
            sys.stdout.flush()
            told = len(text)
            if found["status"] in ENDED:
                return _ended(found, name)
            time.sleep(LOOK_EVERY)
    except KeyboardInterrupt:
        words.aside(f"\nstopped watching; job {name} goes on")
        words.aside(
            f"krayne job logs {options.name} {name} -f follows it; krayne job stop {options.name} {name} ends it"
        )
        return GONE_ON


def _ended(found: dict[str, Any], name: str) -> int:
    code = found.get("driver_exit_code")
    if found["status"] == "SUCCEEDED":
        return 0
    said = str(found.get("message") or "").strip().splitlines()
    words.aside(words.plain(f"job {name} {found['status'].lower()}{f': {said[0]}' if said else ''}"))
    return code if isinstance(code, int) and 0 < code < 256 else 1


def ls(options: argparse.Namespace, jobs: "Jobs") -> int:
    """Every job."""
    found = jobs.every()
    if options.output == "json":
        sys.stdout.write(words.as_json(found))
        return 0
    for one in found:
        name = one.get("submission_id") or one.get("job_id") or "-"
        line = name if options.output == "name" else f"{name}  {one['status']:9}  {one.get('entrypoint', '')}"
        sys.stdout.write(words.plain(line) + "\n")
    if not found:
        words.aside(f"no jobs on {options.name}")
    return 0


def status(options: argparse.Namespace, jobs: "Jobs") -> int:
    """One job."""
    found = jobs.get(options.job)
    if options.output == "json":
        sys.stdout.write(words.as_json(found))
    else:
        said = f": {found['message']}" if found.get("message") else ""
        sys.stdout.write(words.plain(f"{options.job} {found['status']}{said}") + "\n")
    return 0


def logs(options: argparse.Namespace, jobs: "Jobs") -> int:
    """What it wrote; with -f until it ends, with its exit code."""
    if options.follow:
        return _follow(options, jobs, options.job)
    sys.stdout.write(jobs.logs(options.job))
    return 0


def stop(options: argparse.Namespace, jobs: "Jobs") -> int:
    """End it."""
    stopped = jobs.stop(options.job)
    sys.stdout.write(f"job {options.job} {'is being stopped' if stopped else 'had ended already'}\n")
    return 0


ACTIONS = {"submit": submit, "ls": ls, "status": status, "logs": logs, "stop": stop}
