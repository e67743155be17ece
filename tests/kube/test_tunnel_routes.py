"""From a kubeconfig to a tunnel: own authority, client certificate, another server name, path prefix, proxies."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from kraynd.core.model import PodTarget
from kraynd.kube.auth import load_endpoint
from kraynd.kube.tunnel import TunnelPool, TunnelSettings
from krayne.config import KrayneSettings
from krayne.errors import KrayneError
from tests.kube.fake_node import Node
from tests.kube.test_tunnel import LIMIT, Local, Proxy

pytestmark = pytest.mark.anyio
TARGET = PodTarget("default", "pod-0", "uid-0", running=True, ready=True)
PREFIX = "/k8s/clusters/c-m-1"
TRANSPORTS = ["spdy", "websocket"]
OUTSIDE = "api.corp.invalid"  # not loopback: the environment's proxy is for it


@dataclass
class Place:
    """A server with its own authority that wants a client certificate and is called kubernetes.internal."""

    node: Node
    port: int
    authority: trustme.CA

    def kubeconfig(self, folder: Path, *, host: str = "127.0.0.1", **cluster: str) -> Path:
        mine = self.authority.issue_cert("me@example.org")
        made: dict[str, Any] = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [
                {
                    "name": "c",
                    "cluster": {
                        "server": f"https://{host}:{self.port}{PREFIX}",
                        "certificate-authority-data": _base64(self.authority.cert_pem.bytes()),
                        "tls-server-name": "kubernetes.internal",
                        **cluster,
                    },
                }
            ],
            "users": [
                {
                    "name": "u",
                    "user": {
                        "client-certificate-data": _base64(b"".join(one.bytes() for one in mine.cert_chain_pems)),
                        "client-key-data": _base64(mine.private_key_pem.bytes()),
                    },
                }
            ],
        }
        path = folder / "config"
        path.touch(mode=0o600)
        path.write_text(json.dumps(made))
        return path


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("kubernetes.internal").configure_cert(tls)
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED
    node = Node()
    yield Place(node, await node.start(tls), authority)
    await node.stop()


class Known(Proxy):
    """A proxy that knows where every name is: here."""

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        assert host in (OUTSIDE, "127.0.0.1")
        await self._join(reader, writer, "127.0.0.1", int(port))


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[Known, str]]:
    one = Known()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    try:
        yield one, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await one.end()


async def echoes(kubeconfig: Path, transport: str, environ: dict[str, str]) -> None:
    endpoint = load_endpoint(KrayneSettings(kubeconfig=str(kubeconfig)), {"PATH": "/usr/bin:/bin", **environ})
    pool = TunnelPool(endpoint, settings=TunnelSettings(transport=transport))
    failed: list[KrayneError] = []
    with anyio.fail_after(LIMIT * 3):
        async with anyio.create_task_group() as tasks:
            await tasks.start(pool.run)
            local = Local(100_000)
            try:
                await pool.open(TARGET, 80, local, bytes(100_000))
                await local.enough.wait()
            except KrayneError as error:
                failed.append(error)
            tasks.cancel_scope.cancel()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_authority_certificate_name_and_prefix_of_a_kubeconfig(
    place: Place, tmp_path: Path, transport: str
) -> None:
    await echoes(place.kubeconfig(tmp_path), transport, {})
    path = f"{PREFIX}/api/v1/namespaces/default/pods/pod-0/portforward"
    assert {one.target for one in place.node.requests} == {path}
    with pytest.raises(KrayneError, match="not trusted"):
        await echoes(place.kubeconfig(tmp_path, **{"tls-server-name": "127.0.0.1"}), transport, {})
    stranger = Place(place.node, place.port, trustme.CA())
    with pytest.raises(KrayneError, match="not trusted"):
        await echoes(stranger.kubeconfig(tmp_path), transport, {})


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("how", ["proxy-url", "HTTPS_PROXY", "https_proxy"])
async def test_through_the_proxy_of_the_kubeconfig_or_the_environment(
    place: Place, tmp_path: Path, transport: str, how: str
) -> None:
    async with proxy() as (relay, address):
        url = f"http://{address}"
        if how == "proxy-url":
            await echoes(place.kubeconfig(tmp_path, host=OUTSIDE, **{how: url}), transport, {})
        else:
            await echoes(place.kubeconfig(tmp_path, host=OUTSIDE), transport, {how: url})
        assert relay.asked[0].startswith(f"CONNECT {OUTSIDE}:{place.port} HTTP/1.1\r\n".encode())


async def test_a_server_on_loopback_needs_no_proxy_of_the_environment(place: Place, tmp_path: Path) -> None:
    async with proxy() as (relay, address):
        await echoes(place.kubeconfig(tmp_path), "auto", {"HTTPS_PROXY": f"http://{address}"})
        assert relay.asked == []


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_a_proxy_refuses_is_said(tmp_path: Path, place: Place, transport: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(KrayneError, match="proxy refused the connection: 407"):
            await echoes(place.kubeconfig(tmp_path, host=OUTSIDE, **{"proxy-url": url}), transport, {})
