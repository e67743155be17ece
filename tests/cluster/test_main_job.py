"""What all of this is for: a real Ray job through krayne, and again after the head pod was replaced."""

import subprocess
from pathlib import Path

import pytest

from tests.cluster.conftest import Krayne
from tests.controlplane.plane import ControlPlane
from tests.controlplane.ray import follow, ray_python

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
SQUARES = [number * number for number in range(8)]


def run_job(port: int) -> list[int]:
    """Run the job against a local port, in Ray's own environment."""
    done = subprocess.run(
        [str(ray_python()), str(Path(__file__).with_name("job.py")), f"ray://127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[int] = eval(done.stdout.splitlines()[-1])
    return found


def test_a_ray_job_runs_and_runs_again_after_the_head_was_replaced(
    plane: ControlPlane, namespace: str, krayne: Krayne
) -> None:
    krayne("create", "demo", "-n", namespace)
    with follow(plane, "demo", namespace) as ray:
        krayne("wait", "demo", "-n", namespace, "--for=ready", "--timeout", "120s")
        port = krayne.port("demo", "client")
        ports = {one["name"]: one["local_port"] for one in krayne.cluster("demo")["services"]}
        head = ray.wait()
        assert run_job(port) == SQUARES

        plane.kubectl("delete", "pod", head, "-n", namespace, "--wait=false")
        assert ray.wait(other_than=head) != head
        krayne("wait", "demo", "-n", namespace, "--for=ready", "--timeout", "120s")
        assert run_job(port) == SQUARES
        assert {one["name"]: one["local_port"] for one in krayne.cluster("demo")["services"]} == ports
    krayne("delete", "demo", "-n", namespace, "--yes")
    krayne("wait", "demo", "-n", namespace, "--for=deleted", "--timeout", "60s")
    assert krayne.clusters("-A") == []
