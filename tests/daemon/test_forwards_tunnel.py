"""Both halves of a forward together: local sockets, the tunnel pool, and a node in this process that speaks SPDY."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from kraynd.core.model import ClusterKey, ForwardKey
from kraynd.core.podside import PodPair
from kraynd.forwards import Forwards, ForwardSpec, ForwardState
from kraynd.kube.tunnel import TunnelPool, TunnelSettings
from tests.daemon.fakepod import head
from tests.daemon.localhost import LOOPS, Client, free_port, until
from tests.kube.fake_node import Echo, Inbox, Node
from tests.kube.test_tunnel import Endpoint

pytestmark = pytest.mark.anyio

CLUSTER = ClusterKey("default", "demo")
KEY = ForwardKey("default", "demo", "ssh")


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(params=["spdy", "websocket"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def echo(pair: PodPair) -> None:
    Echo(pair)


class Lane:
    """One forward to port 80 of a pod on `node`."""

    def __init__(self, forwards: Forwards, pool: TunnelPool, node: Node, port: int) -> None:
        self.forwards = forwards
        self.pool = pool
        self.node = node
        self.port = port

    @property
    def state(self) -> ForwardState:
        return self.forwards.states()[KEY]

    def aim(self, uid: str = "uid-1") -> None:
        self.forwards.aim(CLUSTER, self.pool, head(uid), "")

    async def talk(self, word: bytes = b"hello") -> None:
        """One connection, there and back."""
        client = Client.to(self.port)
        await client.say(word)
        client.finish()
        assert await client.hear_all() == word
        client.socket.close()


@asynccontextmanager
async def lane(tmp_path: Path, transport: str, node: Node | None = None) -> AsyncIterator[Lane]:
    node = node or Node()
    endpoint = Endpoint(await node.start())
    pool = TunnelPool(endpoint, settings=TunnelSettings(transport=transport))
    forwards = Forwards(socket_dir=str(tmp_path / "run"), on_change=lambda _: None)
    port = free_port()
    forwards.want([ForwardSpec(KEY, 80, port, "tcp")])
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(pool.run)
            await tasks.start(forwards.run)
            made = Lane(forwards, pool, node, port)
            await until(lambda: made.state.socket != "")
            made.aim()
            yield made
            tasks.cancel_scope.cancel()
    finally:
        await node.stop()


async def test_cold_then_warm(tmp_path: Path, transport: str) -> None:
    async with lane(tmp_path, transport) as forward:
        for _ in range(20):
            await forward.talk()
        await until(lambda: forward.state.connections == 0)
        state = forward.state
        assert (state.state, state.total, state.bytes_in, state.bytes_out) == ("listening", 20, 100, 100)
        assert (state.refused, state.reconnects, state.last_error) == (0, 0, "")


async def test_five_hundred_at_once_on_a_cold_forward(tmp_path: Path, transport: str) -> None:
    async with lane(tmp_path, transport) as forward:
        clients = [Client.to(forward.port) for _ in range(500)]
        for number, client in enumerate(clients):
            client.socket.send(b"%03d" % number)
        for number, client in enumerate(clients):
            assert await client.hear_exactly(3) == b"%03d" % number
            client.reset()
        assert forward.state.refused == 0


async def test_a_port_that_is_refused_is_served_once_it_listens(tmp_path: Path, transport: str) -> None:
    programs: dict[int, Callable[[PodPair], None]] = {}
    node = Node(programs=programs)
    async with lane(tmp_path, transport, node) as forward:
        client = Client.to(forward.port)
        await client.say(b"POST")
        await until(lambda: forward.state.reconnects >= 2)
        assert forward.state.state == "refused"
        assert "nothing listens on port 80" in forward.state.reason
        programs[80] = echo
        assert await client.hear() == b"POST"
        assert forward.state.state == "connected"
        client.socket.close()


async def test_resets_pass_both_ways(tmp_path: Path, transport: str) -> None:
    boxes: list[Inbox] = []
    node = Node(programs={80: lambda pair: boxes.append(Inbox(pair))})
    async with lane(tmp_path, transport, node) as forward:
        client = Client.to(forward.port)
        await client.say(b"x")
        await until(lambda: bool(boxes) and boxes[0].data == b"x")
        client.reset()
        with anyio.fail_after(20):
            await boxes[0].was_reset.wait()
        client = Client.to(forward.port)
        await client.say(b"x")
        await until(lambda: len(boxes) == 2 and boxes[1].data == b"x")
        boxes[1].pair.send(b"y")
        assert await client.hear() == b"y"
        boxes[1].pair.fail("read tcp4 127.0.0.1:80: read: connection reset by peer")
        with pytest.raises(ConnectionResetError):
            await client.hear()
        client.socket.close()


async def test_cuts_refuse_nobody(tmp_path: Path, transport: str) -> None:
    """An open talk ends with a reset, one that has said nothing goes on, and newcomers are served."""
    async with lane(tmp_path, transport) as forward:
        talking, silent = Client.to(forward.port), Client.to(forward.port)
        await talking.say(b"x")
        assert await talking.hear() == b"x"
        await until(lambda: forward.state.connections == 2)
        forward.node.cut()
        with pytest.raises(ConnectionResetError):
            await talking.hear()
        await silent.say(b"y")
        assert await silent.hear() == b"y"
        for _ in range(5):
            forward.node.cut()
            # What is written into a cut that is not noticed yet is lost, and must not be sent twice: notice it first.
            await until(lambda: not any(one.tunnels for one in forward.pool.stats.values()))
            await forward.talk()
        assert forward.state.refused == 0
        talking.socket.close()
        silent.socket.close()


async def test_a_replaced_pod_refuses_nobody(tmp_path: Path, transport: str) -> None:
    async with lane(tmp_path, transport) as forward:
        await forward.talk()
        forward.forwards.aim(CLUSTER, None, None, "the head pod is being replaced")
        forward.pool.drop("uid-1")
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(forward.talk, b"%d" % number)
            await until(lambda: forward.state.held == 20)
            forward.aim("uid-2")
        assert forward.state.refused == 0


async def test_a_stalled_client_keeps_little_and_loses_nothing(tmp_path: Path, transport: str) -> None:
    total = 24 << 20
    pairs: list[PodPair] = []

    def program(pair: PodPair) -> None:
        pairs.append(pair)
        pair.receiver = Echo(pair)

    async with lane(tmp_path, transport, Node(programs={80: program})) as forward:
        stalled = Client.to(forward.port)
        await until(lambda: len(pairs) == 1)

        async def send() -> None:
            tunnel = next(one for one in forward.node.tunnels)
            for _ in range(total >> 16):
                pairs[0].send(bytes(65536))
                await tunnel.writer.drain()
            pairs[0].close()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            connection = next(iter(forward.forwards._forwards[KEY]._clients._connections))
            await until(lambda: connection._pausing_peer)
            await asyncio.sleep(0)
            assert connection.buffered <= 1 << 20
            await forward.talk(b"beside it")
            heard = 0
            while part := await stalled.hear(1 << 20):
                heard += len(part)
            assert heard == total
        stalled.socket.close()
