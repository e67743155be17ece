"""What the sandbox's own process costs while nobody asks for anything: alone, and with a cluster of real Ray."""

import time

from tests.bench import measure
from tests.bench.table import fact
from tests.cluster.conftest import Krayne
from tests.controlplane.ray import ray_python
from tests.sandbox.machine import fresh_home

SETTLE = 10.0  # seconds until what a start leaves behind is done
WATCHED = 30.0  # seconds over which CPU is counted
MIB = 60
ALONE, ASKED = 0.1, 0.2  # % of a core: by nobody, and by a daemon's watches and an autoscaler every five seconds


def sandbox() -> None:
    """Two figures for each; Ray's processes, its autoscaler among them, are not counted."""
    with fresh_home({"KRAYNE_SANDBOX_PYTHON": str(ray_python())}) as krayne:
        krayne("sandbox", "up")
        _measure(krayne, "the idle sandbox", ALONE)
        krayne("create", "demo", "--workers", "1")
        krayne("wait", "demo", "--timeout", "110s")
        _measure(krayne, "the sandbox with a cluster", ASKED)


def _measure(krayne: Krayne, what: str, most: float) -> None:
    pid = krayne("sandbox", "status", "-o", "json").json()["pid"]
    time.sleep(SETTLE)
    before = measure.cpu_seconds(pid)
    time.sleep(WATCHED)
    share = (measure.cpu_seconds(pid) - before) / WATCHED * 100
    fact(f"memory of {what}", measure.resident(pid), None, "MiB", MIB)
    fact(f"CPU of {what}", share, None, "%", most)
