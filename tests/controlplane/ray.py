"""A real `ray start --head` that plays the process inside a head pod.

Ray is installed once into an environment of its own in the cache. Each Ray has its own ports, worker port block
and temporary folder, and leaves no process behind. Invariant: a followed cluster's pod has at most one Ray.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.controlplane.api import ApiError, Watch
from tests.controlplane.build import BuildError, cache_dir, locked
from tests.controlplane.plane import ControlPlane
from tests.controlplane.process import SPAN, Child, PlaneError, Port, wait_until

RAY_VERSION = "2.60.0"
START_LIMIT = 120.0  # seconds until Ray's dashboard and client server answer
SILENCE = 30.0  # seconds after which a quiet watch is opened anew
RETRY = 0.1  # seconds between tries while the API server is away
OBJECT_STORE = 80_000_000  # bytes; Ray refuses less than 75 MiB
GCS, CLIENT, DASHBOARD = 6379, 10001, 8265  # the ports a head pod has


def ray_python() -> Path:
    """The Python of the Ray environment, installed when missing. Raises BuildError."""
    tag = f"ray-{RAY_VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    folder, python = cache_dir() / tag, cache_dir() / tag / "bin" / "python"
    done = folder / "installed"
    with locked("ray"):
        if not done.exists():
            _run([sys.executable, "-m", "venv", "--clear", str(folder)])
            print(f"installing ray {RAY_VERSION}", file=sys.stderr, flush=True)
            _run([str(python), "-m", "pip", "install", "-q", f"ray[client,default]=={RAY_VERSION}"])
            done.touch()
    return python


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, text=True, capture_output=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(argv)} failed:\n{done.stderr[-2000:]}")


class RealRay:
    """One Ray head. `ports` maps the pod's ports to those of this machine; `folder` is its temporary folder."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._held = {name: Port() for name in _FLAGS}
        self._workers = Port(block=True)
        self.ports = {pod_port: self._held[flag].number for flag, pod_port in _FLAGS.items() if pod_port}
        # Ray puts Unix sockets deep below this folder, and their path may have 107 bytes only.
        self.folder = Path(tempfile.mkdtemp(prefix="kr", dir="/tmp"))
        ray = ray_python().with_name("ray")
        self._child = Child(
            "ray", [str(ray), *self._arguments()], logs, env=_environment(logs.parents[1]), guarded=True
        )

    @classmethod
    def start(cls, logs: Path) -> Self:
        """Start Ray and return when its dashboard and its client server answer."""
        made = cls(logs)
        try:
            wait_until("ray", made.ready, START_LIMIT)
        except BaseException:
            made.stop()
            raise
        return made

    def ready(self) -> bool:
        """Whether it can be used. Raises PlaneError if it has ended."""
        self._child.check()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[DASHBOARD]}/api/version", timeout=2) as reply:
                json.load(reply)
            socket.create_connection(("127.0.0.1", self.ports[CLIENT]), timeout=2).close()
        except (OSError, ValueError):
            return False
        return True

    def serve(self, plane: ControlPlane, namespace: str, pod: str) -> None:
        """Put it behind a pod's ports."""
        for pod_port, port in self.ports.items():
            plane.node.map_port(namespace, pod, pod_port, port)

    def stop(self) -> None:
        """End all its processes and forget its files, except its logs."""
        self._child.stop()
        with suppress(shutil.Error, OSError):  # a Ray that never came up has none
            shutil.copytree(self.folder / "session_latest" / "logs", self._logs.with_suffix(".d"), dirs_exist_ok=True)
        for port in (*self._held.values(), self._workers):
            port.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _arguments(self) -> list[str]:
        workers = self._workers.number
        return [
            "start",
            "--head",
            "--block",
            "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1",
            f"--temp-dir={self.folder}",
            f"--min-worker-port={workers}",
            f"--max-worker-port={workers + SPAN - 1}",
            "--num-cpus=2",
            f"--object-store-memory={OBJECT_STORE}",
            "--disable-usage-stats",
            *(f"--{flag}={port.number}" for flag, port in self._held.items()),
        ]


_FLAGS = {
    "port": GCS,
    "ray-client-server-port": CLIENT,
    "dashboard-port": DASHBOARD,
    "dashboard-agent-listen-port": 0,
    "dashboard-agent-grpc-port": 0,
    "metrics-export-port": 0,
    "runtime-env-agent-port": 0,
    "node-manager-port": 0,
    "object-manager-port": 0,
}


def _environment(plane: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Ray's client server forks while its gRPC threads run; with gRPC's fork handlers on, about one child in
    # eight died before its first line, on a busy machine.
    ours = {"GRPC_ENABLE_FORK_SUPPORT": "0", "RAY_USAGE_STATS_ENABLED": "0", "KRAYNE_TEST_RAY": str(plane)}
    return {**kept, **ours}


class Follower:
    """Keeps a real Ray behind the newest running head pod of one cluster, by a watch; use it as a context."""

    def __init__(self, plane: ControlPlane, cluster: str, namespace: str = "default") -> None:
        self._plane, self._cluster, self._namespace = plane, cluster, namespace
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._selector = f"ray.io/cluster={cluster},ray.io/node-type=head"
        self._pod = ""
        self._ray: RealRay | None = None
        self._watch: Watch | None = None
        self._changed = threading.Condition()
        self._serving = ""
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"ray-of-{cluster}")

    def __enter__(self) -> Self:
        ray_python()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self, *, other_than: str = "", limit: float = START_LIMIT) -> str:
        """Wait until Ray answers behind a head pod (other than the one named); returns that pod's name."""

        def served() -> bool:
            return self._failure is not None or self._serving not in {"", other_than}

        with self._changed:
            if not self._changed.wait_for(served, limit):
                raise PlaneError(f"no Ray behind a head pod of {self._cluster} within {limit:g} s")
            if self._failure is not None:
                raise PlaneError(f"Ray behind {self._cluster} failed") from self._failure
            return self._serving

    def stop(self) -> None:
        """End the watch and the Ray."""
        self._stopping.set()
        if self._watch is not None:
            self._watch.close()
        self._thread.join()
        self._end_ray()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                with suppress(OSError, ApiError, ValueError):  # the API server is away, or ended the watch
                    self._follow_once()
                self._stopping.wait(RETRY)
        except BaseException as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _follow_once(self) -> None:
        """One watch from the present on: the server starts it with an ADDED event for every pod there is."""
        self._watch = self._plane.api.watch(self._path, limit=SILENCE, labelSelector=self._selector)
        if self._stopping.is_set():
            self._watch.close()
        for event in self._watch:
            self._seen(event["type"], event["object"])

    def _seen(self, kind: str, pod: dict[str, Any]) -> None:
        uid = f"{pod['metadata'].get('name')}/{pod['metadata'].get('uid')}"
        finished = pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}
        if kind == "DELETED" or finished:
            if uid == self._pod:
                self._end_ray()
        elif kind in {"ADDED", "MODIFIED"} and self._runs(pod) and uid != self._pod:
            self._end_ray()
            self._begin_ray(uid)

    @staticmethod
    def _runs(pod: dict[str, Any]) -> bool:
        return pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]

    def _begin_ray(self, uid: str) -> None:
        self._pod, name = uid, uid.partition("/")[0]
        self._ray = RealRay.start(self._plane.root / "logs" / f"ray-{name}.log")
        self._ray.serve(self._plane, self._namespace, name)
        with self._changed:
            self._serving = name
            self._changed.notify_all()

    def _end_ray(self) -> None:
        with self._changed:
            self._pod = self._serving = ""
        if self._ray is not None:
            self._ray.stop()
            self._ray = None


def follow(plane: ControlPlane, cluster: str, namespace: str = "default") -> Follower:
    """A Follower of one cluster: `with follow(plane, "demo") as ray: ray.wait()`."""
    return Follower(plane, cluster, namespace)
