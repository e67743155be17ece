"""Forwards as a user's programs meet them: real listeners, a real API server, the container runtimes' streaming."""

import hashlib
import os
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from tests.cluster.conftest import Krayne
from tests.cluster.using import Echo, Knocking, Service, becomes, exchange, opened, service, until
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
BIG = 10_000_000
MANY = 100
PORT = 9000
HOLD = "hold: {seconds: 10, connections: 64}\n"  # KubeRay alone takes two to resume


@pytest.fixture(autouse=True)
def as_new(plane: ControlPlane) -> Iterator[None]:
    """What a test sets on the nodes ends with it."""
    yield
    plane.node.reset()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo().running() as server:
        yield server


def test_ten_megabytes_each_way_come_through_whole(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo
) -> None:
    port = opened(plane, namespace, krayne, echo)
    data = random.Random(1).randbytes(BIG)
    with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as client:
        assert hashlib.sha256(exchange(client, data)).digest() == hashlib.sha256(data).digest()
    found = krayne("ports", "demo", "-o", "json").json()
    one = next(row for row in found if row["remote_port"] == PORT)
    assert (one["bytes_in"], one["bytes_out"]) == (BIG, BIG)


def test_a_hundred_connections_at_once_keep_their_bytes_apart(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo
) -> None:
    port = opened(plane, namespace, krayne, echo)

    def one(number: int) -> bool:
        data = random.Random(number).randbytes(20_000)
        host = ("127.0.0.1", "::1")[number % 2]
        with closing(socket.create_connection((host, port), timeout=60)) as client:
            return exchange(client, data) == data

    with ThreadPoolExecutor(MANY) as pool:
        assert all(pool.map(one, range(MANY)))
    assert echo.connections == MANY
    # All of them over few connections to the API server: that is what one tunnel is for.
    assert plane.node.counters(namespace, "demo-head-*").tunnels_total <= 16  # eight, and as many for stalled ones


def test_a_half_close_reaches_the_pod_and_the_answer_comes_after_it(
    plane: ControlPlane, namespace: str, krayne: Krayne
) -> None:
    with Service(lambda data: data[::-1]).running() as server:
        plane.node.set_mode("half-close")
        port = opened(plane, namespace, krayne, server)
        for size in (0, 1, 300_000):
            data = random.Random(size).randbytes(size)
            with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                found = b"".join(iter(lambda: client.recv(65536), b""))
            assert found == data[::-1]


def test_a_port_that_refuses_is_waited_for(plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo) -> None:
    krayne("create", "demo", "-n", namespace, "--wait", "--timeout", "60s")
    (one,) = [row for row in krayne("tun-open", "demo", str(PORT), "-o", "json").json() if row["remote_port"] == PORT]
    becomes(krayne, "demo", lambda row: service(row, one["name"])["local_port"] > 0)
    port = krayne.port("demo", one["name"])
    with closing(_connected(krayne, port)) as client:
        client.sendall(b"early")
        row = becomes(krayne, "demo", lambda row: service(row, one["name"])["state"] == "refused")
        reason = service(row, one["name"])["reason"]
        assert f"nothing listens on port {PORT} in the pod" in reason
        assert reason in krayne("describe", "demo").out
        assert f"forward {namespace}/demo/{one['name']}: {reason}" in krayne.log()
        plane.node.map_port(namespace, "demo-head-*", PORT, echo.port)
        assert client.recv(5) == b"early"
    becomes(krayne, "demo", lambda row: service(row, one["name"])["state"] == "ready")
    assert f"forward {namespace}/demo/{one['name']} works again" in krayne.log()


def _connected(krayne: Krayne, port: int) -> socket.socket:
    """A connection, once the port listens."""
    found: list[socket.socket] = []

    def tried() -> bool:
        try:
            found.append(socket.create_connection(("127.0.0.1", port), timeout=60))
        except ConnectionRefusedError:
            return False
        return True

    until(f"a listener on {port}", tried)
    return found[0]


def next_head(plane: ControlPlane, namespace: str, old: str) -> str:
    """The name of the head pod that came after `old`; empty while there is none."""
    names = [pod["metadata"]["name"] for pod in plane.pods(namespace, "demo")]
    return next((name for name in names if name != old), "")


def test_nobody_is_refused_while_the_head_is_replaced(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo
) -> None:
    port = opened(plane, namespace, krayne, echo)
    head = plane.pods(namespace, "demo")[-1]["metadata"]["name"]
    with Knocking(port) as knocking:
        until("some work", lambda: knocking.served > 20)
        plane.kubectl("delete", "pod", head, "-n", namespace, "--wait=false")
        until("another head", lambda: next_head(plane, namespace, head) != "")
        krayne("wait", "demo", "-n", namespace, "--for=ready", "--timeout", "60s")
        after = knocking.served
        until("work again", lambda: knocking.served > after + 50)
    assert knocking.refused == []
    assert knocking.wrong == []
    assert krayne.port("demo", f"port-{PORT}") == port


def test_a_local_port_held_by_somebody_is_named_and_taken_when_free(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo
) -> None:
    port = opened(plane, namespace, krayne, echo)
    krayne("daemon", "stop")
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", port))
    holder.listen()
    try:
        row = becomes(krayne, "demo", lambda row: service(row, f"port-{PORT}")["state"] == "port-taken")
        shown = service(row, f"port-{PORT}")
        assert shown["local_port"] == port  # waited for, never changed
        assert f"local port {port} is held by process {os.getpid()}" in shown["reason"]
        assert f"process {os.getpid()}" in krayne("ports", "demo").out
        assert row["phase"] == "ready"
        assert service(row, "dashboard")["state"] == "ready"  # the others do not mind
    finally:
        holder.close()
    becomes(krayne, "demo", lambda row: service(row, f"port-{PORT}")["state"] == "ready")
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as client:
        assert exchange(client, b"mine again") == b"mine again"


def test_what_was_closed_stays_closed_and_what_was_opened_stays_open(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo
) -> None:
    port = opened(plane, namespace, krayne, echo)
    closed = krayne.port("demo", "dashboard")
    krayne("tun-close", "demo", "8265")
    until("closed", lambda: _is_refused(closed))
    krayne("daemon", "restart")
    row = becomes(krayne, "demo", lambda row: service(row, f"port-{PORT}")["state"] == "ready")
    assert service(row, "dashboard")["state"] == "off"
    assert _is_refused(closed)
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as client:
        assert exchange(client, b"still here") == b"still here"
        krayne("daemon", "restart")
        client.settimeout(60)
        assert client.recv(1) == b"", "what is open ends by a FIN"
    becomes(krayne, "demo", lambda row: service(row, f"port-{PORT}")["state"] == "ready")
    krayne("tun-close", "demo")
    until("all closed", lambda: _is_refused(port))
    krayne("daemon", "restart")
    row = becomes(krayne, "demo", lambda row: bool(row["phase"] == "ready"))
    assert {one["state"] for one in row["services"]} == {"off"}
    krayne("tun-open", "demo")
    row = becomes(krayne, "demo", lambda row: all(one["state"] == "ready" for one in row["services"]))
    assert service(row, "dashboard")["local_port"] == closed
    assert service(row, f"port-{PORT}")["local_port"] == port


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it closed while we connected
        return False
    return False


def test_the_local_port_asked_for_is_the_one_given(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        chosen = probe.getsockname()[1]
    port = opened(plane, namespace, krayne, echo, local=chosen)
    assert port == chosen
    with closing(socket.create_connection(("127.0.0.1", chosen), timeout=30)) as client:
        assert exchange(client, b"here") == b"here"
    taken = krayne("tun-open", "demo", f"9001:{chosen}", code=1)
    assert str(chosen) in taken.err
    # Another one later moves it, and the old one closes.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        another = probe.getsockname()[1]
    assert opened(plane, namespace, krayne, echo, local=another) == another
    until("the old one closed", lambda: _is_refused(chosen))
    for wrong in ("70000", "0", "x", "9000:70000"):
        assert "krayne" in krayne("tun-open", "demo", wrong, code=2).err


@contextmanager
def hasty(krayne: Krayne) -> Iterator[None]:
    """A daemon that holds connections for ten seconds."""
    krayne.folder.mkdir(exist_ok=True)
    (krayne.folder / "kraynd.yaml").write_text(HOLD)
    krayne("daemon", "restart")
    yield


@pytest.mark.parametrize("how", ["suspended", "absent"])
def test_a_cluster_without_a_head_holds_and_then_resets(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo, how: str
) -> None:
    with hasty(krayne):
        port = opened(plane, namespace, krayne, echo)
        if how == "suspended":
            plane.kubectl(
                "patch", "raycluster", "demo", "-n", namespace, "--type=merge", "-p", '{"spec":{"suspend":true}}'
            )
        else:
            # Its next head is never scheduled.
            plane.hold_new_pods(namespace, "head")
            head = plane.pods(namespace, "demo")[-1]["metadata"]["name"]
            plane.kubectl("delete", "pod", head, "-n", namespace, "--wait=false")
        row = becomes(krayne, "demo", lambda row: service(row, f"port-{PORT}")["state"] == "holding")
        assert service(row, f"port-{PORT}")["reason"]
        if how == "suspended":
            assert row["phase"] == "suspended"
        before = echo.connections
        with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as client:
            client.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert echo.connections == before
        (shown,) = [one for one in krayne("ports", "demo", "-o", "json").json() if one["remote_port"] == PORT]
        assert shown["refused"] == 1
        assert "waited 10 s" in shown["last_error"]

        # One that is held when the head comes back is served.
        with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as client:
            client.sendall(b"again")
            if how == "suspended":
                plane.kubectl(
                    "patch", "raycluster", "demo", "-n", namespace, "--type=merge", "-p", '{"spec":{"suspend":false}}'
                )
            else:
                until("the next head", lambda: next_head(plane, namespace, head) != "")
                plane.release_pod(namespace, next_head(plane, namespace, head))
            assert client.recv(5) == b"again"
