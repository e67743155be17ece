"""`krayne job` against a real Ray: the folder arrives, the log is followed, the exit code comes back."""

import sys

import pytest

from tests.cluster.conftest import Krayne
from tests.controlplane.plane import ControlPlane
from tests.controlplane.ray import follow

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

SCRIPT = """\
import os, sys
from here import WORD
print("said", WORD, os.environ["SEED"], sys.argv[1], flush=True)
sys.exit(int(sys.argv[1]))
"""


def test_a_real_job(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    work = krayne.home / "work"
    work.mkdir()
    (work / "train.py").write_text(SCRIPT)
    (work / "here.py").write_text('WORD = "hello"\n')
    krayne("create", "demo", "-n", namespace)
    with follow(plane, "demo", namespace) as ray:
        krayne("wait", "demo", "-n", namespace, "--timeout", "120s")
        krayne("wait", "demo", "--for=service=dashboard", "--timeout", "60s")
        ray.wait()
        submit = ("job", "submit", "demo", "--working-dir", str(work), "--env", "SEED=4")
        done = krayne(*submit, "--", sys.executable, "train.py", "0")
        assert "said hello 4 0" in done.out
        failed = krayne(*submit, "--", sys.executable, "train.py", "3", code=3)
        assert "said hello 4 3" in failed.out
        assert "has these files already" in failed.err

        name = krayne("job", "submit", "demo", "--no-upload", "--no-wait", "--", "sleep 600").out.strip()
        listed = {one["submission_id"]: one["status"] for one in krayne("job", "ls", "demo", "-o", "json").json()}
        assert len(listed) == 3
        assert listed[name] in ("PENDING", "RUNNING")
        krayne("job", "stop", "demo", name)
        assert krayne("job", "logs", "demo", name, "-f", code=1).err.strip().startswith(f"job {name} stopped")
