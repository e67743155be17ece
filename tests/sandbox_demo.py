"""`make demo`: the product's promise on this machine with Python alone, each step printed as it happens.

Sandbox and daemon live in .demo, not in the user's home. Leaves no process behind, whatever goes wrong.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".demo"
JOB = Path(__file__).parent / "cluster" / "job.py"
LIMIT = 300.0  # seconds for any one step, on a slow machine
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "KRAYNE_SANDBOX_PYTHON")


def main() -> int:
    """Run the demo; 0 when everything it promises happened."""
    HOME.mkdir(exist_ok=True)
    end()  # of a demo that was killed
    try:
        promise()
    finally:
        end()
        shutil.rmtree(HOME, ignore_errors=True)
    say("the same port all along; nothing was restarted by hand, and nothing is left behind")
    return 0


def promise() -> None:
    """Declare, use, break, use again."""
    krayne("sandbox", "up")
    krayne("create", "demo", "--workers", "1")
    krayne("wait", "demo", "--timeout", "5m")
    krayne("ls")
    port = client_port()
    job(port)
    pid = head_process()
    say(f"killing the head's process {pid} with kill -9")
    os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    wait_replaced(pid)
    krayne("wait", "demo", "--timeout", "5m")
    say(f"a new head answers after {time.monotonic() - begun:.1f} s")
    krayne("ls")
    assert client_port() == port
    job(port)
    krayne("delete", "demo", "--yes")
    krayne("wait", "demo", "--for=deleted", "--timeout", "2m")


def end() -> None:
    """Daemon and sandbox, if they run."""
    krayne("daemon", "stop", check=False)
    krayne("sandbox", "down", "--purge", check=False)


def environment() -> dict[str, str]:
    """The user's own Kubernetes and home stay out of it."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "HOME": str(HOME), "KRAYNE_HOME": str(HOME / ".krayne"), "PYTHONPATH": str(ROOT)}


def krayne(*args: str, check: bool = True) -> None:
    """A command as the user types it, and what it prints."""
    print(f"\n$ krayne {' '.join(args)}", flush=True)
    command = [sys.executable, "-m", "krayne_client.main", *args]
    done = subprocess.run(command, env=environment(), timeout=LIMIT, check=False)
    if check and done.returncode:
        raise SystemExit(f"krayne {' '.join(args)} ended with code {done.returncode}")


def client_port() -> int:
    """The stable local port of Ray's client server."""
    command = [sys.executable, "-m", "krayne_client.main", "ls", "-o", "json"]
    told = subprocess.run(command, env=environment(), timeout=LIMIT, check=True, stdout=subprocess.PIPE).stdout
    services = {one["name"]: one for one in json.loads(told)[0]["services"]}
    return int(services["client"]["local_port"])


def runs() -> list[dict[str, Any]]:
    """What the sandbox has written down of its pods' processes."""
    found = sorted((HOME / ".krayne" / "sandbox" / "pods").glob("*/run.json"))
    return [json.loads(one.read_text()) for one in found]


def head_process() -> int:
    """The pid of the newest head."""
    heads = sorted((one["process"][1], one["process"][0]) for one in runs() if not one["joined"])
    return int(heads[-1][1])


def wait_replaced(pid: int) -> None:
    """Until another head has been started. The sandbox's files offer no event."""
    deadline = time.monotonic() + LIMIT
    while head_gone(pid):
        if time.monotonic() > deadline:
            raise SystemExit("no new head was started")
        time.sleep(0.2)


def head_gone(pid: int) -> bool:
    """Whether no head but the killed one is there."""
    return all(one["process"][0] == pid for one in runs() if not one["joined"])


def job(port: int) -> None:
    """The user's script, unchanged both times."""
    say(f'running a Ray job: ray.init("ray://127.0.0.1:{port}")')
    python = os.environ.get("KRAYNE_SANDBOX_PYTHON", sys.executable)
    subprocess.run([python, str(JOB), f"ray://127.0.0.1:{port}"], env=environment(), timeout=LIMIT, check=True)


def say(text: str) -> None:
    """One step of the story."""
    print(f"\n-- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
