"""The test control plane itself does what the other tests rely on."""

import functools
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import pods
from tests.controlplane.api import ApiError
from tests.controlplane.build import build
from tests.controlplane.plane import START_LIMIT, ControlPlane
from tests.controlplane.process import PlaneError, wait_until
from tests.controlplane.ray import CLIENT, follow, ray_python
from tests.controlplane.sample import LIMIT, Forward, head_of, namespace, ray_cluster

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]


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


def test_a_pod_can_linger_in_termination(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=ray_cluster("slow", 0))
    pod = head_of(plane, "default", "slow")
    plane.wait_pod("default", pod)
    plane.kubectl("annotate", "pod", pod, "krayne.test/linger=true")
    plane.kubectl("delete", "pod", pod, "--wait=false")
    plane.kubectl("wait", "pod", pod, "--for=jsonpath={.metadata.deletionTimestamp}", f"--timeout={LIMIT}s")
    assert [p["metadata"]["name"] for p in plane.pods("default", "slow")] == [pod]
    plane.kubectl("annotate", "pod", pod, "krayne.test/linger-")
    wait_until("new head", lambda: [pod] != [p["metadata"]["name"] for p in plane.pods("default", "slow")], LIMIT)
    plane.kubectl("delete", "raycluster", "slow")


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


def test_users_have_only_their_rights(plane: ControlPlane) -> None:
    rules = [{"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["list"]}]
    for auth in ("cert", "token"):
        config = plane.kubeconfig_for(f"bob-{auth}", rules=rules, namespace="default", auth=auth)
        told = functools.partial(plane.kubectl, "get", "rayclusters", kubeconfig=config, check=False)
        wait_until("a new role's rights", lambda told=told: "forbidden" not in told(), LIMIT)  # type: ignore[misc]
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
    # The operator's watch stays away longer after each outage.
    wait_until("head pod", lambda: bool(plane.pods("default", f"after-{how}")), START_LIMIT)
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


def test_a_deleted_head_pod_gives_a_new_ray(plane: ControlPlane) -> None:
    def job(pod: str) -> list[str]:
        with closing(Forward(plane, pod, CLIENT)) as forward:
            argv = [str(ray_python()), "-c", SCRIPT, f"ray://127.0.0.1:{forward.port}"]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
            return done.stdout.split()

    plane.kubectl("apply", "-f", "-", stdin=ray_cluster("rayed", 0))
    with follow(plane, "rayed") as ray:
        first = ray.wait()
        assert _environments_with(f"KRAYNE_TEST_RAY={plane.root}")
        before = job(first)
        plane.kubectl("delete", "pod", first)
        second = ray.wait(other_than=first)
        after = job(second)
    assert before[0] == after[0] == "30"
    assert before[1] != after[1]
    assert not _environments_with(f"KRAYNE_TEST_RAY={plane.root}")


def _processes_with(text: object, kind: str = "cmdline") -> list[str]:
    """Ids of processes with this text in their command line (or environ), our own left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                if str(text).encode() in (entry / kind).read_bytes():
                    found.append(entry.name)
            except OSError:  # it ended meanwhile, or is somebody else's
                continue
    return found


def _environments_with(text: str) -> list[str]:
    return _processes_with(text, "environ")


DAEMONIZE = """
import os, sys
from pathlib import Path
from tests.controlplane.process import Child
child = Child("tree", ["sh", "-c", "setsid sleep 1000 & setsid sleep 1000"], Path(sys.argv[1]) / "log", guarded=True)
print("started", flush=True)
sys.stdin.readline()
child.stop() if sys.argv[2] == "stop" else os._exit(1)
"""


@pytest.mark.parametrize("how", ["stop", "die"])
def test_a_guarded_tree_leaves_no_daemon(tmp_path: Path, how: str) -> None:
    build()
    env = {**os.environ, "KRAYNE_TEST_TREE": str(tmp_path)}
    argv = [sys.executable, "-c", DAEMONIZE, str(tmp_path), how]
    starter = subprocess.Popen(argv, cwd=REPOSITORY, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    assert starter.stdout.readline() == "started\n"
    tree = f"KRAYNE_TEST_TREE={tmp_path}"
    wait_until("daemons", lambda: len(_environments_with(tree)) >= 4, LIMIT)  # starter, guard, two sleepers
    starter.communicate("go\n", timeout=LIMIT)
    wait_until("end of the tree", lambda: not _environments_with(tree), LIMIT)


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
