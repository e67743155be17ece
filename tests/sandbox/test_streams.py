"""The sandbox's streams: the daemon's own tunnels on both transports, and exec as any WebSocket client speaks it."""

import asyncio
import json
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import anyio
import pytest

from kraynd.core.model import PodTarget
from kraynd.kube.auth import load_endpoint
from kraynd.kube.tunnel import PodStream, StreamEnd, TunnelPool, TunnelSettings
from krayne.config import KrayneSettings
from tests.kube.test_tunnel import Local
from tests.sandbox.running import LIMIT, Running
from tests.sandbox.things import pod

pytestmark = pytest.mark.anyio
PODS = "/api/v1/namespaces/default/pods"
TRANSPORTS = ["spdy", "websocket"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def target(api: Running) -> PodTarget:
    made = api.send("POST", PODS, pod("p")).json
    return PodTarget("default", "p", made["metadata"]["uid"], running=True, ready=True)


@asynccontextmanager
async def pool_of(api: Running, **settings: Any) -> AsyncIterator[TunnelPool]:
    settings_of = KrayneSettings(kubeconfig=str(api.served.kubeconfig))
    pool = TunnelPool(load_endpoint(settings_of, {"PATH": os.environ["PATH"]}), settings=TunnelSettings(**settings))
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            await tasks.start(pool.run)
            yield pool
            tasks.cancel_scope.cancel()


async def ended(stream: PodStream) -> StreamEnd:
    await stream.ended.wait()
    assert stream.result is not None
    return stream.result


class Listener:
    """What listens in the pod: answers with what it got, once the other side has ended. `gate`: when it may read."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.server.getsockname()[1])
        self.left = threading.Event()  # a client is gone
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self.server.accept()[0]
                self._clients.append(client)
                self._threads.append(threading.Thread(target=self._answer, args=(client,)))
                self._threads[-1].start()

    def _answer(self, client: socket.socket) -> None:
        self.gate.wait(LIMIT)
        data = bytearray()
        with suppress(OSError):
            while piece := client.recv(65536):
                data += piece
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        self.left.set()

    def close(self) -> None:
        self.gate.set()
        self._end(self.server)
        self._threads[0].join(LIMIT)  # no client comes any more
        for one in self._clients:
            self._end(one)
        for thread in self._threads[1:]:
            thread.join(LIMIT)

    def _end(self, sock: socket.socket) -> None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


@pytest.fixture
def listener(api: Running) -> Iterator[Listener]:
    made = Listener()
    api.node.ports[("p", 80)] = made.port
    yield made
    made.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_whole_bytes_and_half_closes(api: Running, target: PodTarget, listener: Listener, transport: str) -> None:
    listener.gate.set()
    async with pool_of(api, transport=transport) as pool:
        for payload in (b"hello", os.urandom(2_000_000)):
            local = Local(len(payload))
            stream = await pool.open(target, 80, local, payload)
            stream.write_eof()
            assert (await ended(stream)).kind == "eof"
            assert local.data == payload
        assert set(pool.stats[target.uid].tunnels) == {transport}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_refused_port_harms_nobody(api: Running, target: PodTarget, listener: Listener, transport: str) -> None:
    listener.gate.set()
    async with pool_of(api, transport=transport, per_pod=1, spare=0) as pool:
        local = Local(5)
        stream = await pool.open(target, 80, local, b"hello")
        for _ in range(20):
            refused = await pool.open(target, 9, Local(), b"to nobody")
            assert (await ended(refused)).kind == "refused"
        stream.write_eof()
        assert (await ended(stream)).kind == "eof"
        assert local.data == b"hello"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_reset_reaches_the_listener(
    api: Running, target: PodTarget, listener: Listener, transport: str
) -> None:
    listener.gate.set()
    async with pool_of(api, transport=transport) as pool:
        neighbour = await pool.open(target, 80, Local(), b"stays")  # an aborted stream that is alone ends its tunnel
        stream = await pool.open(target, 80, Local(), b"hello")
        stream.abort("the user left")
        assert (await ended(stream)).kind != "eof"
        assert await anyio.to_thread.run_sync(listener.left.wait, LIMIT)
        assert neighbour.result is None


async def test_a_listener_that_does_not_read_holds_the_sender(
    api: Running, target: PodTarget, listener: Listener
) -> None:
    """Nothing piles up in the sandbox: what is not read stays with who sends it."""
    async with pool_of(api, transport="spdy") as pool:
        local = Local(0)
        stream = await pool.open(target, 80, local)
        sent = 0
        while not local.paused and sent < 200_000_000:
            stream.write(bytes(65536))
            sent += 65536
            await anyio.sleep(0)
        assert local.paused
        assert sent < 100_000_000
        stream.abort("enough")
    listener.gate.set()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_pod_that_goes_takes_its_tunnels_along(
    api: Running, target: PodTarget, listener: Listener, transport: str
) -> None:
    async with pool_of(api, transport=transport) as pool:
        stream = await pool.open(target, 80, Local(), b"hello")
        await anyio.to_thread.run_sync(lambda: api.send("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0}))
        assert (await ended(stream)).kind != "eof"


async def test_a_gone_pod_is_told_before_the_upgrade(api: Running, target: PodTarget) -> None:
    api.send("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})
    async with pool_of(api) as pool:
        with pytest.raises(Exception, match="not found"):
            await pool.open(target, 80, Local())


# Exec.


@asynccontextmanager
async def executing(api: Running, protocol: str, *command: str, **query: str) -> AsyncIterator[Any]:
    tls = ssl.create_default_context(cafile=str(api.home / "ca.crt"))
    params = [("command", one) for one in command] + [("stdout", "true"), ("stderr", "true"), *query.items()]
    gone = asyncio.Event()

    class Protocol(aiohttp.client_proto.ResponseHandler):
        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            gone.set()

    connector = aiohttp.TCPConnector(ssl=tls)
    connector._factory = lambda: Protocol(loop=asyncio.get_running_loop())  # type: ignore[assignment]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {api.token}"}, connector=connector) as session:
        url = f"{api.served.url}{PODS}/p/exec"
        async with session.ws_connect(url, params=params, protocols=(protocol,)) as link:
            with anyio.fail_after(LIMIT):
                yield link
    await gone.wait()


async def heard(link: Any) -> tuple[dict[int, bytes], Any]:
    """All channels to the end, and the outcome."""
    said: dict[int, bytes] = {}
    async for message in link:
        said[message.data[0]] = said.get(message.data[0], b"") + message.data[1:]
    return said, json.loads(said.pop(3))


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_exec_tells_output_and_code(api: Running, target: PodTarget, protocol: str) -> None:
    async with executing(api, protocol, "sh", "-c", "echo out; echo err >&2; exit 7") as link:
        assert link.protocol == protocol
        said, outcome = await heard(link)
    assert said == {1: b"out\n", 2: b"err\n"}
    assert outcome["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]


async def test_exec_takes_input_and_its_end(api: Running, target: PodTarget) -> None:
    async with executing(api, "v5.channel.k8s.io", "cat", stdin="true") as link:
        await link.send_bytes(b"\x00hello")
        await link.send_bytes(b"\x04nonsense")
        await link.send_bytes(b"\xff\x00")
        said, outcome = await heard(link)
    assert said == {1: b"hello"}
    assert outcome["status"] == "Success"


@pytest.mark.parametrize(("protocol", "command"), [("v9.none", "cat"), ("v5.channel.k8s.io", "absent")])
async def test_what_cannot_be_run_is_refused(api: Running, target: PodTarget, protocol: str, command: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as met:
        async with executing(api, protocol, command):
            pass
    assert met.value.status == 400


async def test_a_client_that_leaves_ends_its_command(api: Running, target: PodTarget) -> None:
    async with executing(api, "v5.channel.k8s.io", "sh", "-c", "echo up; exec sleep 3600") as link:
        assert (await link.receive()).data == b"\x01up\n"
    waited = asyncio.run_coroutine_threadsafe(api.node.running[0].wait(), api.loop)
    assert await asyncio.wait_for(asyncio.wrap_future(waited), LIMIT) == 137
