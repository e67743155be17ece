"""`make demo-real`: the product's promise on a real Kubernetes control plane, each step printed as it happens.

Creates a Ray cluster with `krayne`, runs a real Ray job through the stable local port, deletes the head pod, and runs
the same job on the same port. Leaves no process and no file behind.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.cluster.conftest import Krayne, make_krayne
from tests.controlplane.plane import ControlPlane
from tests.controlplane.ray import follow, ray_python

JOB = Path(__file__).parent / "cluster" / "job.py"


def main() -> int:
    """Run the demo; 0 when everything it promises happened."""
    with ExitStack() as undo:
        root = Path(tempfile.mkdtemp(prefix="krp-"))
        undo.callback(shutil.rmtree, root, ignore_errors=True)
        say("starting a Kubernetes control plane with the KubeRay operator")
        plane = ControlPlane.start(root)
        undo.callback(plane.stop)
        krayne = make_krayne(plane.kubeconfig)
        undo.callback(shutil.rmtree, krayne.home, ignore_errors=True)
        undo.callback(krayne, "daemon", "stop", code=None)
        return promise(plane, krayne)


def promise(plane: ControlPlane, krayne: Krayne) -> int:
    """Declare, use, break, use again."""
    with follow(plane, "demo") as ray:
        show(krayne, "create", "demo")
        show(krayne, "wait", "demo", "--timeout", "120s")
        head = ray.wait()
        show(krayne, "ls")
        port = krayne.port("demo", "client")
        job(port)
        say(f"deleting the head pod {head}")
        plane.kubectl("delete", "pod", head, "--wait=false")
        started = time.monotonic()
        new = ray.wait(other_than=head)
        say(f"KubeRay replaced it with {new}, Ray answers again after {time.monotonic() - started:.1f} s")
        show(krayne, "ls")
        job(port)
        show(krayne, "delete", "demo", "--yes")
        show(krayne, "wait", "demo", "--for=deleted", "--timeout", "60s")
    say("the same port all along; nothing was restarted by hand")
    return 0


def job(port: int) -> None:
    """The user's script, unchanged both times."""
    say(f'running a Ray job: ray.init("ray://127.0.0.1:{port}")')
    done = subprocess.run(
        [str(ray_python()), str(JOB), f"ray://127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True, check=True
    )
    print(f"    {done.stdout.strip()}", flush=True)


def show(krayne: Krayne, *args: str) -> None:
    """A command as the user types it, and what it prints."""
    print(f"\n$ krayne {' '.join(args)}", flush=True)
    ran = krayne(*args)
    print(ran.out + ran.err, end="", flush=True)


def say(text: str) -> None:
    """One step of the story."""
    print(f"\n-- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
