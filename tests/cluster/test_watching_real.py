"""What `create --wait` tells while a cluster comes up on real Kubernetes, and what Ctrl-C ends: the watching alone."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.conftest import COMMAND_LIMIT, Krayne
from tests.cluster.using import live, until
from tests.controlplane import pods
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

TOLD = 120.0  # seconds for a step to be told: events are asked for seldom
INTERRUPTED = 130
IMAGE = "rayproject/ray:9.9"
COMMAND = """import faulthandler, signal, sys
faulthandler.register(signal.SIGUSR1)
from krayne_client.main import main
sys.exit(main())
"""


class Watching:
    """A `krayne` that waits, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process, self._said = process, said

    def tells(self, text: str) -> None:
        """Wait until it has said this."""
        try:
            until(f"the words {text!r}", lambda: text in self.said, TOLD)
        except Exception as error:
            error.add_note(self.said)
            raise

    @property
    def said(self) -> str:
        return self._said.read_text()

    def ended(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(COMMAND_LIMIT)
        except subprocess.TimeoutExpired as error:
            said = self.said
            self.process.send_signal(signal.SIGUSR1)  # where it stands
            until("its stack", lambda: self.said != said)
            error.add_note(self.said)
            raise


@contextmanager
def watching(krayne: Krayne, said: Path, *words: str) -> Iterator[Watching]:
    """Run it in the background."""
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", COMMAND, *words], env=krayne.env, stdout=out, stderr=out, cwd=krayne.home
        )
    try:
        yield Watching(process, said)
    finally:
        process.kill()
        process.wait()


def pod(plane: ControlPlane, namespace: str, role: str) -> dict[str, str]:
    """Name and uid of the first pod of a role, once there is one."""
    path = f"/api/v1/namespaces/{namespace}/pods?labelSelector=ray.io/node-type={role}"
    until(f"a {role}", lambda: bool(plane.api.get(path)["items"]))
    made = plane.api.get(path)["items"][0]["metadata"]
    return {"name": made["name"], "uid": made["uid"]}


def pulls(plane: ControlPlane, namespace: str, head: dict[str, str]) -> None:
    """The kubelet's event at the begin of a pull."""
    about = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, **head}
    event = {
        "metadata": {"name": f"{head['name']}.pull"},
        "involvedObject": about,
        "reason": "Pulling",
        "message": f'Pulling image "{IMAGE}"',
        "type": "Normal",
        "lastTimestamp": pods.now(),
    }
    plane.api.request("POST", f"/api/v1/namespaces/{namespace}/events", event)


def test_each_step_is_told_and_ctrl_c_ends_the_watching_alone(
    plane: ControlPlane, namespace: str, krayne: Krayne, tmp_path: Path
) -> None:
    plane.hold_new_pods(namespace, "head")
    options = ("-n", namespace, "--workers", "2", "--image", IMAGE, "--wait", "--timeout", "10m")
    with watching(krayne, tmp_path / "create", "create", "demo", *options) as create:
        create.tells("demo: pending")
        head = pod(plane, namespace, "head")
        pulls(plane, namespace, head)
        create.tells(f"head: pulling image {IMAGE}")
        plane.patch_pod_status(namespace, head["name"], pods.image_pull_backoff("ray-head", IMAGE))
        create.tells(f"head: image pull back-off: {IMAGE}")
        create.tells("workers 2/2")
        create.process.send_signal(signal.SIGINT)
        assert create.ended() == INTERRUPTED
        assert "stopped watching; demo goes on (krayne wait demo)" in create.said
        assert "Traceback" not in create.said
    assert live(plane, namespace, "demo") is not None

    with watching(krayne, tmp_path / "wait", "wait", "demo", "-n", namespace, "--timeout", "10m") as wait:
        wait.tells("image pull back-off")
        plane.release_pod(namespace, head["name"])
        assert wait.ended() == 0
        assert "demo is ready" in wait.said

    # A finalizer keeps it: what a delete waits for is told, and Ctrl-C takes nothing back.
    keep = {"metadata": {"finalizers": ["krayne.test/keep"]}}
    path = f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/demo"
    plane.api.merge(path, keep)
    try:
        with watching(krayne, tmp_path / "delete", "delete", "demo", "-n", namespace, "--yes", "--wait") as delete:
            delete.tells("demo: deleting")
            delete.process.send_signal(signal.SIGINT)
            assert delete.ended() == INTERRUPTED
            assert "stopped watching" in delete.said
    finally:
        plane.api.merge(path, {"metadata": {"finalizers": None}})
    krayne("wait", "demo", "-n", namespace, "--for=deleted", "--timeout", "100s")
    assert live(plane, namespace, "demo") is None
