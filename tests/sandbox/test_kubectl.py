"""The real kubectl against the sandbox's API, with a node of the tests: real sockets, real processes."""

import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.controlplane.build import binary
from tests.sandbox.running import LIMIT, Running
from tests.sandbox.things import pod, raycluster

pytestmark = pytest.mark.real


class Kubectl:
    """The program, pointed at a sandbox."""

    def __init__(self, api: Running) -> None:
        self.env = {
            "PATH": os.environ["PATH"], "HOME": str(api.home), "KUBECONFIG": str(api.served.kubeconfig),
            "KUBECACHEDIR": str(api.home / "kube-cache"),
        }  # fmt: skip

    def __call__(self, *args: str, stdin: object = None, code: int = 0) -> str:
        """Run to its end; what it prints."""
        done = subprocess.run(
            [binary("kubectl"), *args], env=self.env, input=json.dumps(stdin) if stdin else None, text=True,
            capture_output=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        assert done.returncode == code, done
        return done.stdout + (done.stderr if code else "")

    @contextmanager
    def running(self, *args: str, **env: str) -> Iterator[subprocess.Popen[str]]:
        """Run until left."""
        child = subprocess.Popen(
            [binary("kubectl"), *args], env={**self.env, **env}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.PIPE,
        )  # fmt: skip
        deadline = threading.Timer(LIMIT, child.kill)
        deadline.start()
        try:
            yield child
        finally:
            deadline.cancel()
            child.kill()
            child.communicate()


@pytest.fixture
def kubectl(api: Running) -> Kubectl:
    return Kubectl(api)


def line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    found = child.stdout.readline()
    assert found, child.communicate()
    return found


def listening(answer: Callable[[socket.socket], None]) -> int:
    """A listener of this machine that serves each connection on a thread."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                client = server.accept()[0]
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


def shouting(client: socket.socket) -> None:
    """Sends back all it got, in capitals, once the other side has ended."""
    with client:
        got = b""
        while data := client.recv(65536):
            got += data
        client.sendall(got.upper())


def test_apply_get_patch_describe_delete(kubectl: Kubectl) -> None:
    made = raycluster("demo")
    assert kubectl("apply", "--server-side", "-f", "-", stdin=made) == "raycluster.ray.io/demo serverside-applied\n"
    kubectl("patch", "raycluster/demo", "--subresource=status", "--type=merge", "-p", '{"status": {"state": "ready"}}')
    header, row = kubectl("get", "rayclusters").splitlines()
    assert header.split("  ")[0] == "NAME"
    assert re.sub(" +", " ", header).startswith("NAME DESIRED WORKERS AVAILABLE WORKERS CPUS MEMORY GPUS STATUS AGE")
    assert "ready" in row
    kubectl(
        "patch", "raycluster", "demo", "--type=json", "-p", '[{"op": "add", "path": "/spec/suspend", "value": true}]'
    )
    assert kubectl("get", "raycluster", "demo", "-o", "jsonpath={.spec.suspend} {.metadata.generation}") == "true 2"
    said = kubectl("describe", "raycluster", "demo")
    assert re.search(r"Kind:\s+RayCluster", said)
    bad = {**made, "spec": {**made["spec"], "unheardOf": 1}}
    assert "unheardOf" in kubectl("apply", "--server-side", "-f", "-", stdin=bad, code=1)
    taken = {**made, "spec": {"rayVersion": "other"}}
    conflict = kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=taken, code=1)
    assert 'conflict with "kubectl"' in conflict
    assert ".spec.rayVersion" in conflict
    kubectl("delete", "raycluster", "demo")
    assert "not found" in kubectl("get", "raycluster", "demo", code=1)


def test_client_side_apply_of_many_kinds(kubectl: Kubectl) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    assert "created" in kubectl("apply", "-f", "-", stdin=raycluster("demo"))
    for one in (config, service):
        assert "created" in kubectl("apply", "-f", "-", stdin=one)
        assert "unchanged" in kubectl("apply", "-f", "-", stdin=one)
    assert "configured" in kubectl("apply", "-f", "-", stdin={**config, "data": {"b": "2"}})
    assert kubectl("get", "cm", "c", "-o", "jsonpath={.data}") == '{"b":"2"}'
    assert "service/s" in kubectl("get", "all", "-o", "name")
    kubectl("label", "service", "s", "on=yes")
    assert kubectl("get", "services", "-l", "on in (yes)", "-o", "name") == "service/s\n"
    kubectl("create", "namespace", "other")
    kubectl("create", "secret", "generic", "hidden", "--from-literal=k=v", "-n", "other")
    assert kubectl("get", "secret", "hidden", "-n", "other", "-o", "jsonpath={.data} {.type}") == '{"k":"dg=="} Opaque'
    kubectl("create", "configmap", "shown", "--from-literal=k=v", "-n", "other")
    assert kubectl("get", "configmap", "shown", "-n", "other", "-o", "jsonpath={.data}") == '{"k":"v"}'
    kubectl("delete", "namespace", "other")


def test_get_w(api: Running, kubectl: Kubectl) -> None:
    with kubectl.running("get", "configmaps", "-w", "--output-watch-events") as child:
        kubectl("create", "configmap", "a")
        assert line(child).split() == ["EVENT", "NAME", "DATA", "AGE"]
        assert line(child).split()[:3] == ["ADDED", "a", "0"]
        api.send("DELETE", "/api/v1/namespaces/default/configmaps/a")
        assert line(child).split()[:2] == ["DELETED", "a"]


def test_pods(api: Running, kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin={"apiVersion": "v1", "kind": "Pod", **pod("p")})
    status = {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [
        {"name": "main", "ready": True, "restartCount": 2, "state": {"running": {}}}]}  # fmt: skip
    kubectl("patch", "pod", "p", "--subresource=status", "-p", json.dumps({"status": status}))
    assert kubectl("get", "pods", "-o", "wide").splitlines()[1].split()[:4] == ["p", "1/1", "Running", "2"]
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "type": "Warning", "reason": "BackOff",
             "message": "it does not start", "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default",
                                                                "uid": _uid(api, "p")}}  # fmt: skip
    kubectl("create", "-f", "-", stdin=event)
    said = kubectl("describe", "pod", "p")
    assert "it does not start" in said
    assert re.search(r"Node:\s+here/", said)
    assert "it does not start" in kubectl("get", "events")
    kubectl("delete", "pod", "p", "--force")


def _uid(api: Running, name: str) -> Any:
    return api.get(f"/api/v1/namespaces/default/pods/{name}")["metadata"]["uid"]


@pytest.mark.parametrize("websockets", ["true", "false"])
def test_port_forward(api: Running, kubectl: Kubectl, websockets: str) -> None:
    api.send("POST", "/api/v1/namespaces/default/pods", pod("p", status={"phase": "Running"}))
    api.send("PATCH", "/api/v1/namespaces/default/pods/p/status", {"status": {"phase": "Running"}},
             kind="application/merge-patch+json")  # fmt: skip
    api.node.ports[("p", 80)] = listening(shouting)
    with kubectl.running("port-forward", "pod/p", ":80", KUBECTL_PORT_FORWARD_WEBSOCKETS=websockets) as child:
        found = re.search(r"127\.0\.0\.1:(\d+) -> 80", line(child))
        assert found
        sent = os.urandom(300_000).hex().encode()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", int(found[1])), LIMIT) as link:
                link.sendall(sent)
                link.shutdown(socket.SHUT_WR)
                got = b""
                while data := link.recv(65536):
                    got += data
            assert got == sent.upper()


def test_a_refused_port_is_told(api: Running, kubectl: Kubectl) -> None:
    api.send("POST", "/api/v1/namespaces/default/pods", pod("p"))
    api.send("PATCH", "/api/v1/namespaces/default/pods/p/status", {"status": {"phase": "Running"}},
             kind="application/merge-patch+json")  # fmt: skip
    with kubectl.running("port-forward", "pod/p", ":81") as child:
        found = re.search(r"127\.0\.0\.1:(\d+) -> 81", line(child))
        assert found
        with socket.create_connection(("127.0.0.1", int(found[1])), LIMIT) as link:
            assert link.recv(1) == b""
        assert child.stderr is not None
        assert "connection refused" in child.stderr.readline()


def test_logs(api: Running, kubectl: Kubectl) -> None:
    api.send("POST", "/api/v1/namespaces/default/pods", pod("p"))
    api.node.lines += [b"one\n", b"two\n"]
    assert kubectl("logs", "p") == "one\ntwo\n"
    assert kubectl("logs", "p", "--tail=1") == "two\n"
    with kubectl.running("logs", "-f", "p") as child:
        assert [line(child), line(child)] == ["one\n", "two\n"]
        api.on_loop(lambda: api.node.say(b"three\n"))
        assert line(child) == "three\n"
        api.on_loop(api.node.end)
        assert child.wait(LIMIT) == 0


def test_exec(api: Running, kubectl: Kubectl) -> None:
    api.send("POST", "/api/v1/namespaces/default/pods", pod("p"))
    api.send("PATCH", "/api/v1/namespaces/default/pods/p/status", {"status": {"phase": "Running"}},
             kind="application/merge-patch+json")  # fmt: skip
    assert kubectl("exec", "p", "--", "echo", "hello") == "hello\n"
    assert "code 3" in kubectl("exec", "p", "--", "sh", "-c", "echo oh >&2; exit 3", code=3)
    with kubectl.running("exec", "-i", "p", "--", "tr", "a-z", "A-Z") as child:
        out, _ = child.communicate("shout", timeout=LIMIT)
        assert (out, child.returncode) == ("SHOUT", 0)
    # A client that leaves ends what it started.
    with kubectl.running("exec", "p", "--", "sh", "-c", "echo up; exec sleep 3600") as child:
        assert line(child) == "up\n"
        process = api.node.running[-1]._process
    ended = threading.Event()
    for _ in range(int(LIMIT * 10)):
        if process.returncode is not None:
            break
        ended.wait(0.1)
    assert process.returncode is not None
