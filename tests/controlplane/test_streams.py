"""What the node streams: forwards in both copy modes, faults, exec and logs, seen through the built kubectl."""

import os
import socket
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.controlplane import pods
from tests.controlplane.build import binary
from tests.controlplane.plane import ControlPlane
from tests.controlplane.sample import LIMIT, PORT, TRANSPORTS, Forward, Listener, read_all, read_exactly

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


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


def test_a_restarted_container_drops_its_connections_and_the_tunnel_lives(
    plane: ControlPlane, head: str, server: Listener
) -> None:
    with closing(Forward(plane, head)) as forward:
        with forward.connect() as client, server.accept() as pod:
            client.sendall(b"x")
            assert read_exactly(pod, 1) == b"x"
            plane.patch_pod_status("default", head, pods.restarted("ray-head"))
            assert read_all(client) == b""
        with forward.connect() as client, server.accept() as pod:
            client.sendall(b"y")
            assert read_exactly(pod, 1) == b"y"
    plane.release_pod("default", head)
    plane.wait_pod("default", head)


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
