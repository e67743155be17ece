"""Forwards through outages of what carries them: the API server, the node, the tunnel. Local ports never refuse."""

import random
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.cluster.conftest import Krayne
from tests.cluster.using import Echo, Json, Knocking, condition, exchange, opened, until
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
CUTS = 20


@pytest.fixture(autouse=True)
def as_new(plane: ControlPlane) -> Iterator[None]:
    """What a test sets on the nodes ends with it."""
    yield
    plane.node.thaw()
    plane.node.reset()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo().running() as server:
        yield server


def back(plane: ControlPlane) -> None:
    """The API server again, with all that lives off it, so that the next test finds the plane as it was."""
    plane.start_apiserver()
    plane.restart_clients()


def works(port: int) -> bool:
    """Whether a byte goes there and comes back."""
    try:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as client:
            return exchange(client, b"x") == b"x"
    except ConnectionResetError:
        return False


def shown(krayne: Krayne) -> Json:
    """The forward to port 9000 in `krayne ports`."""
    forward: Json
    (forward,) = [one for one in krayne("ports", "demo", "-o", "json").json() if one["remote_port"] == 9000]
    return forward


@pytest.mark.parametrize("how", ["stop_apiserver", "kill_apiserver"])
def test_the_api_server_restarts_while_a_forward_is_in_use(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo, how: str
) -> None:
    port = opened(plane, namespace, krayne, echo)
    ports = krayne.cluster("demo")["services"]
    with Knocking(port) as knocking:
        until("some work", lambda: knocking.served > 20)
        try:
            getattr(plane, how)()
            world = condition(krayne, "unreachable")
            assert plane.server in world["reason"]
            row = krayne.cluster("demo")
            assert row["phase"] == "unreachable"
            assert "last known: ready" in row["reason"]
            assert krayne("ls", "-n", namespace).code == 0
        finally:
            back(plane)
        condition(krayne, "ready")
        after = knocking.served
        until("work again", lambda: knocking.served > after + 50)
    assert knocking.refused == []
    assert knocking.wrong == []
    assert [(one["name"], one["local_port"]) for one in krayne.cluster("demo")["services"]] == [
        (one["name"], one["local_port"]) for one in ports
    ]
    krayne("wait", "demo", "-n", namespace, "--for=ready", "--timeout", "60s")


def test_a_client_that_comes_during_an_outage_is_served_after_it(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo
) -> None:
    port = opened(plane, namespace, krayne, echo)
    try:
        plane.stop_apiserver()
        condition(krayne, "unreachable")
        client = socket.create_connection(("127.0.0.1", port), timeout=60)
        client.sendall(b"early")
    finally:
        back(plane)
    with closing(client):
        assert client.recv(5) == b"early"


def test_a_daemon_started_during_an_outage_has_its_ports_and_waits(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo
) -> None:
    port = opened(plane, namespace, krayne, echo)
    krayne("daemon", "stop")
    try:
        plane.stop_apiserver()
        row = krayne.cluster("demo")
        assert row["phase"] == "unreachable"
        assert row["declared"]
        condition(krayne, "unreachable")

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until("the port", listens)
        client = socket.create_connection(("127.0.0.1", port), timeout=60)
        client.sendall(b"early")
    finally:
        back(plane)
    with closing(client):
        assert client.recv(5) == b"early"
    assert krayne.port("demo", "port-9000") == port


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("words", ["ssh", "http", "any"])
def test_twenty_cuts_under_load_refuse_nobody(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo, words: str, reset: bool
) -> None:
    port = opened(plane, namespace, krayne, echo)
    cut = 0
    with Knocking(port, words) as knocking:
        until("some work", lambda: knocking.served > 20)
        for _ in range(CUTS):
            cut += plane.node.cut(namespace, "demo-head-*", reset=reset)
            served = knocking.served
            until("work again", lambda served=served: knocking.served > served + 5)  # type: ignore[misc]
    assert cut >= CUTS  # there was a tunnel to cut each time
    assert knocking.refused == []
    assert knocking.wrong == []
    if words == "any":
        assert len(knocking.lost) <= cut * 3  # those that were on their way in the moment of a cut: not said twice
    else:
        assert knocking.lost == []
    until("the forward", lambda: works(port))


def test_a_tunnel_that_is_cut_resets_what_was_under_way_and_says_so(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo
) -> None:
    port = opened(plane, namespace, krayne, echo)
    with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as client:
        data = random.Random(2).randbytes(100_000)
        assert exchange(client, data) == data
        assert plane.node.cut(namespace, "demo-head-*") >= 1
        with pytest.raises(ConnectionResetError):  # never a clean end that a program takes for the whole answer
            client.recv(1)
    until("the forward", lambda: works(port))  # the next one may still meet a tunnel whose end is not known yet
    forward = shown(krayne)
    assert forward["last_error"]
    assert forward["state"] in ("listening", "connected")


def test_a_frozen_tunnel_is_noticed_and_replaced(
    plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo
) -> None:
    port = opened(plane, namespace, krayne, echo)
    with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as old:
        assert exchange(old, b"before") == b"before"
        plane.node.freeze(namespace, "demo-head-*")
        old.sendall(b"into the void")
        with pytest.raises(ConnectionResetError):
            old.recv(1)
        plane.node.thaw()
        until("the forward", lambda: works(port))


def test_a_node_that_goes_away_and_comes_back(plane: ControlPlane, namespace: str, krayne: Krayne, echo: Echo) -> None:
    port = opened(plane, namespace, krayne, echo)
    node = plane.pods(namespace, "demo")[-1]["spec"]["nodeName"]
    with Knocking(port) as knocking:
        until("some work", lambda: knocking.served > 20)
        plane.node.set_up(node, up=False)
        # Bytes sent into a tunnel whose loss is not known yet are not sent twice: wait until it is known.
        until("the loss is noticed", lambda: shown(krayne)["state"] == "holding")
        served = knocking.served
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as client:
            client.sendall(b"early")
            plane.node.set_up(node, up=True)
            assert client.recv(5) == b"early"
        until("work again", lambda: knocking.served > served + 50)
    assert knocking.refused == []
    assert knocking.wrong == []
