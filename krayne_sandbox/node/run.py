"""One pod on this machine: its folder, its process, where its ports are. Its record outlives the sandbox's process."""

import json
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import anyio

from krayne_sandbox.core.meta import Json, metadata, name_of, namespace_of
from krayne_sandbox.core.rayplan import HEAD, labels_of
from krayne_sandbox.node import ray
from krayne_sandbox.node.processes import HOME_MARK, POD_MARK, Process, is_alive, look, start

LOG: Final = logging.getLogger(__name__)
MOST_SERVED: Final = 200  # processes at once for the connections of one pod


class Run:
    """A pod's life here. `going`: its deletion is wanted. `over`: nothing of it runs any more."""

    def __init__(self, pod: Json, home: Path) -> None:
        self.pod = pod
        self.uid = str(metadata(pod)["uid"])
        self.namespace, self.name = namespace_of(pod), name_of(pod)
        self.cluster = str(labels_of(pod).get("ray.io/cluster") or "")
        self.is_head = labels_of(pod).get("ray.io/node-type") == HEAD
        self.container: Json = ((pod.get("spec") or {}).get("containers") or [{}])[0]
        self.home, self.folder = home, home / "pods" / self.uid
        self.process: Process | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.others: list[subprocess.Popen[bytes]] = []  # of the services, to be buried
        self.ports: dict[int, int] = {}
        self.sockets: dict[int, str] = {}
        self.programs: dict[int, list[str]] = {}  # port -> what is started for each connection to it
        self.served: set[subprocess.Popen[bytes]] = set()  # those of the moment
        self.reports: dict[str, dict[str, Any]] = {}
        self.short = ""  # Ray puts Unix sockets deep below it, and their path may have 107 bytes only
        self.joined = ""  # the uid of the head a worker belongs to
        self.autoscaler: Process | None = None
        self.ready = False
        self.over = False
        self.going = anyio.Event()

    @property
    def log(self) -> Path:
        """What its process says."""
        return self.folder / "log"

    @property
    def mark(self) -> str:
        """In the environment of all its processes."""
        return f"{POD_MARK}={self.uid}"

    def env(self) -> dict[str, str]:
        """The environment of all its processes."""
        made = ray.environment(self.container, {HOME_MARK: str(self.home), POD_MARK: self.uid})
        # By these Ray's autoscaler knows a node of Ray's as a pod.
        made |= {"RAY_CLOUD_INSTANCE_ID": self.name, "RAY_NODE_TYPE_NAME": str(labels_of(self.pod).get("ray.io/group"))}
        if ray.GCS in self.ports:
            made["RAY_ADDRESS"] = f"127.0.0.1:{self.ports[ray.GCS]}"
        return made

    def begin(self, gcs: int) -> None:
        """Start its Ray; a worker joins the head whose GCS is at that port. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.short = tempfile.mkdtemp(prefix="kr", dir="/tmp")  # made 0700
        if self.is_head:
            argv, self.ports = ray.head_command(self.container, self.short)
        else:
            argv = ray.worker_command(self.container, gcs, self.short)
        env = {name: one for name, one in self.env().items() if name != "RAY_ADDRESS"}
        self.child = start(argv, env, self.folder, self.log)
        seen = look(self.child.pid)
        self.process = Process(self.child.pid, seen.start if seen else 0)
        self._record()

    def save(self) -> None:
        """Write down what has changed since. A disk that takes nothing costs a later process some of it."""
        try:
            self._record()
        except OSError as error:
            LOG.warning("pod %s: %s", self.name, error)

    def _record(self) -> None:
        """Write down what a later process must know. Raises OSError."""
        assert self.process is not None
        told: dict[str, Any] = {
            "process": self.process,
            "ports": self.ports,
            "sockets": self.sockets,
            "short": self.short,
        }
        told |= {"joined": self.joined, "reports": self.reports, "programs": self.programs}
        told["autoscaler"] = self.autoscaler
        new = self.folder / "run.json.new"
        new.write_text(json.dumps(told), encoding="utf-8")
        os.replace(new, self.folder / "run.json")

    def recall(self) -> bool:
        """Whether an earlier process of the sandbox started it; its record is taken up."""
        try:
            told = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            self.process = Process(*told["process"])
            self.ports = {int(pod_port): int(port) for pod_port, port in told["ports"].items()}
            self.sockets = {int(pod_port): str(path) for pod_port, path in told["sockets"].items()}
            self.autoscaler = Process(*told["autoscaler"]) if told.get("autoscaler") else None
            self.programs = {int(pod_port): list(argv) for pod_port, argv in told.get("programs", {}).items()}
            self.short, self.joined, self.reports = str(told["short"]), str(told["joined"]), dict(told["reports"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def is_alive(self) -> bool:
        """Whether its first process runs."""
        return self.process is not None and is_alive(self.process)

    def forget(self) -> None:
        """Its files go."""
        if self.short:
            shutil.rmtree(self.short, ignore_errors=True)
        if self.going.is_set():
            shutil.rmtree(self.folder, ignore_errors=True)

    def report(self, service: str, state: str, reason: str = "", *, host_key: str = "", user: str = "") -> None:
        """How a service beside Ray fares, as a head pod of ours tells it."""
        told = {"state": state, "reason": reason, "since": time.time(), "log": [], "host_key": host_key, "user": user}
        self.reports[service] = told

    def serve(self, pod_port: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        """Start what serves one connection to that port; our end, and the process. Raises OSError."""
        if len(self.served) >= MOST_SERVED:
            raise ConnectionRefusedError(f"{MOST_SERVED} connections to port {pod_port} are open")
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                child = start(
                    self.programs[pod_port], self.env(), self.folder, self.folder / "ssh.log", theirs.fileno()
                )
            except BaseException:
                ours.close()
                raise
        self.served.add(child)
        ours.setblocking(False)
        return ours, child
