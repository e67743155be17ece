"""The tunnel against the real API server and the container runtimes' own streaming library, over both transports."""

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from kraynd.core.model import PodTarget
from kraynd.core.pipe import Buffer
from kraynd.kube.auth import load_endpoint
from kraynd.kube.tunnel import PodStream, StreamEnd, TunnelPool, TunnelSettings
from krayne.config import KrayneSettings
from krayne.errors import KrayneError
from tests.cluster.between import TURNS
from tests.controlplane.api import ApiError
from tests.controlplane.plane import ControlPlane
from tests.controlplane.process import wait_until
from tests.kube.test_tunnel import Local

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.timeout(400)]

LIMIT = 30.0
PORT = 9000
BIG = 10_000_000
TRANSPORTS = ["spdy", "websocket"]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def target(plane: ControlPlane, namespace: str) -> PodTarget:
    """A running pod."""
    plane.node.reset()
    body = {"metadata": {"name": "pod-0"}, "spec": {"containers": [{"name": "main", "image": "main"}]}}

    def created() -> bool:
        try:
            plane.api.request("POST", f"/api/v1/namespaces/{namespace}/pods", body)
        except ApiError as error:
            if error.status != 403:  # the namespace's service account is not there yet
                raise
            return False
        return True

    wait_until("pod", created, LIMIT)
    pod = plane.wait_pod(namespace, "pod-0", limit=LIMIT)
    return PodTarget(namespace, "pod-0", pod["metadata"]["uid"], running=True, ready=True)


@asynccontextmanager
async def serving(plane: ControlPlane, target: PodTarget, serve: Serve, port: int = PORT) -> AsyncIterator[None]:
    """What listens behind a port of the pod."""
    writers: set[asyncio.StreamWriter] = set()
    idle = asyncio.Event()
    idle.set()

    def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
        writers.add(writer)  # before its task begins: one that is cancelled before that closes nothing
        idle.clear()
        return talk(reader, writer)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        finally:
            writer.transport.abort()
            writers.discard(writer)
            if not writers:
                idle.set()

    server = await asyncio.start_server(one, "127.0.0.1", 0, backlog=1000)
    plane.node.map_port(target.namespace, target.pod, port, server.sockets[0].getsockname()[1])
    try:
        yield
    finally:
        server.close()
        for _ in range(TURNS):  # of the loop: those accepted by now become writers
            await anyio.sleep(0)
        for writer in list(writers):
            writer.transport.abort()
        await idle.wait()
        await anyio.sleep(0)


@asynccontextmanager
async def pool_of(kubeconfig: Path, **settings: Any) -> AsyncIterator[TunnelPool]:
    endpoint = load_endpoint(KrayneSettings(kubeconfig=str(kubeconfig)), {"PATH": os.environ["PATH"]})
    pool = TunnelPool(endpoint, settings=TunnelSettings(**settings))
    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            await tasks.start(pool.run)
            yield pool
            tasks.cancel_scope.cancel()


class Sender(Local):
    """A local side that sends `data` as fast as it may, and then says so."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.room = anyio.Event()
        self.room.set()
        self._data = memoryview(data)

    def pause_reading(self) -> None:
        super().pause_reading()
        self.room = anyio.Event()

    def resume_reading(self) -> None:
        super().resume_reading()
        self.room.set()

    async def send_all(self, stream: PodStream) -> None:
        for at in range(0, len(self._data), 65536):
            await self.room.wait()
            stream.write(self._data[at : at + 65536])
            await anyio.sleep(0)


async def echoing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def ended(stream: PodStream) -> StreamEnd:
    with anyio.fail_after(LIMIT):
        await stream.ended.wait()
    assert stream.result is not None
    return stream.result


async def came(local: Local) -> None:
    with anyio.fail_after(LIMIT):
        await local.enough.wait()


async def echo_once(pool: TunnelPool, target: PodTarget, payload: bytes) -> None:
    local = Local(len(payload))
    stream = await pool.open(target, PORT, local, payload)
    await came(local)
    assert local.data == payload
    stream.write_eof()
    assert (await ended(stream)).kind == "eof"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_echo(plane: ControlPlane, target: PodTarget, transport: str) -> None:
    async with serving(plane, target, echoing), pool_of(plane.kubeconfig, transport=transport) as pool:
        await echo_once(pool, target, b"hello")
        warm = Local(4)
        assert pool.open_now(target, PORT, warm, b"warm") is not None
        await came(warm)
        assert set(pool.stats[target.uid].tunnels) == {transport}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_refused_port_a_hundred_times_between_live_streams(
    plane: ControlPlane, target: PodTarget, transport: str
) -> None:
    settings = {"transport": transport, "per_pod": 1, "spare": 0, "total": 1}
    async with serving(plane, target, echoing), pool_of(plane.kubeconfig, **settings) as pool:
        neighbours = [Local(100 * 1000) for _ in range(3)]
        streams = [await pool.open(target, PORT, local) for local in neighbours]
        sent = [bytearray() for _ in neighbours]
        for index in range(100):
            local = Local()
            refused = await pool.open(target, 9, local, b"to nobody")
            for which, stream in enumerate(streams):
                piece = os.urandom(1000)
                sent[which] += piece
                stream.write(piece)
            end = await ended(refused)
            assert (end.kind, end.received) == ("refused", 0), index
            assert local.aborted is not None
            assert not local.eof.is_set()
        for which, local in enumerate(neighbours):
            await came(local)
            assert local.data == sent[which]
        assert plane.node.counters(target.namespace, target.pod).tunnels_total == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_half_close_where_the_node_passes_it(plane: ControlPlane, target: PodTarget, transport: str) -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read()
        writer.write(b"answer to " + said)
        await writer.drain()
        writer.close()

    plane.node.set_mode("half-close")
    async with serving(plane, target, answer_at_the_end), pool_of(plane.kubeconfig, transport=transport) as pool:
        local = Local()
        stream = await pool.open(target, PORT, local, b"question")
        stream.write_eof()
        assert (await ended(stream)).kind == "eof"
        assert local.data == b"answer to question"


async def test_the_pod_may_close_first_and_go_on_reading(plane: ControlPlane, target: PodTarget) -> None:
    heard = anyio.Event()

    async def speak_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"banner")
        writer.write_eof()
        if await reader.read() == b"still read":
            heard.set()

    plane.node.set_mode("half-close")
    async with serving(plane, target, speak_first), pool_of(plane.kubeconfig) as pool:
        local = Local()
        stream = await pool.open(target, PORT, local)
        with anyio.fail_after(LIMIT):
            await local.eof.wait()
        assert local.data == b"banner"
        stream.write(b"still read")
        stream.write_eof()
        with anyio.fail_after(LIMIT):
            await heard.wait()
        assert (await ended(stream)).kind == "eof"


@pytest.mark.whole("containerd, which ends both ways a second after one")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_containerd_passes_an_answer_within_the_second(
    plane: ControlPlane, target: PodTarget, transport: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == b"question"
        writer.write(b"answer")
        await writer.drain()
        await reader.read()

    async with serving(plane, target, answer), pool_of(plane.kubeconfig, transport=transport) as pool:
        local = Local()
        stream = await pool.open(target, PORT, local, b"question")
        stream.write_eof()
        assert (await ended(stream)).kind == "eof"
        assert local.data == b"answer"
        assert local.eof.is_set()

        hasty = Local()
        async with serving(plane, target, _bye, port=9001):
            stream = await pool.open(target, 9001, hasty)  # the client stays silent: containerd's FIN comes 1 s late
            assert (await ended(stream)).kind == "eof"
            assert hasty.data == b"bye"


async def _bye(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"bye")
    await writer.drain()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_reset_of_the_app_resets_the_client(plane: ControlPlane, target: PodTarget, transport: str) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"some")
        await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with serving(plane, target, reset), serving(plane, target, echoing, port=9001):
        async with pool_of(plane.kubeconfig, transport=transport, per_pod=1) as pool:
            beside = Local(5)
            neighbour = await pool.open(target, 9001, beside)
            local = Local()
            end = await ended(await pool.open(target, PORT, local, b"x"))
            assert end.kind == "reset"
            assert local.aborted is not None
            assert not local.eof.is_set()
            neighbour.write(b"alive")
            await came(beside)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_ten_megabytes_each_way(plane: ControlPlane, target: PodTarget, transport: str) -> None:
    data = os.urandom(BIG)
    hashes: list[str] = []
    got = anyio.Event()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hashes.append(hashlib.sha256(await reader.readexactly(BIG)).hexdigest())
        got.set()
        await reader.read()

    async def send(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        await _reader.read()

    async with serving(plane, target, receive), serving(plane, target, send, port=9001):
        async with pool_of(plane.kubeconfig, transport=transport) as pool:
            up, down = Sender(data), Local(BIG)
            stream = await pool.open(target, PORT, up)
            await pool.open(target, 9001, down)
            await up.send_all(stream)
            with anyio.fail_after(LIMIT):
                await got.wait()
            await came(down)
    want = hashlib.sha256(data).hexdigest()
    assert hashes == [want]
    assert hashlib.sha256(down.data).hexdigest() == want


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_two_hundred_connections_at_once(plane: ControlPlane, target: PodTarget, transport: str) -> None:
    async with serving(plane, target, echoing), pool_of(plane.kubeconfig, transport=transport) as pool:
        async with anyio.create_task_group() as group:
            for index in range(200):
                group.start_soon(echo_once, pool, target, b"number %d" % index)
    assert plane.node.counters(target.namespace, target.pod).failed == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cut_is_reported_and_the_next_open_dials(
    plane: ControlPlane, target: PodTarget, transport: str
) -> None:
    async with serving(plane, target, echoing):
        async with pool_of(plane.kubeconfig, transport=transport, spare=0) as pool:
            local = Local(4)
            stream = await pool.open(target, PORT, local, b"here")
            await came(local)
            assert plane.node.cut(target.namespace, target.pod) == 1
            end = await ended(stream)
            assert (end.kind, end.received, end.sent) == ("tunnel-lost", 4, 4)
            await echo_once(pool, target, b"again")


def _wait_for_rights(plane: ControlPlane, kubeconfig: Path, namespace: str, verbs: list[str]) -> None:
    """The API server learns of a new role a moment later."""

    def allowed(verb: str) -> bool:
        asked = ("auth", "can-i", verb, "pods", "--subresource=portforward", "-n", namespace)
        return plane.kubectl(*asked, kubeconfig=kubeconfig, check=False).startswith("yes")

    for verb in verbs:
        wait_until("rights", lambda verb=verb: allowed(verb), LIMIT)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("verbs", "transport"), [(["create"], "spdy"), (["get", "create"], "websocket"), (["get"], "")]
)
@pytest.mark.parametrize("preferred", TRANSPORTS)
async def test_what_a_role_allows_is_found(
    plane: ControlPlane, target: PodTarget, verbs: list[str], transport: str, preferred: str
) -> None:
    user = f"u{os.urandom(4).hex()}"
    rules = [{"apiGroups": [""], "resources": ["pods/portforward"], "verbs": verbs}]
    kubeconfig = plane.kubeconfig_for(user, rules=rules, namespace=target.namespace)
    _wait_for_rights(plane, kubeconfig, target.namespace, verbs)
    endpoint = load_endpoint(KrayneSettings(kubeconfig=str(kubeconfig)), {"PATH": os.environ["PATH"]})
    pool = TunnelPool(endpoint, remembered=preferred, settings=TunnelSettings(spare=0))
    async with serving(plane, target, echoing), anyio.create_task_group() as tasks:
        await tasks.start(pool.run)
        if transport:
            local = Local(2)
            await pool.open(target, PORT, local, b"me")
            await came(local)
            used = pool.stats[target.uid].tunnels
            assert used == (("spdy",) if transport == "spdy" else (preferred,))
        else:
            with pytest.raises(KrayneError) as caught:
                await pool.open(target, PORT, Local())
            assert caught.value.kind == "forbidden"
            assert "pods/portforward" in caught.value.message
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_pod_that_stops_reading_blocks_nobody(plane: ControlPlane, target: PodTarget, transport: str) -> None:
    """64 MB offered to a process that does not read: a bounded part leaves, and neighbours on the same tunnel live."""
    data = os.urandom(64_000_000)
    got: list[str] = []
    done = anyio.Event()

    async def read_it_all(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        digest = hashlib.sha256()
        for _ in range(len(data) // 64_000):
            digest.update(await reader.readexactly(64_000))
        got.append(digest.hexdigest())
        done.set()

    async with serving(plane, target, read_it_all), serving(plane, target, echoing, port=9001):
        async with pool_of(plane.kubeconfig, transport=transport, total=1) as pool:
            plane.node.fault(target.namespace, target.pod, PORT, stall_up=True)
            up = Sender(data)
            stream = await pool.open(target, PORT, up)
            async with anyio.create_task_group() as group:
                group.start_soon(up.send_all, stream)
                with anyio.fail_after(LIMIT):
                    while not up.paused:
                        await anyio.sleep(0.01)
                for _ in range(20):
                    beside = Local(4)
                    neighbour = await pool.open(target, 9001, beside, b"echo")
                    await came(beside)
                    neighbour.abort("done")
                assert stream.sent < 8_000_000
                assert plane.node.counters(target.namespace, target.pod).tunnels_total == 1
                plane.node.clear(target.namespace, target.pod, PORT)
            with anyio.fail_after(LIMIT):
                await done.wait()
    assert got == [hashlib.sha256(data).hexdigest()]


class Slow(Local):
    """A local side that stops taking after the first bytes."""

    def write(self, data: Buffer) -> None:
        super().write(data)
        if self.peer is not None and not self.paused:
            self.peer.pause_reading()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_that_stops_reading_blocks_nobody(
    plane: ControlPlane, target: PodTarget, transport: str
) -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # uvloop answers a write after the peer's reset with RuntimeError, asyncio with OSError.
        with contextlib.suppress(OSError, RuntimeError):
            while not writer.is_closing():
                writer.write(bytes(65536))
                await writer.drain()

    async with serving(plane, target, endless), serving(plane, target, echoing, port=9001):
        async with pool_of(plane.kubeconfig, transport=transport) as pool:
            slow = Slow(1)
            stream = await pool.open(target, PORT, slow)
            await came(slow)
            for _ in range(20):
                beside = Local(4)
                neighbour = await pool.open(target, 9001, beside, b"echo")
                await came(beside)
                neighbour.abort("done")
            assert len(slow.data) + len(stream.kept) < 1_000_000
            stream.abort("enough")
