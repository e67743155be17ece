"""Parts the plane's own tests share: a small RayCluster, a server in a pod, a `kubectl port-forward`."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.controlplane.build import binary
from tests.controlplane.plane import ControlPlane
from tests.controlplane.process import wait_until

LIMIT = 20.0  # seconds until something that must happen has happened
PORT = 9000
TRANSPORTS = {"websocket": "true", "spdy": "false"}


def ray_cluster(name: str, workers: int = 1) -> str:
    def template(container: str) -> dict[str, Any]:
        return {"spec": {"containers": [{"name": container, "image": "rayproject/ray:2.60.0"}]}}

    group = {"groupName": "cpu", "replicas": workers, "minReplicas": 0, "maxReplicas": 3, "rayStartParams": {}}
    head = {"rayStartParams": {}, "template": template("ray-head")}
    spec = {"headGroupSpec": head, "workerGroupSpecs": [{**group, "template": template("ray-worker")}]}
    return json.dumps({"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": name}, "spec": spec})


@contextmanager
def namespace(plane: ControlPlane, name: str) -> Iterator[str]:
    plane.kubectl("create", "namespace", name)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")


def head_of(plane: ControlPlane, space: str, cluster: str) -> str:
    wait_until("head pod", lambda: bool(plane.pods(space, cluster)), LIMIT)
    return str(plane.pods(space, cluster)[-1]["metadata"]["name"])


class Listener:
    """A local server that stands for the process in the pod; `accept` gives its side of a connection."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(LIMIT)
        self.port: int = self._server.getsockname()[1]

    def accept(self) -> socket.socket:
        side, _ = self._server.accept()
        side.settimeout(LIMIT)
        return side

    def close(self) -> None:
        self._server.close()


class Forward:
    """A `kubectl port-forward` of one pod port."""

    def __init__(self, plane: ControlPlane, pod: str, port: int = PORT, transport: str = "spdy") -> None:
        env = {**plane.environment(), "KUBECTL_PORT_FORWARD_WEBSOCKETS": TRANSPORTS[transport]}
        argv = [str(binary("kubectl")), "port-forward", "--address=127.0.0.1", f"pod/{pod}", f":{port}"]
        self._child = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, self._child.communicate()[1]
        self.port = int(line.split("127.0.0.1:")[1].split()[0])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)

    def last_words(self) -> str:
        """What it says on its own end."""
        return self._child.communicate(timeout=LIMIT)[1]

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()


def read_all(side: socket.socket) -> bytes:
    data = b""
    while piece := side.recv(65536):
        data += piece
    return data


def read_exactly(side: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := side.recv(size - len(data))):
        data += piece
    return data
