"""The pool against a node in this process: real sockets, both transports, no Kubernetes."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest
import trustme

from kraynd.core.model import PodTarget
from kraynd.core.pipe import Buffer, End
from kraynd.core.portforward import SessionLimits
from kraynd.core.pulse import PulseLimits
from kraynd.kube import transport as transport_module
from kraynd.kube.fasttls import connector
from kraynd.kube.transport import DialLimits, place_of
from kraynd.kube.tunnel import PodStream, StreamEnd, TunnelPool, TunnelSettings
from kraynd.kube.wire import WireLimits
from krayne.errors import KrayneError
from tests.kube.fake_node import Echo, Inbox, Node, status

pytestmark = pytest.mark.anyio
LIMIT = 10.0
TARGET = PodTarget("ns", "pod-0", "uid-1", running=True, ready=True)
TRANSPORTS = ["spdy", "websocket"]


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(autouse=True)
def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is no reason to try the other transport beside the first."""
    monkeypatch.setattr("kraynd.kube.dial.HEDGE", LIMIT)


class Endpoint:
    """An API server's address and credentials."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None, prefix: str = "", proxy: str | None = None):
        self.server = f"{'https' if tls else 'http'}://127.0.0.1:{port}{prefix}"
        self.ssl = tls
        self.server_hostname: str | None = None
        self.proxy = proxy
        self.tokens = ["first"]
        self.refreshes = 0

    async def headers(self, refresh: bool = False) -> dict[str, str]:
        if refresh and len(self.tokens) > 1:
            self.tokens.pop(0)
        self.refreshes += refresh
        return {"Authorization": f"Bearer {self.tokens[0]}"}


class Local:
    """A local side that keeps what comes."""

    def __init__(self, wanted: int = 0) -> None:
        self.peer: End | None = None
        self.data = bytearray()
        self.eof = anyio.Event()
        self.aborted: str | None = None
        self.gone = anyio.Event()
        self.paused = False
        self._wanted = wanted
        self.enough = anyio.Event()

    def write(self, data: Buffer) -> None:
        assert not self.eof.is_set()
        assert self.aborted is None
        self.data += data
        if len(self.data) >= self._wanted:
            self.enough.set()

    def write_eof(self) -> None:
        assert not self.eof.is_set()
        self.eof.set()
        self.gone.set()

    def abort(self, reason: str) -> None:
        self.aborted = reason
        self.gone.set()

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False


@asynccontextmanager
async def serving(
    node: Node,
    *,
    server_tls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    prefix: str = "",
    make: Callable[[Endpoint], TunnelPool] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[TunnelPool, Endpoint]]:
    endpoint = Endpoint(await node.start(server_tls), tls=tls, prefix=prefix)
    pool = make(endpoint) if make else TunnelPool(endpoint, settings=TunnelSettings(**settings))
    try:
        with anyio.fail_after(LIMIT * 3):
            async with anyio.create_task_group() as tasks:
                await tasks.start(pool.run)
                yield pool, endpoint
                tasks.cancel_scope.cancel()
    finally:
        await node.stop()


async def ended(stream: PodStream) -> StreamEnd:
    with anyio.fail_after(LIMIT):
        await stream.ended.wait()
    assert stream.result is not None
    return stream.result


async def echo(pool: TunnelPool, payload: bytes = b"hello", *, aside: bool = False) -> None:
    local = Local(len(payload))
    stream = await pool.open(TARGET, 80, local, payload, aside=aside)
    with anyio.fail_after(LIMIT):
        await local.enough.wait()
    assert local.data == payload
    stream.write_eof()
    assert (await ended(stream)).kind == "eof"
    assert local.eof.is_set()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_bytes_go_round(transport: str) -> None:
    node = Node()
    async with serving(node, transport=transport, prefix="/k8s/clusters/c-1") as (pool, _):
        payload = bytes(range(256)) * 4000
        local = Local(2 * len(payload))
        stream = await pool.open(TARGET, 80, local, payload)
        stream.write(payload)
        with anyio.fail_after(LIMIT):
            await local.enough.wait()
        assert local.data == payload * 2
        assert not local.paused
        stream.write_eof()
        end = await ended(stream)
        assert end == StreamEnd("eof", "", received=2 * len(payload), sent=2 * len(payload))
    request = node.requests[0]
    assert request.target == "/k8s/clusters/c-1/api/v1/namespaces/ns/pods/pod-0/portforward"
    assert request.method == {"spdy": "POST", "websocket": "GET"}[transport]
    assert request.headers["authorization"] == "Bearer first"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_warm_tunnel_is_used_in_the_same_tick(transport: str) -> None:
    node = Node()
    async with serving(node, transport=transport, spare=0) as (pool, _):
        assert pool.open_now(TARGET, 80, Local()) is None
        await echo(pool)
        local = Local(4)
        stream = pool.open_now(TARGET, 80, local, b"warm")
        assert stream is not None
        assert local.peer is stream
        with anyio.fail_after(LIMIT):
            await local.enough.wait()
        assert node.opened == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_refused_port_ends_only_its_own_connection(transport: str) -> None:
    node = Node()
    async with serving(node, transport=transport, per_pod=1, spare=0) as (pool, _):
        neighbour = Local(200)
        neighbouring = await pool.open(TARGET, 80, neighbour)
        for index in range(100):
            local = Local()
            stream = await pool.open(TARGET, 81, local, b"to nobody")
            end = await ended(stream)
            assert (end.kind, end.received) == ("refused", 0)
            assert "nothing listens on port 81" in end.message
            assert local.aborted == end.message
            assert not local.eof.is_set()
            neighbouring.write(bytes((index, 255 - index)))
        with anyio.fail_after(LIMIT):
            await neighbour.enough.wait()
        assert neighbour.data == b"".join(bytes((index, 255 - index)) for index in range(100))
        assert node.opened == 1


async def test_the_owner_of_a_failed_connection_may_take_it_back() -> None:
    async with serving(Node()) as (pool, _):
        local = Local()
        stream = await pool.open(TARGET, 81, local, b"x")
        seen: list[StreamEnd] = []

        def take_back(end: StreamEnd) -> None:
            seen.append(end)
            stream.peer = None

        stream.on_end = take_back
        await ended(stream)
        assert [end.kind for end in seen] == ["refused"]
        assert local.aborted is None


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_half_close_passes_both_ways(transport: str) -> None:
    boxes: list[Inbox] = []
    node = Node(programs={80: lambda pair: boxes.append(Inbox(pair))})
    limits = WireLimits(session=SessionLimits(end=0.05))
    async with serving(node, transport=transport, wire=limits) as (pool, _):
        local = Local()
        stream = await pool.open(TARGET, 80, local, b"question")
        stream.write_eof()
        await until(lambda: bool(boxes))
        with anyio.fail_after(LIMIT):
            await boxes[0].fin.wait()
        boxes[0].pair.send(b"answer")
        boxes[0].pair.close()
        assert (await ended(stream)).kind == "eof"
        assert boxes[0].data == b"question"
        assert local.data == b"answer"

        other = Local()
        stream = await pool.open(TARGET, 80, other)
        await until(lambda: len(boxes) == 2)
        boxes[1].pair.finish()
        with anyio.fail_after(LIMIT):
            await other.eof.wait()
        assert not other.paused  # the node lets the other direction live
        stream.write(b"still here")
        await until(lambda: boxes[1].data == b"still here")
        stream.write_eof()
        await boxes[1].fin.wait()
        boxes[1].pair.close()
        assert (await ended(stream)).kind == "eof"


async def until(reached: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT):
        while not reached():
            await anyio.sleep(0)


async def test_a_reset_in_the_pod_resets_the_local_side() -> None:
    boxes: list[Inbox] = []
    node = Node(programs={80: lambda pair: boxes.append(Inbox(pair))})
    async with serving(node) as (pool, _):
        local = Local(4)
        stream = await pool.open(TARGET, 80, local, b"x")
        await until(lambda: bool(boxes))
        boxes[0].pair.send(b"some")
        boxes[0].pair.fail("error forwarding port 80: read tcp4 127.0.0.1:1->127.0.0.1:80: connection reset by peer")
        end = await ended(stream)
        assert (end.kind, end.received) == ("reset", 4)
        assert local.data == b"some"
        assert local.aborted is not None
        assert "reset by peer" in local.aborted


async def test_a_local_abort_resets_the_pod_side() -> None:
    boxes: list[Inbox] = []
    node = Node(programs={80: lambda pair: boxes.append(Inbox(pair))})
    async with serving(node) as (pool, _):
        stream = await pool.open(TARGET, 80, Local(), b"x")
        await until(lambda: bool(boxes))
        stream.abort("the user pressed ctrl-c")
        with anyio.fail_after(LIMIT):
            await boxes[0].was_reset.wait()
        assert (await ended(stream)).kind == "reset"
        assert node.opened - len(node.tunnels) == 0  # nothing was running: the tunnel is kept


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_aborted_download_ends_its_tunnel(transport: str) -> None:
    boxes: list[Inbox] = []
    node = Node(programs={80: lambda pair: boxes.append(Inbox(pair))})
    async with serving(node, transport=transport, spare=0) as (pool, _):
        local = Local(300_000)
        stream = await pool.open(TARGET, 80, local)
        await until(lambda: bool(boxes))
        boxes[0].pair.send(bytes(300_000))
        with anyio.fail_after(LIMIT):
            await local.enough.wait()
        stream.abort("enough")
        await until(lambda: not node.tunnels)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cut_tunnel_is_reported_and_the_next_open_dials(transport: str) -> None:
    node = Node()
    async with serving(node, transport=transport, spare=0) as (pool, _):
        local = Local(1)
        stream = await pool.open(TARGET, 80, local, b"x")
        await local.enough.wait()
        node.cut()
        end = await ended(stream)
        assert (end.kind, end.sent) == ("tunnel-lost", 1)
        assert local.aborted == end.message
        assert pool.stats == {}
        await echo(pool)
        assert node.opened == 2


@pytest.mark.parametrize(("works", "fails"), [("spdy", "websocket"), ("websocket", "spdy")])
@pytest.mark.parametrize(
    "answer",
    [
        (403, {"Content-Type": "text/html"}, b"<html>upgrade_failed</html>"),
        (404, {"Content-Type": "text/html"}, b"<html>no such page</html>"),
        (426, {}, b"Upgrade request required"),
        (502, {}, b""),
        (403, {}, status("pods is forbidden", 403)),
        (400, {}, status("unable to upgrade", 400)),
    ],
)
async def test_the_transport_that_works_is_found_and_remembered(
    works: str, fails: str, answer: tuple[int, dict[str, str], bytes]
) -> None:
    node = Node(answers={fails: answer})
    learnt: list[str] = []

    def make(endpoint: Endpoint) -> TunnelPool:
        return TunnelPool(endpoint, remembered=fails, on_transport=learnt.append, settings=TunnelSettings(spare=0))

    async with serving(node, make=make) as (pool, _):
        await echo(pool)
        assert learnt == [works]
        node.cut()
        await until(lambda: not pool.stats)
        before = len(node.requests)
        await echo(pool)
        assert len(node.requests) == before + 1  # straight by the one that works
        node.answers = {works: answer}
        node.cut()
        await until(lambda: not pool.stats)
        await echo(pool)
        assert learnt == [works, fails]


async def test_without_memory_spdy_goes_first() -> None:
    node = Node()
    learnt: list[str] = []

    def make(endpoint: Endpoint) -> TunnelPool:
        return TunnelPool(endpoint, on_transport=learnt.append)

    async with serving(node, make=make) as (pool, _):
        await echo(pool)
        assert (learnt, node.requests[0].method) == (["spdy"], "POST")


@pytest.mark.parametrize(
    ("answer", "kind", "retryable"),
    [
        ((403, {}, status("no", 403)), "forbidden", False),
        ((404, {}, status('pods "pod-0" not found', 404)), "pod-gone", False),
        ((500, {}, status("error dialing backend", 500)), "api-unreachable", True),
        ((429, {"Retry-After": "7"}, status("slow down", 429)), "api-unreachable", True),
        ((101, {"Upgrade": "h2c"}, b""), "api-unreachable", True),
    ],
)
async def test_refusals_say_what_to_do(answer: tuple[int, dict[str, str], bytes], kind: str, retryable: bool) -> None:
    node = Node(answers={"spdy": answer, "websocket": answer})
    async with serving(node) as (pool, _):
        with pytest.raises(KrayneError) as caught:
            await pool.open(TARGET, 80, Local())
        assert (caught.value.kind, caught.value.retryable) == (kind, retryable)
        if answer[0] == 429:
            assert caught.value.data == {"retry_after": 7.0}
            assert len(node.requests) == 1
        assert pool.stats == {}


async def test_expired_credentials_are_refreshed_once() -> None:
    node = Node(token="second")
    async with serving(node) as (pool, endpoint):
        endpoint.tokens = ["first", "second"]
        await echo(pool)
        assert endpoint.refreshes == 1
        node.token = "third"
        node.cut()
        await until(lambda: not pool.stats)
        with pytest.raises(KrayneError) as caught:
            await pool.open(TARGET, 80, Local())
        assert caught.value.kind == "login-needed"


async def test_a_server_that_says_nothing_is_given_up() -> None:
    from kraynd.kube.transport import DialLimits

    node = Node(silent=True)
    async with serving(node, dial=DialLimits(upgrade=0.05)) as (pool, _):
        with pytest.raises(KrayneError) as caught:
            await pool.open(TARGET, 80, Local())
        assert (caught.value.kind, caught.value.retryable) == ("dial-timeout", True)


async def test_the_other_transport_is_tried_beside_one_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    from kraynd.kube.transport import DialLimits

    monkeypatch.setattr("kraynd.kube.dial.HEDGE", 0.01)
    node = Node(mute="spdy")  # the one that is tried first
    async with serving(node, dial=DialLimits(upgrade=3600.0)) as (pool, _):
        with anyio.fail_after(LIMIT):
            await echo(pool)


async def test_nobody_listens() -> None:
    node = Node()
    async with serving(node) as (pool, _):
        assert node.server is not None
        node.server.close()
        with pytest.raises(KrayneError) as caught:
            await pool.open(TARGET, 80, Local())
        assert (caught.value.kind, caught.value.retryable) == ("api-unreachable", True)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_two_hundred_at_once(transport: str) -> None:
    node = Node()
    async with serving(node, transport=transport) as (pool, _):
        async with anyio.create_task_group() as group:
            for index in range(200):
                group.start_soon(echo, pool, b"number %d" % index)
        assert node.opened <= 9


async def test_a_paused_reader_is_isolated() -> None:
    boxes: list[Inbox] = []
    node = Node(programs={80: Echo, 90: lambda pair: boxes.append(Inbox(pair))})
    async with serving(node, spare=0) as (pool, _):
        stalled = Local(1)
        stream = await pool.open(TARGET, 90, stalled, b"x")
        await until(lambda: bool(boxes))
        stream.pause_reading()
        payload = bytes(range(250)) * 80_000
        boxes[0].pair.send(payload)
        await echo(pool, b"beside it")
        assert node.opened == 2
        assert not stalled.data
        stream.resume_reading()
        await until(lambda: len(stalled.data) == len(payload))
        assert stalled.data == payload


async def test_a_paused_reader_with_neighbours_keeps_little_and_is_not_waited_for() -> None:
    boxes: list[Inbox] = []
    node = Node(programs={80: Echo, 90: lambda pair: boxes.append(Inbox(pair))})
    limits = WireLimits(kept=100_000, patience=0.05)
    async with serving(node, per_pod=1, spare=0, wire=limits) as (pool, _):
        stalled, neighbour = Local(), Local(4)
        stream = await pool.open(TARGET, 90, stalled, b"x")
        beside = await pool.open(TARGET, 80, neighbour)
        await until(lambda: bool(boxes))
        stream.pause_reading()
        boxes[0].pair.send(bytes(10_000_000))
        end = await ended(stream)
        assert end.kind == "reset"
        assert stalled.aborted == "not read for too long"
        beside.write(b"echo")
        with anyio.fail_after(LIMIT):
            await neighbour.enough.wait()


async def test_a_silent_tunnel_is_found_dead_and_replaced() -> None:
    node = Node()
    pulse = PulseLimits(quiet=60, patience=60, probe=0.05)
    async with serving(node, spare=0, wire=WireLimits(session=SessionLimits(pulse=pulse))) as (pool, _):
        local = Local(1)
        stream = await pool.open(TARGET, 80, local, b"x")
        await local.enough.wait()
        node.tunnels[0].frozen = True
        pool.probe()
        assert pool.open_now(TARGET, 80, Local()) is None  # not trusted until it answers
        await echo(pool)
        end = await ended(stream)
        assert (end.kind, end.message) == ("tunnel-lost", "the tunnel did not answer")


async def test_a_probe_that_is_answered_changes_nothing() -> None:
    node = Node()
    async with serving(node, spare=0) as (pool, _):
        await echo(pool)
        pool.probe()
        await until(lambda: pool.open_now(TARGET, 80, Local()) is not None)
        assert node.opened == 1


async def test_keepalive_finds_a_dead_peer() -> None:
    node = Node()
    pulse = PulseLimits(quiet=0.05, patience=2.0)
    async with serving(node, spare=0, wire=WireLimits(session=SessionLimits(pulse=pulse))) as (pool, _):
        stream = await pool.open(TARGET, 80, Local(), b"x")
        await until(lambda: stream.received == 1)
        with anyio.move_on_after(0.3):  # several rounds of question and answer
            await stream.ended.wait()
        assert stream.result is None
        node.tunnels[0].frozen = True
        assert (await ended(stream)).kind == "tunnel-lost"


async def test_unused_tunnels_close() -> None:
    node = Node()
    async with serving(node, idle=0.05, extra_idle=0.01) as (pool, _):
        await echo(pool)
        await until(lambda: not node.tunnels and not pool.stats)


async def test_a_question_of_our_own_keeps_nothing_warm() -> None:
    node = Node()
    async with serving(node, idle=3600.0, extra_idle=0.3) as (pool, _):
        await echo(pool, aside=True)
        await until(lambda: not node.tunnels and not pool.stats)
        assert node.opened == 1
        await echo(pool)
        await echo(pool, aside=True)
        await until(lambda: [stats.streams for stats in pool.stats.values()] == [0])
        assert node.tunnels, "a pod in use stays warm, whoever asked last"


async def test_a_pod_that_is_gone_keeps_no_tunnel() -> None:
    node = Node()
    async with serving(node, spare=0) as (pool, _):
        local = Local(1)
        stream = await pool.open(TARGET, 80, local, b"x")
        await local.enough.wait()
        pool.drop(TARGET.uid)
        assert pool.open_now(TARGET, 80, Local()) is None
        stream.write_eof()
        assert (await ended(stream)).kind == "eof"  # what was open may end in peace
        await until(lambda: not node.tunnels)


async def test_a_cancelled_open_leaves_nothing() -> None:
    node = Node(silent=True)
    async with serving(node) as (pool, _):
        with anyio.move_on_after(0.05):
            await pool.open(TARGET, 80, Local())
        assert all(one.streams == 0 for one in pool.stats.values())


async def test_garbage_from_the_server_ends_the_tunnel_only() -> None:
    node = Node(glued=b"\x80\x02garbage")
    async with serving(node, spare=0) as (pool, _):
        with pytest.raises(KrayneError, match="broke as soon"):
            await echo(pool)
        node.glued = b""
        await echo(pool)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_tls_with_a_client_certificate_and_another_name(transport: str) -> None:
    authority = trustme.CA()
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("kubernetes.internal").configure_cert(server_tls)
    authority.configure_trust(server_tls)
    server_tls.verify_mode = ssl.CERT_REQUIRED
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(tls)
    authority.issue_cert("me@example.org").configure_cert(tls)
    node = Node()
    async with serving(node, server_tls=server_tls, tls=tls, transport=transport) as (pool, endpoint):
        with pytest.raises(KrayneError, match="not trusted"):
            await pool.open(TARGET, 80, Local())
        endpoint.server_hostname = "kubernetes.internal"
        await echo(pool, bytes(2_000_000))
        local = Local(8 * 200_000)
        stream = await pool.open(TARGET, 80, local)
        scratch = bytearray(200_000)
        for index in range(8):  # the local side reads into one buffer again and again
            scratch[:] = bytes([index + 1]) * len(scratch)
            stream.write(memoryview(scratch))
        scratch[:] = bytes(len(scratch))
        with anyio.fail_after(LIMIT):
            await local.enough.wait()
        assert local.data == b"".join(bytes([index + 1]) * 200_000 for index in range(8))


async def test_the_fast_loop_has_fast_tls_and_asyncio_its_own(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    pytest.importorskip("aiofastnet")
    loop = asyncio.get_running_loop()
    assert isinstance(connector(loop), partial) is anyio_backend[1]["use_uvloop"]


@pytest.mark.parametrize("proxy_is_tls", [False, True])
async def test_a_dial_called_off_as_its_handshake_ends_leaves_nothing(
    anyio_backend: tuple[str, dict[str, Any]], proxy_is_tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has handed the transport to the protocol by then; else its socket would be closed under it."""
    if anyio_backend[1]["use_uvloop"]:
        pytest.skip("a loop in C cannot be made to fail at that point")
    authority = trustme.CA()
    server_tls, tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    authority.configure_trust(tls)
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def connect_too_late(*args: Any, **more: Any) -> None:
        await connect(*args, **more)
        raise ConnectionAbortedError

    with authority.cert_pem.tempfile() as ca_file:
        monkeypatch.setenv("SSL_CERT_FILE", ca_file)  # a proxy is judged by the system's authorities
        async with serving(Node(), server_tls=server_tls, tls=tls) as (pool, endpoint):
            place = place_of(endpoint.server)
            proxied = Endpoint(place.port, tls=tls, proxy=f"https://127.0.0.1:{place.port}" if proxy_is_tls else None)
            before = len(os.listdir("/proc/self/fd"))
            with monkeypatch.context() as late:
                late.setattr(loop, "create_connection", connect_too_late)
                for _ in range(5):
                    with pytest.raises(ConnectionAbortedError):
                        await transport_module.connect(proxied, place, DialLimits())
            await echo(pool)  # descriptors are given again: none may belong to a transport yet
            assert len(os.listdir("/proc/self/fd")) < before + 10


async def test_a_server_of_another_authority_is_told_nothing() -> None:
    server_tls, tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(server_tls)
    trustme.CA().configure_trust(tls)
    node = Node()
    async with serving(node, server_tls=server_tls, tls=tls) as (pool, _):
        with pytest.raises(KrayneError, match="not trusted"):
            await pool.open(TARGET, 80, Local())
    assert not node.requests


class Proxy:
    """A CONNECT proxy that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.writers: set[asyncio.StreamWriter] = set()
        self.idle = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):  # a dial may be called off
                await self._relay(reader, writer)
        finally:
            writer.transport.abort()
            self.writers.discard(writer)
            self.idle.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        await self._join(reader, writer, host, int(port))

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_pump, reader, far_writer)
                group.start_soon(_pump, far_reader, writer)
        finally:
            far_writer.transport.abort()

    async def end(self) -> None:
        while self.writers:
            self.idle.clear()
            for writer in list(self.writers):
                writer.transport.abort()
            await self.idle.wait()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@pytest.mark.parametrize("server_is_tls", [True, False])
@pytest.mark.parametrize("proxy_is_tls", [True, False])
async def test_through_a_proxy(server_is_tls: bool, proxy_is_tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    server_tls, tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    authority.configure_trust(tls)
    proxy = Proxy()
    with authority.cert_pem.tempfile() as ca_file:
        monkeypatch.setenv("SSL_CERT_FILE", ca_file)  # the proxy is judged by the system's authorities
        relay = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=server_tls if proxy_is_tls else None)
        port = relay.sockets[0].getsockname()[1]
        node = Node()
        try:
            under: dict[str, Any] = {"server_tls": server_tls, "tls": tls} if server_is_tls else {}
            async with serving(node, **under) as (pool, endpoint):
                endpoint.proxy = f"{'https' if proxy_is_tls else 'http'}://me:p%40ss@127.0.0.1:{port}"
                await echo(pool, bytes(500_000))
        finally:
            relay.close()
            await proxy.end()
    assert proxy.asked[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"Proxy-Authorization: Basic bWU6cEBzcw==" in proxy.asked[0]
