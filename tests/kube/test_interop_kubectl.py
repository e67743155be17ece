"""Our pod side as the server of a real `kubectl port-forward`, over TLS and both of its transports."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
import trustme

from kraynd.core.podside import PodPair
from tests.controlplane.build import binary
from tests.kube.fake_node import Echo, Node, _parse

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.timeout(120)]
LIMIT = 60.0
MEGABYTE = 1 << 20
MANY = 50
ECHO, REVERSE, SINK, SOURCE, NOBODY = 7001, 7002, 7003, 7004, 7009
POD = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "pod-0", "namespace": "default", "uid": "1"},
    "spec": {"containers": [{"name": "main", "ports": []}]},
    "status": {"phase": "Running"},
}
ANSWERS = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [{"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get"]}],
    },
    "/api/v1/namespaces/default/pods/pod-0": POD,
}


class Api(Node):
    """The node, with as much of an API server in front as kubectl asks for before it forwards."""

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = _parse((await reader.readuntil(b"\r\n\r\n")).decode())
            self.requests.append(request)
            if "upgrade" in request.headers:
                kind = "websocket" if request.headers["upgrade"] == "websocket" else "spdy"
                await self._tunnel(kind, request, reader, writer)
                return
            found = ANSWERS.get(request.target.partition("?")[0])
            body = json.dumps(found or {"kind": "Status", "status": "Failure", "code": 404}).encode()
            status = "200 OK" if found else "404 Not Found"
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()


class Reverse(Echo):
    """Answers once the client has said all, with that backwards."""

    def __init__(self, pair: PodPair) -> None:
        super().__init__(pair)
        self.data = bytearray()

    def on_data(self, data: memoryview) -> None:
        self.data += data

    def on_fin(self) -> None:
        self.pair.send(bytes(self.data[::-1]))
        self.pair.close()


class Sink(Reverse):
    """Answers with how much came."""

    def on_data(self, data: memoryview) -> None:
        self.data += data
        if len(self.data) == MEGABYTE:
            self.pair.send(str(sum(self.data)).encode())
            self.pair.close()


class Source(Echo):
    """Says a megabyte and ends, whatever the client does."""

    def __init__(self, pair: PodPair) -> None:
        super().__init__(pair)
        pair.send(pattern())
        pair.close()

    def on_data(self, data: memoryview) -> None:
        pass


def pattern() -> bytes:
    return bytes(range(256)) * (MEGABYTE // 256)


@dataclass
class Forwarded:
    """A running kubectl: its local ports, and what it complains of."""

    node: Api
    process: asyncio.subprocess.Process
    ports: dict[int, int]


@asynccontextmanager
async def kubectl(tmp_path: Path, transport: str) -> AsyncIterator[Forwarded]:
    authority = trustme.CA()
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    node = Api(programs={ECHO: Echo, REVERSE: Reverse, SINK: Sink, SOURCE: Source})
    port = await node.start(server_tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {"name": "c", "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": "ca.pem"}}
        ],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    env = {"HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "config"), "PATH": os.environ["PATH"]}
    env["KUBECTL_PORT_FORWARD_WEBSOCKETS"] = "true" if transport == "websocket" else "false"
    wanted = (ECHO, REVERSE, SINK, SOURCE, NOBODY)
    process = await asyncio.create_subprocess_exec(
        str(binary("kubectl")),
        "port-forward",
        "pod/pod-0",
        *(f":{port}" for port in wanted),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        with anyio.fail_after(LIMIT):
            ports = await _ports(process, len(wanted))
        yield Forwarded(node, process, ports)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        await node.stop()


async def _ports(process: asyncio.subprocess.Process, count: int) -> dict[int, int]:
    assert process.stdout is not None
    assert process.stderr is not None
    ports: dict[int, int] = {}
    while len(ports) < count:
        line = (await process.stdout.readline()).decode()
        assert line, (await process.stderr.read()).decode()
        words = line.split()
        if words[2].startswith("127.0.0.1:"):
            ports[int(words[4])] = int(words[2].rpartition(":")[2])
    return ports


async def said(port: int, data: bytes, *, finish: bool) -> bytes:
    """Connect, send, perhaps end the sending, and read to the end or as much as was sent."""
    with anyio.fail_after(LIMIT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            if finish:
                writer.write_eof()
                return await reader.read()
            return await reader.readexactly(len(data))
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_kubectl_forwards_through_our_pod_side(tmp_path: Path, transport: str) -> None:
    async with kubectl(tmp_path, transport) as forwarded:
        ports = forwarded.ports
        assert await said(ports[ECHO], b"hello", finish=False) == b"hello"
        assert await said(ports[REVERSE], b"question", finish=True) == b"noitseuq"
        assert await said(ports[SOURCE], b"", finish=True) == pattern()
        with anyio.fail_after(LIMIT):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[SINK])
            writer.write(pattern())
            assert await reader.read() == str(sum(pattern())).encode()
            writer.close()
            await writer.wait_closed()
        answers: list[bytes] = []

        async def one(number: int) -> None:
            answers.append(await said(ports[ECHO], b"%05d" % number * 2000, finish=False))

        async with anyio.create_task_group() as group:
            for number in range(MANY):
                group.start_soon(one, number)
        assert sorted(answers) == [b"%05d" % number * 2000 for number in range(MANY)]
        assert [tunnel.kind for tunnel in forwarded.node.tunnels] == [transport]  # one tunnel, the asked one
        assert forwarded.process.returncode is None


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_kubectl_is_told_why_a_port_is_refused(tmp_path: Path, transport: str) -> None:
    async with kubectl(tmp_path, transport) as forwarded:
        with suppress(ConnectionError):
            assert await said(forwarded.ports[NOBODY], b"to nobody", finish=True) == b""
        assert forwarded.process.stderr is not None
        with anyio.fail_after(LIMIT):
            complaint = b""
            while b"connection refused" not in complaint:
                line = await forwarded.process.stderr.readline()
                assert line, complaint
                complaint += line
        assert f"dial tcp4 127.0.0.1:{NOBODY}".encode() in complaint
