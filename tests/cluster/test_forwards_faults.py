"""Forwards alone, over each transport, when what carries them or what they lead to misbehaves."""

import asyncio
import hashlib
import random
import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass

import pytest

from tests.bench.lab import forwards_alone
from tests.bench.measure import resident
from tests.cluster.between import Between, between
from tests.cluster.using import Echo, Knocking, Service, exchange, until
from tests.controlplane import pods
from tests.controlplane.api import ApiError
from tests.controlplane.plane import ControlPlane
from tests.controlplane.process import wait_until

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]
PORT, OTHER = 9000, 9001
BIG = 60_000_000
MANY = 1000
MORE_MEMORY = 40.0  # MiB that any stall may cost the process that holds the forwards
TRANSPORTS = ["spdy", "websocket"]


@dataclass
class Lane:
    """A pod with an echo behind two ports, and forwards that lead there."""

    plane: ControlPlane
    namespace: str
    pid: int
    port: int
    other: int
    echo: Echo
    between: Between

    def connect(self, port: int = 0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=90)

    def works(self) -> bool:
        try:
            with closing(self.connect()) as client:
                return exchange(client, b"x") == b"x"
        except ConnectionResetError:
            return False


@contextmanager
def lane(plane: ControlPlane, namespace: str, transport: str, *, idle: float = 0.0) -> Iterator[Lane]:
    with ExitStack() as undo:
        undo.callback(plane.node.reset)
        echo = undo.enter_context(Echo().running())
        uid = _pod(plane, namespace)
        for port in (PORT, OTHER):
            plane.node.map_port(namespace, "pod-0", port, echo.port)
        relay, kubeconfig = undo.enter_context(between(plane.kubeconfig, idle=idle))
        flags = ("--transport", transport)
        pid, ports = undo.enter_context(forwards_alone(kubeconfig, namespace, "pod-0", uid, [PORT, OTHER], *flags))
        yield Lane(plane, namespace, pid, ports[0], ports[1], echo, relay)


def _pod(plane: ControlPlane, namespace: str) -> str:
    body = {"metadata": {"name": "pod-0"}, "spec": {"containers": [{"name": "main", "image": "main"}]}}

    def created() -> bool:
        try:
            plane.api.request("POST", f"/api/v1/namespaces/{namespace}/pods", body)
        except ApiError as error:
            if error.status != 403:  # the namespace's service account is not there yet
                raise
            return False
        return True

    wait_until("pod", created, 60.0)
    return str(plane.wait_pod(namespace, "pod-0")["metadata"]["uid"])


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_path_that_swallows_everything_is_left(plane: ControlPlane, namespace: str, transport: str) -> None:
    """No RST comes. What is open ends with a reset, newcomers are never refused and are served on another path."""
    with lane(plane, namespace, transport) as forward, closing(forward.connect()) as old:
        assert exchange(old, b"before") == b"before"
        forward.between.go_deaf()
        old.sendall(b"into the void")
        with Knocking(forward.port) as knocking:
            until("work again", lambda: knocking.served > 50)
            with pytest.raises(ConnectionResetError):
                old.recv(1)
        assert knocking.refused == []
        assert knocking.wrong == []
        assert forward.works()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_comes_while_nothing_answers_is_held_and_served(
    plane: ControlPlane, namespace: str, transport: str
) -> None:
    with lane(plane, namespace, transport) as forward:
        forward.between.go_deaf(new_too=True)
        with closing(forward.connect()) as early:
            early.sendall(b"early")
            early.settimeout(6)
            with pytest.raises(TimeoutError):  # longer than the dial may take
                early.recv(5)
            forward.between.heal()
            early.settimeout(90)
            assert early.recv(5) == b"early"


@pytest.mark.parametrize(("transport", "idle"), [("spdy", 25.0), ("websocket", 15.0)])
def test_an_idle_cut_meets_no_silent_connection(
    plane: ControlPlane, namespace: str, transport: str, idle: float
) -> None:
    """A load balancer cuts who says nothing for so long: our own life signs keep an idle connection open."""
    with lane(plane, namespace, transport, idle=idle) as forward, closing(forward.connect()) as quiet:
        assert exchange(quiet, b"before") == b"before"
        quiet.settimeout(2 * idle)
        with pytest.raises(TimeoutError):
            quiet.recv(1)
        quiet.settimeout(90)
        assert exchange(quiet, b"after") == b"after"
        assert forward.between.idle_cuts == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_cut_while_idle_is_never_seen_by_the_next_connection(
    plane: ControlPlane, namespace: str, transport: str
) -> None:
    with lane(plane, namespace, transport) as forward:
        for _ in range(5):
            assert forward.works()
            assert forward.between.cut() > 0
        assert forward.works()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_container_that_restarts_refuses_nobody(plane: ControlPlane, namespace: str, transport: str) -> None:
    with lane(plane, namespace, transport) as forward, closing(forward.connect()) as old:
        assert exchange(old, b"before") == b"before"
        with Knocking(forward.port) as knocking:
            until("some work", lambda: knocking.served > 20)
            plane.node.fault(namespace, "pod-0", refuse=True)  # nothing listens before the program has started again
            plane.patch_pod_status(namespace, "pod-0", pods.restarted("main"))
            with suppress(ConnectionResetError):
                assert old.recv(1) == b""
            lost, came = len(knocking.lost), forward.echo.connections
            until("some who wait", lambda: forward.echo.connections == came)
            plane.node.clear(namespace, "pod-0")
            served = knocking.served
            until("work again", lambda: knocking.served > served + 50)
        assert knocking.refused == []
        assert knocking.wrong == []
        assert len(knocking.lost) <= lost + 5


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_thousand_connections_are_open_at_once(plane: ControlPlane, namespace: str, transport: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))

    async def one(number: int, all_in: asyncio.Barrier) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", forward.port)
        for word in (b"first %05d" % number, b"again %05d" % number):
            writer.write(word)
            assert await reader.readexactly(len(word)) == word
            await all_in.wait()
        writer.close()
        await writer.wait_closed()

    async def everybody() -> None:
        all_in = asyncio.Barrier(MANY)
        await asyncio.wait_for(asyncio.gather(*(one(number, all_in) for number in range(MANY))), 120)

    with lane(plane, namespace, transport) as forward:
        before = forward.echo.connections
        asyncio.run(everybody())
        assert forward.echo.connections == before + MANY


class Source(Service):
    """Sends the same megabyte again and again, `BIG` bytes in all, whatever comes."""

    def __init__(self) -> None:
        super().__init__(bytes)
        self.block = random.Random(5).randbytes(1_000_000)
        self.sent = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(BIG // len(self.block)):
            writer.write(self.block)
            await writer.drain()
            self.sent += len(self.block)
        await reader.read()

    def digest(self) -> bytes:
        return hashlib.sha256(self.block * (BIG // len(self.block))).digest()


def _stands_still(source: Source) -> None:
    """The client's stall has reached the source: so the forward knows of it."""
    seen: list[int] = []

    def same() -> bool:
        seen.append(source.sent)
        return len(seen) > 10 and source.sent > 0 and len(set(seen[-10:])) == 1

    until("the stall", same)


def received(client: socket.socket, size: int) -> bytes:
    digest, left = hashlib.sha256(), size
    while left and (chunk := client.recv(min(left, 1 << 18))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.digest()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_that_stands_still_costs_little_and_stops_nobody(
    plane: ControlPlane, namespace: str, transport: str
) -> None:
    with Source().running() as source, lane(plane, namespace, transport) as forward:
        plane.node.map_port(namespace, "pod-0", PORT, source.port)
        with closing(forward.connect()) as still:
            assert len(still.recv(1, socket.MSG_PEEK)) == 1
            _stands_still(source)
            before = resident(forward.pid)
            with Knocking(forward.other) as knocking, closing(forward.connect()) as other:
                assert received(other, BIG) == source.digest()
                until("new ones", lambda: knocking.served > 20)
            assert resident(forward.pid) - before < MORE_MEMORY
            assert (knocking.refused, knocking.lost, knocking.wrong) == ([], [], [])
            assert received(still, BIG) == source.digest()  # it goes on as if nothing had been


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_program_that_stands_still_costs_little_and_stops_nobody(
    plane: ControlPlane, namespace: str, transport: str
) -> None:
    data = random.Random(6).randbytes(BIG)
    with lane(plane, namespace, transport) as forward:
        plane.node.fault(namespace, "pod-0", PORT, stall_up=True)
        with closing(forward.connect()) as still, ThreadPoolExecutor(1) as pool:
            before = resident(forward.pid)
            sent = pool.submit(_send, still, data)
            with Knocking(forward.other) as knocking, closing(forward.connect(forward.other)) as other:
                assert exchange(other, data) == data
                until("new ones", lambda: knocking.served > 20)
            assert resident(forward.pid) - before < MORE_MEMORY
            assert (knocking.refused, knocking.lost, knocking.wrong) == ([], [], [])
            assert not sent.done()
            plane.node.clear(namespace, "pod-0", PORT)
            assert received(still, BIG) == hashlib.sha256(data).digest()
            sent.result(60)


def _send(client: socket.socket, data: bytes) -> None:
    client.sendall(data)


def test_the_relay_counts_what_it_does(plane: ControlPlane, namespace: str) -> None:
    """The tests above rest on it: with a limit below our life signs it does cut."""
    with lane(plane, namespace, "spdy", idle=3.0) as forward, closing(forward.connect()) as quiet:
        assert exchange(quiet, b"before") == b"before"
        with suppress(ConnectionResetError):
            assert quiet.recv(1) == b""
        assert forward.between.idle_cuts > 0
        assert threading.active_count() < 100
