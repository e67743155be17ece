"""The sandbox from end to end: create, a real job through the port, the head killed, the job again, nothing left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from krayne_sandbox.node.processes import family
from tests import sandbox_demo
from tests.controlplane.ray import ray_python

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
RESULT = "[0, 1, 4, 9, 16, 25, 36, 49]"


def test_a_job_runs_before_and_after_the_head_was_killed() -> None:
    env = {**os.environ, "KRAYNE_SANDBOX_PYTHON": str(ray_python()), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.sandbox_demo"], env=env, cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(RESULT) == 2
    assert family(None, f"KRAYNE_SANDBOX_HOME={sandbox_demo.HOME / '.krayne' / 'sandbox'}") == []
