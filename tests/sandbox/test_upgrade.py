"""A connection taken over from HTTP: whoever ends it, and however often it is told to end, it ends once."""

import asyncio
import ssl
from types import SimpleNamespace

import anyio
import pytest
import trustme

from krayne_sandbox.api.upgrade import Carrier, spdy_head

pytestmark = pytest.mark.anyio
LIMIT = 30.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Http(asyncio.Protocol):
    """What aiohttp has on a connection before its 101."""

    def __init__(self) -> None:
        self.made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.set_result(transport)  # type: ignore[arg-type]


class Silence:
    """A session that says nothing."""

    def __init__(self) -> None:
        self.ends = 0

    def feed(self, view: memoryview) -> None: ...

    def ended(self) -> None:
        self.ends += 1


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("client_is", ["gone", "silent"])
async def test_it_ends_once(framed: bool, client_is: str) -> None:
    """Silent: it does not take leave of TLS, as a machine that sleeps."""
    authority = trustme.CA()
    server_tls, tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server_tls)
    authority.configure_trust(tls)
    http, session = Http(), Silence()
    server = await asyncio.get_running_loop().create_server(lambda: http, "127.0.0.1", 0, ssl=server_tls)
    port = server.sockets[0].getsockname()[1]
    with anyio.fail_after(LIMIT):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
        request = SimpleNamespace(transport=await http.made, protocol=http)
        carrier = Carrier(request, framed=framed)  # type: ignore[arg-type]
        carrier.start(session, spdy_head("x"))
        if client_is == "gone":
            writer.transport.abort()
            await carrier.over.wait()
        else:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(2):  # its pod is gone, and aiohttp closes what is open when it stops
            carrier.close()
            request.transport.close()
            carrier.hold(session)
            carrier.release(session)
            carrier.write([b"too late"])
        await carrier.closed()
        writer.transport.abort()
    server.close()
    assert session.ends == 1
