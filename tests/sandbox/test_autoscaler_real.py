"""Ray's own autoscaler on the sandbox: work that needs a worker gets one, and an idle worker goes."""

import subprocess
from typing import Any

import pytest

from tests.cluster.conftest import Krayne
from tests.cluster.using import until
from tests.controlplane.ray import ray_python
from tests.sandbox.machine import fresh_home

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

LIMIT = 240.0
DEMO = """
name: demo
services: {notebook: false, code_server: false, ssh: false}
autoscaler: {idle_timeout_seconds: 5}
worker_groups: [{replicas: 0, min_replicas: 0, max_replicas: 2}]
"""
JOB = """
import sys, ray
with ray.init(sys.argv[1], logging_level="error"):
    @ray.remote(num_cpus=1)
    def where():
        return ray.get_runtime_context().get_node_id()
    print(len({ray.get(where.remote(), timeout=200)}), "worker")
"""


def workers(krayne: Krayne) -> dict[str, Any]:
    found: dict[str, Any] = krayne.cluster("demo")["workers"]
    return found


def test_workers_follow_demand_and_idleness() -> None:
    python = str(ray_python())
    with fresh_home({"KRAYNE_SANDBOX_PYTHON": python}) as krayne:
        krayne("sandbox", "up")
        krayne("apply", "-f", "-", stdin=DEMO)
        krayne("wait", "demo", "--timeout", "110s")
        assert workers(krayne)["desired"] == 0
        address = f"ray://127.0.0.1:{krayne.port('demo', 'client')}"
        done = subprocess.run(
            [python, "-c", JOB, address], env=krayne.env, text=True, capture_output=True, timeout=LIMIT, check=False
        )
        assert done.stdout.endswith("1 worker\n"), done.stdout + done.stderr
        until("the idle worker's end", lambda: workers(krayne)["desired"] == 0, LIMIT)
        until("its pod's end", lambda: workers(krayne)["ready"] == 0, LIMIT)
