"""`krayne sandbox` as people meet it: twice, side by side, on a taken port, after the worst, beside another context."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from krayne_sandbox.node.processes import family
from tests.cluster.conftest import Krayne
from tests.sandbox.machine import demo, fresh_home, mark_of

pytestmark = pytest.mark.timeout(600)


def told(krayne: Krayne) -> Any:
    """`krayne sandbox status`."""
    return krayne("sandbox", "status", "-o", "json").json()


def test_up_twice_is_up_once_and_its_other_names_mean_the_same() -> None:
    with fresh_home() as krayne:
        assert krayne("sandbox", "status", code=3).err == "start it with: krayne sandbox up\n"
        first = krayne("sandbox", "setup")
        assert "it answers at https://127.0.0.1:" in first.err
        assert f"to go back, delete {krayne.folder / 'config.yaml'}" in first.out
        before = told(krayne)
        again = krayne("sandbox", "up")
        assert again.out == f"the sandbox runs already at {before['url']} (pid {before['pid']})\n"
        assert told(krayne) == before
        assert krayne("sandbox", "teardown").out.startswith("the sandbox is down; its clusters come back")
        assert krayne("sandbox", "down").out.startswith("the sandbox is down")
        assert krayne("sandbox", "status", code=3).out == "the sandbox is not running\n"


def test_a_context_in_use_stays_in_use(tmp_path: Path) -> None:
    other = tmp_path / "kubeconfig"
    other.write_text("{}")
    with fresh_home({"KUBECONFIG": str(other)}) as krayne:
        said = krayne("sandbox", "up").out
        assert f"krayne goes on using {other}" in said
        assert f"export KUBECONFIG={krayne.folder / 'sandbox' / 'kubeconfig'}" in said
        assert not (krayne.folder / "config.yaml").exists()


def test_two_homes_are_two_sandboxes() -> None:
    with fresh_home() as one, fresh_home() as other:
        for krayne in (one, other):
            krayne("sandbox", "up")
            demo(krayne, workers=1)
        assert told(one)["url"] != told(other)["url"]
        one("sandbox", "down")
        assert family(None, mark_of(one)) == []
        assert family(None, mark_of(other)) != []
        assert other.cluster("demo")["phase"] == "ready"


def test_a_port_that_somebody_else_holds_now_is_left_to_him_and_said() -> None:
    with fresh_home() as krayne:
        krayne("sandbox", "up")
        url = told(krayne)["url"]
        krayne("sandbox", "down")
        with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))):
            said = krayne("sandbox", "up").err
            assert f"{url} of last time is somebody else's now" in said
            assert told(krayne)["url"] != url
            demo(krayne)


def test_nothing_is_left_after_a_kill_of_everything() -> None:
    with fresh_home() as krayne:
        krayne("sandbox", "up")
        demo(krayne, workers=1)
        pids = [told(krayne)["pid"], krayne("status", "-o", "json").json()["pid"]]
        running = family(None, mark_of(krayne))
        assert len(running) >= 2
        for pid in [*pids, running[0].pid]:  # of the pods one, so that the others are orphans
            os.kill(pid, signal.SIGKILL)
        krayne("sandbox", "down")
        assert family(None, mark_of(krayne)) == []
        # It comes up again, and the cluster with it.
        krayne("sandbox", "up")
        krayne("wait", "demo", "--timeout", "90s")


def test_a_sandbox_that_cannot_start_says_why() -> None:
    with fresh_home() as krayne:
        krayne("sandbox", "up")
        krayne("sandbox", "down")
        (krayne.folder / "sandbox" / "state.db").write_bytes(b"no database, but long enough to be taken for one" * 99)
        said = krayne("sandbox", "up", code=1).err
        assert "state.db cannot be read" in said
        assert "krayne sandbox down --purge" in said


def test_the_process_refuses_a_folder_that_is_served() -> None:
    with fresh_home() as krayne:
        krayne("sandbox", "up")
        second = [sys.executable, "-m", "krayne_sandbox", "--home", str(krayne.folder / "sandbox")]
        done = subprocess.run(second, env=krayne.env, text=True, capture_output=True, timeout=90, check=False)
        assert (done.returncode, "serves" in done.stderr) == (1, True), done.stderr
