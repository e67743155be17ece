"""Where everything is measured: a real control plane, one Ray cluster, an application behind its head's ports.

And those who hold forwards to it: kubectl, the whole of krayne, or krayne's forwards alone in a process.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import measure
from tests.cluster.conftest import Krayne, make_krayne
from tests.controlplane.build import binary
from tests.controlplane.plane import ControlPlane

PORTS = {"echo": 7001, "sink": 7002, "source": 7003}
CLUSTER = "bench"
TREE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Holder:
    """Somebody's forwards to the same application, and the process that holds them."""

    name: str
    pid: int
    echo: int
    sink: int
    source: int

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        return measure.cpu_seconds(self.pid)


@dataclass(frozen=True)
class Lab:
    """All of it. `targets` are the application's own ports."""

    plane: ControlPlane
    krayne: Krayne
    targets: list[int]

    @property
    def pod(self) -> str:
        """The head pod now."""
        return str(self.plane.pods("default", CLUSTER)[-1]["metadata"]["name"])

    @property
    def uid(self) -> str:
        """Its uid."""
        return str(self.plane.pods("default", CLUSTER)[-1]["metadata"]["uid"])


@contextmanager
def lab() -> Iterator[Lab]:
    """Start it, and end all of it."""
    with ExitStack() as undo:
        root = Path(tempfile.mkdtemp(prefix="krp-"))
        undo.callback(shutil.rmtree, root, ignore_errors=True)
        plane = ControlPlane.start(root)
        undo.callback(plane.stop)
        krayne = make_krayne(plane.kubeconfig)
        undo.callback(shutil.rmtree, krayne.home, ignore_errors=True)
        undo.callback(krayne, "daemon", "stop", code=None)
        targets = undo.enter_context(application())
        krayne("create", CLUSTER)
        krayne("wait", CLUSTER, "--timeout", "120s")
        for port, target in zip(PORTS.values(), targets, strict=True):
            plane.node.map_port("default", f"{CLUSTER}-head-*", port, target)
        yield Lab(plane, krayne, targets)


@contextmanager
def application() -> Iterator[list[int]]:
    """The load process; its ports."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TREE
    ) as child:
        assert child.stdout is not None
        yield [int(word) for word in child.stdout.readline().split()]
        assert child.stdin is not None
        child.stdin.close()


@contextmanager
def kubectl_forward(lab: Lab, kubeconfig: Path | None = None) -> Iterator[Holder]:
    """`kubectl port-forward` with its default transport."""
    argv = [str(binary("kubectl")), "port-forward", f"pod/{lab.pod}", *(f":{port}" for port in PORTS.values())]
    env = lab.plane.environment(kubeconfig)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=quiet, text=True) as child:
        assert child.stdout is not None
        found: dict[int, int] = {}
        while len(found) < len(PORTS):
            line = child.stdout.readline()
            if not line:
                raise RuntimeError("kubectl port-forward ended")
            words = line.split()
            if len(words) == 5 and words[2].startswith("127.0.0.1:"):
                found[int(words[4])] = int(words[2].rpartition(":")[2])
        try:
            yield Holder("kubectl", child.pid, *(found[port] for port in PORTS.values()))
        finally:
            child.terminate()


def krayne_forward(krayne: Krayne) -> Holder:
    """Ours, to the same ports."""
    krayne("tun-open", CLUSTER, *(str(port) for port in PORTS.values()))
    services = {one["remote_port"]: one["local_port"] for one in krayne.cluster(CLUSTER)["services"]}
    pid = krayne("status", "-o", "json").json()["pid"]
    return Holder("krayne", pid, *(services[port] for port in PORTS.values()))


@contextmanager
def bare_forward(lab: Lab, *options: str, kubeconfig: Path | None = None) -> Iterator[Holder]:
    """Krayne's forwards to the cluster's head without the rest of the daemon."""
    access = kubeconfig or lab.plane.kubeconfig
    with forwards_alone(access, "default", lab.pod, lab.uid, list(PORTS.values()), *options) as (pid, ports):
        yield Holder("krayne", pid, *ports)


@contextmanager
def forwards_alone(
    kubeconfig: Path, namespace: str, pod: str, uid: str, ports: list[int], *options: str
) -> Iterator[tuple[int, list[int]]]:
    """Forwards to these ports of a pod in a process of their own (see `holder`): its id, and the local ports."""
    argv = [sys.executable, "-m", "tests.bench.holder", *options, namespace, pod, uid, *(str(port) for port in ports)]
    env = {**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(TREE)}
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        try:
            yield child.pid, [int(word) for word in child.stdout.readline().split()]
        finally:
            child.stdin.close()
