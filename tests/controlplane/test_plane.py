"""The test control plane itself does what the other tests rely on."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import pods
from tests.controlplane.api import ApiError
from tests.controlplane.build import binary, build
from tests.controlplane.plane import ControlPlane
from tests.controlplane.process import PlaneError, wait_until
from tests.controlplane.ray import CLIENT, follow, ray_python

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]
LIMIT = 20.0  # seconds until something that must happen has happened
PORT = 9000
TRANSPORTS = {"websocket": "true", "spdy": "false"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    build()
    running = ControlPlane.start(tmp_path_factory.mktemp("plane"))
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def fresh_node(plane: ControlPlane) -> None:
    plane.node.reset()


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


@pytest.fixture(scope="module")
def head(plane: ControlPlane) -> str:
    plane.kubectl("apply", "-f", "-", stdin=ray_cluster("demo"))
    name = head_of(plane, "default", "demo")
    plane.wait_pod("default", name)
    return name


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


@pytest.fixture
def server(plane: ControlPlane, head: str) -> Iterator[Listener]:
    with closing(Listener()) as listener:
        plane.node.map_port("default", head, PORT, listener.port)
        yield listener


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


def test_versions_are_the_pinned_ones(plane: ControlPlane) -> None:
    said = json.loads(plane.kubectl("version", "-o", "json"))
    assert said["clientVersion"]["gitVersion"] == said["serverVersion"]["gitVersion"] == "v1.36.3"


def test_a_ray_cluster_becomes_ready(plane: ControlPlane, head: str) -> None:
    plane.kubectl("wait", "raycluster/demo", "--for=jsonpath={.status.state}=ready", f"--timeout={LIMIT}s")
    cluster = plane.api.get("/apis/ray.io/v1/namespaces/default/rayclusters/demo")
    assert cluster["status"]["head"]["podName"] == head
    assert cluster["status"]["availableWorkerReplicas"] == 1
    events = plane.audit()
    writers = {
        (e["user"]["username"], e["verb"]) for e in events if e.get("objectRef", {}).get("resource") == "rayclusters"
    }
    assert {("admin", "create"), ("kuberay-operator", "update")} <= writers


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_bytes_pass_both_ways(plane: ControlPlane, head: str, server: Listener, transport: str) -> None:
    before = plane.node.counters("default", head)
    with closing(Forward(plane, head, transport=transport)) as forward, forward.connect() as client:
        blob = os.urandom(300_000)
        sender = threading.Thread(target=client.sendall, args=(blob,))
        sender.start()
        with server.accept() as pod:
            assert read_exactly(pod, len(blob)) == blob
            sender.join()
            pod.sendall(b"pong")
            assert read_exactly(client, 4) == b"pong"
    after = plane.node.counters("default", head)
    assert after.tunnels_total == before.tunnels_total + 1
    assert after.bytes_up >= before.bytes_up + len(blob)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_half_close_mode_passes_the_end_of_each_direction(
    plane: ControlPlane, head: str, server: Listener, transport: str
) -> None:
    plane.node.set_mode("half-close")
    with closing(Forward(plane, head, transport=transport)) as forward, forward.connect() as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        with server.accept() as pod:
            assert read_all(pod) == b"question"
            pod.sendall(b"answer")
        assert read_all(client) == b"answer"


def test_containerd_mode_loses_the_answer_after_a_half_close(plane: ControlPlane, head: str, server: Listener) -> None:
    with closing(Forward(plane, head)) as forward, forward.connect() as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        with server.accept() as pod:
            assert read_all(pod) == b"question"  # only the close after one second ends it
            assert read_all(client) == b""


def test_containerd_mode_passes_an_answer_within_the_second(plane: ControlPlane, head: str, server: Listener) -> None:
    with closing(Forward(plane, head)) as forward, forward.connect() as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        with server.accept() as pod:
            assert read_exactly(pod, 8) == b"question"
            pod.sendall(b"answer")
            assert read_all(client) == b"answer"


def test_an_unmapped_port_is_refused_in_containerds_words(plane: ControlPlane, head: str) -> None:
    with closing(Forward(plane, head, 7777)) as forward, forward.connect():
        said = forward.last_words()
    assert "failed to connect to localhost:7777 inside namespace" in said
    assert "dial tcp4 127.0.0.1:7777: connect: connection refused" in said


def test_refusing_and_opening_again(plane: ControlPlane, head: str, server: Listener) -> None:
    plane.node.fault("default", head, PORT, refuse=True)
    with closing(Forward(plane, head)) as forward, forward.connect():
        assert "connection refused" in forward.last_words()
    plane.node.clear("default", head, PORT)
    with closing(Forward(plane, head)) as forward, forward.connect() as client, server.accept() as pod:
        client.sendall(b"x")
        assert read_exactly(pod, 1) == b"x"


def test_gone_pod(plane: ControlPlane, head: str, server: Listener) -> None:
    plane.node.fault("default", head, gone=True)
    with closing(Forward(plane, head)) as forward, forward.connect():
        assert "failed to find sandbox" in forward.last_words()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_cut_ends_the_tunnel(plane: ControlPlane, head: str, server: Listener, transport: str) -> None:
    with closing(Forward(plane, head, transport=transport)) as forward, forward.connect() as client:
        with server.accept() as pod:
            client.sendall(b"x")
            assert read_exactly(pod, 1) == b"x"
            assert plane.node.cut("default", "no-such-*") == 0
            assert plane.node.cut("default", head, reset=True) == 1
            assert "lost connection to pod" in forward.last_words()


def test_stall_holds_bytes_until_cleared(plane: ControlPlane, head: str, server: Listener) -> None:
    with closing(Forward(plane, head)) as forward, forward.connect() as client, server.accept() as pod:
        plane.node.fault("default", head, PORT, stall_up=True)
        before = plane.node.counters("default", head).bytes_up
        client.sendall(b"held")
        pod.sendall(b"down")
        assert read_exactly(client, 4) == b"down"  # the other direction goes on
        pod.settimeout(0.3)
        with pytest.raises(TimeoutError):
            pod.recv(1)
        assert plane.node.counters("default", head).bytes_up == before
        plane.node.clear("default", head, PORT)
        pod.settimeout(LIMIT)
        assert read_exactly(pod, 4) == b"held"


def test_freeze_keeps_connections_and_bytes(plane: ControlPlane, head: str, server: Listener) -> None:
    with closing(Forward(plane, head)) as forward, forward.connect() as client, server.accept() as pod:
        plane.node.freeze("default", head)
        client.sendall(b"ice")
        pod.settimeout(0.3)
        with pytest.raises(TimeoutError):
            read_exactly(pod, 3)
        plane.node.thaw()
        pod.settimeout(LIMIT)
        assert read_exactly(pod, 3)[-1:] == b"e"


def test_a_node_that_is_down_and_up_again(plane: ControlPlane, head: str, server: Listener) -> None:
    name = plane.api.get(f"/api/v1/namespaces/default/pods/{head}")["spec"]["nodeName"]
    with closing(Forward(plane, head)) as forward:
        plane.node.set_up(name, up=False)
        assert "lost connection to pod" in forward.last_words()
    plane.node.set_up(name, up=True)
    with closing(Forward(plane, head)) as forward, forward.connect() as client, server.accept() as pod:
        client.sendall(b"x")
        assert read_exactly(pod, 1) == b"x"


def test_a_deleted_pod_ends_its_streams_and_has_no_sandbox(plane: ControlPlane, server: Listener) -> None:
    pod_spec = {"containers": [{"name": "main", "image": "none"}]}
    plane.api.create(
        "/api/v1/namespaces/default/pods", {"metadata": {"name": "short"}, "spec": pod_spec, "apiVersion": "v1"}
    )
    plane.wait_pod("default", "short")
    plane.node.map_port("default", "short", PORT, server.port)
    with closing(Forward(plane, "short")) as forward, forward.connect() as client, server.accept() as pod:
        client.sendall(b"x")
        assert read_exactly(pod, 1) == b"x"
        plane.kubectl("delete", "pod", "short")
        assert read_all(client) == b""
        with forward.connect():
            assert "failed to find sandbox" in forward.last_words()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (pods.image_pull_backoff("ray-head"), "ImagePullBackOff"),
        (pods.config_error("ray-head"), "CreateContainerConfigError"),
        (pods.crash_loop("ray-head"), "CrashLoopBackOff"),
        (pods.hook_error("ray-head"), "PostStartHookError"),
        (pods.unhealthy("ray-head"), "ContainersNotReady"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_patched_statuses_stick_and_reach_the_operator(
    plane: ControlPlane, status: dict[str, Any], reason: str
) -> None:
    cluster = f"c-{reason.lower()}"
    plane.kubectl("apply", "-f", "-", stdin=ray_cluster(cluster, 0))
    pod = head_of(plane, "default", cluster)
    plane.wait_pod("default", pod)
    plane.patch_pod_status("default", pod, status)
    path = '{.status.conditions[?(@.type=="HeadPodReady")].reason}'
    plane.kubectl("wait", f"raycluster/{cluster}", f"--for=jsonpath={path}={reason}", f"--timeout={LIMIT}s")
    plane.release_pod("default", pod)
    plane.wait_pod("default", pod)
    plane.kubectl("delete", "raycluster", cluster)


@pytest.mark.parametrize("status", [pods.evicted(), pods.oom_killed("ray-head")], ids=["evicted", "oom"])
def test_a_failed_head_is_replaced(plane: ControlPlane, status: dict[str, Any]) -> None:
    plane.kubectl("apply", "-f", "-", stdin=ray_cluster("failing", 0))
    first = head_of(plane, "default", "failing")
    plane.wait_pod("default", first)
    plane.patch_pod_status("default", first, status)
    wait_until("new head", lambda: {first} != {p["metadata"]["name"] for p in plane.pods("default", "failing")}, LIMIT)
    plane.kubectl("delete", "raycluster", "failing")


def test_new_pods_can_be_held(plane: ControlPlane) -> None:
    with namespace(plane, "holding") as space:
        plane.hold_new_pods(space, "head")
        plane.kubectl("apply", "-n", space, "-f", "-", stdin=ray_cluster("held"))
        pod = head_of(plane, space, "held")
        wait_until("worker", lambda: bool(plane.pods(space, "held", "worker")), LIMIT)
        plane.wait_pod(space, plane.pods(space, "held", "worker")[0]["metadata"]["name"])
        assert plane.pods(space, "held")[0]["status"]["phase"] == "Pending"
        plane.release_pod(space, pod)
        plane.wait_pod(space, pod)


def test_a_node_can_report_not_ready(plane: ControlPlane) -> None:
    plane.set_node_ready("node-2", ready=False)
    plane.kubectl("wait", "node/node-2", "--for=condition=Ready=false", f"--timeout={LIMIT}s")
    plane.set_node_ready("node-2", ready=True)
    plane.kubectl("wait", "node/node-2", "--for=condition=Ready", f"--timeout={LIMIT}s")


def test_exec_runs_a_real_process(plane: ControlPlane, head: str, tmp_path: Path) -> None:
    plane.node.allow_exec("default", head, root=tmp_path, env={"WHO": "pod"})
    said = plane.kubectl("exec", "-i", head, "-c", "ray-head", "--", "sh", "-c", "echo $WHO $PWD; cat", stdin="in")
    assert said == f"pod {tmp_path}\nin"
    assert "exit code 7" in plane.kubectl("exec", head, "-c", "ray-head", "--", "sh", "-c", "exit 7", check=False)


def test_logs_are_served_and_followed(plane: ControlPlane, head: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\ntwo\n")
    plane.node.serve_log("default", head, log)
    assert plane.kubectl("logs", head, "--tail=1") == "two\n"
    argv = [str(binary("kubectl")), "logs", "-f", head]
    child = subprocess.Popen(argv, env=plane.environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert [child.stdout.readline(), child.stdout.readline()] == ["one\n", "two\n"]
        with log.open("a") as more:
            more.write("three\n")
        assert child.stdout.readline() == "three\n"
    finally:
        child.kill()
        child.communicate()


def test_users_have_only_their_rights(plane: ControlPlane) -> None:
    rules = [{"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["list"]}]
    for auth in ("cert", "token"):
        config = plane.kubeconfig_for(f"bob-{auth}", rules=rules, namespace="default", auth=auth)
        plane.kubectl("get", "rayclusters", kubeconfig=config)
        with pytest.raises(PlaneError, match="forbidden"):
            plane.kubectl("get", "pods", kubeconfig=config)
        with pytest.raises(PlaneError, match="forbidden"):
            plane.kubectl("get", "rayclusters", "-n", "kube-system", kubeconfig=config)


def test_a_revoked_token_is_refused(plane: ControlPlane) -> None:
    token = plane.token("carol", groups=["system:masters"])

    def get() -> str:
        return plane.kubectl("get", "nodes", f"--token={token}", kubeconfig=_anonymous(plane), check=False)

    assert "node-0" in get()
    plane.node.revoke_token(token)
    wait_until("401", lambda: "must be logged in" in get(), LIMIT)


def _anonymous(plane: ControlPlane) -> Path:
    whole = json.loads(plane.kubeconfig.read_text())
    whole["users"] = [{"name": "user", "user": {}}]
    path = plane.root / "anonymous.kubeconfig"
    path.write_text(json.dumps(whole))
    return path


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_api_server_restart_keeps_the_data(plane: ControlPlane, head: str, how: str) -> None:
    uid = plane.api.get(f"/api/v1/namespaces/default/pods/{head}")["metadata"]["uid"]
    plane.stop_apiserver() if how == "stop" else plane.kill_apiserver()
    with pytest.raises(OSError, match="refused"):
        plane.api.get("/api/v1/nodes")
    plane.start_apiserver()
    assert plane.api.get(f"/api/v1/namespaces/default/pods/{head}")["metadata"]["uid"] == uid
    plane.kubectl("apply", "-f", "-", stdin=ray_cluster(f"after-{how}", 0))
    plane.wait_pod("default", head_of(plane, "default", f"after-{how}"))
    plane.kubectl("delete", "raycluster", f"after-{how}")


def test_a_paused_api_server_answers_again(plane: ControlPlane) -> None:
    plane.pause_apiserver()
    try:
        with pytest.raises(TimeoutError):
            plane.api.request("GET", "/readyz", limit=0.3)
    finally:
        plane.resume_apiserver()
    assert plane.api.request("GET", "/readyz") == "ok"


def test_the_older_operator_serves_too(plane: ControlPlane) -> None:
    plane.stop_operator()
    plane.start_operator("1.5.1")
    try:
        plane.kubectl("apply", "-f", "-", stdin=ray_cluster("old", 0))
        plane.wait_pod("default", head_of(plane, "default", "old"))
        plane.kubectl("delete", "raycluster", "old")
    finally:
        plane.stop_operator()
        plane.start_operator("1.6.2")


SCRIPT = """
import ray, sys
ray.init(sys.argv[1])
@ray.remote
def square(x):
    return x * x
print(sum(ray.get([square.remote(i) for i in range(5)])), ray.get_runtime_context().get_node_id())
"""


def test_a_deleted_head_pod_gives_a_new_ray(plane: ControlPlane, head: str) -> None:
    def job(pod: str) -> list[str]:
        with closing(Forward(plane, pod, CLIENT)) as forward:
            argv = [str(ray_python()), "-c", SCRIPT, f"ray://127.0.0.1:{forward.port}"]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
            return done.stdout.split()

    with follow(plane, "demo") as ray:
        first = ray.wait()
        before = job(first)
        plane.kubectl("delete", "pod", first)
        second = ray.wait(other_than=first)
        after = job(second)
    assert before[0] == after[0] == "30"
    assert before[1] != after[1]
    assert not _processes_with("--temp-dir=/tmp/kr", plane.root)


def _processes_with(*texts: object) -> list[str]:
    """Command lines that hold all these texts, our own left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if line and all(str(text) in line for text in texts):
                found.append(line)
    return found


def test_nothing_is_left_after_stop_and_two_planes_live_side_by_side(plane: ControlPlane, tmp_path: Path) -> None:
    second = ControlPlane.start(tmp_path, nodes=1)
    try:
        assert second.server != plane.server
        assert _processes_with(tmp_path)
        with pytest.raises(ApiError):
            second.api.get("/apis/ray.io/v1/namespaces/default/rayclusters/demo")
    finally:
        second.stop()
    assert not _processes_with(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_starter_dies(tmp_path: Path, number: signal.Signals) -> None:
    argv = [sys.executable, "-m", "tests.controlplane", "up", f"--root={tmp_path}", "--nodes=1"]
    starter = subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    assert starter.stdout.readline().startswith("export KUBECONFIG=")
    starter.send_signal(number)
    starter.communicate(timeout=LIMIT)
    wait_until("end of all children", lambda: not _processes_with(tmp_path), LIMIT)
