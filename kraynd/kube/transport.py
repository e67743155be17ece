"""Sockets for tunnels: connect, proxy, TLS, and one HTTP request that upgrades. Bytes only, no choice of transport.

Every wait has a deadline, and whatever fails or is cancelled leaves no socket behind. Connections are aborted, never
closed politely: nobody waits for a dead peer's farewell.
"""

import asyncio
import base64
import ipaddress
import socket
import sys
from asyncio import sslproto
from collections.abc import Mapping
from ssl import SSLContext, create_default_context
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import unquote, urlsplit

import anyio
import msgspec

from kraynd.core.http1 import BODY_LIMIT, HEAD_LIMIT, ResponseHead, read_head, request_bytes
from kraynd.kube.fasttls import connector
from krayne.errors import KubeConfigError, ProtocolError

sslproto.SSLProtocol.max_size = 64 * 1024  # asyncio's own TLS keeps a buffer of this size; 256 KiB is no faster

KEEPALIVE = (30, 10, 3)  # TCP's own: idle seconds, interval, count; a last resort under our pings
STAGGER = 0.25  # seconds before the next address is tried beside a slow one (RFC 8305)
PORTS = {"https": 443, "http": 80}


class DialLimits(msgspec.Struct, frozen=True):
    """Seconds for each step of a dial."""

    connect: float = 5.0
    tls: float = 5.0
    upgrade: float = 10.0


class Endpoint(Protocol):
    """Where the API server is and how to speak to it (`kube.auth` has the real one)."""

    @property
    def server(self) -> str:
        """scheme://host:port/prefix."""

    @property
    def ssl(self) -> SSLContext | None:
        """None for plain http."""

    @property
    def server_hostname(self) -> str | None:
        """The name to check the certificate against when it is not the host's."""

    @property
    def proxy(self) -> str | None:
        """http(s)://[user:password@]host:port of a CONNECT proxy."""

    async def headers(self, refresh: bool = False) -> dict[str, str]:
        """Authorization and impersonation; with `refresh` after a 401. Raises LoginNeededError."""


class Place(NamedTuple):
    """A server's address, and the path its API is below."""

    tls: bool
    host: str
    port: int
    prefix: str

    @property
    def authority(self) -> str:
        """host:port as HTTP writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def place_of(url: str) -> Place:
    """Read a server or proxy URL. Raises KubeConfigError; the URL may hold a password and is not quoted."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    try:
        port = parts.port or PORTS[parts.scheme]
    except (KeyError, ValueError):
        raise KubeConfigError(
            f"a {parts.scheme}:// address cannot be used for tunnels", hint="use an http:// or https:// address"
        ) from None
    if not parts.hostname:
        raise KubeConfigError("an address without a host name", hint="check server and proxy-url in the kubeconfig")
    return Place(parts.scheme == "https", parts.hostname, port, parts.path.rstrip("/"))


class Greeting(asyncio.BufferedProtocol):
    """Reads what a server says before the connection changes its protocol. Bounded."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._buffer = memoryview(bytearray(16 * 1024))
        self._news = anyio.Event()
        self._lost: Exception | None = None
        self._ended = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's protocol."""
        # Not asserted: uvloop's TLS transport has the methods, but not the class.
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 asyncio names it
        """Part of asyncio's protocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Part of asyncio's protocol."""
        self.data += self._buffer[:nbytes]
        if len(self.data) > HEAD_LIMIT + BODY_LIMIT and self._transport is not None:
            self._transport.pause_reading()
        self._news.set()

    def eof_received(self) -> None:
        """Part of asyncio's protocol."""
        self._ended = True
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's protocol."""
        self._ended, self._lost = True, exc
        self._news.set()

    def abort(self) -> None:
        """End the connection at once, if there is one."""
        if self._transport is not None:
            self._transport.abort()

    async def more(self) -> bool:
        """Wait for more data; False at the end. Raises the error the connection ended with."""
        size = len(self.data)
        while len(self.data) == size and not self._ended:
            self._news = anyio.Event()
            await self._news.wait()
        if len(self.data) == size and self._lost is not None:
            raise self._lost
        return len(self.data) > size

    async def head(self) -> ResponseHead:
        """The response's head, taken off `data`. Raises ProtocolError, OSError."""
        while (head := read_head(self.data)) is None:
            if not await self.more():
                raise ConnectionResetError("the server closed the connection without an answer")
        del self.data[: head.size]
        return head

    async def body(self, head: ResponseHead) -> bytes:
        """What can be had of the response's body."""
        size = BODY_LIMIT if head.body_size is None else head.body_size
        chunked = "chunked" in head.headers.get("transfer-encoding", "")
        while len(self.data) < size and not (chunked and self.data.endswith(b"0\r\n\r\n")) and await self.more():
            pass
        return _unchunked(bytes(self.data)) if chunked else bytes(self.data[:size])


def _unchunked(data: bytes) -> bytes:
    body = b""
    while data:
        line, _, rest = data.partition(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            break
        if not 0 < size <= len(rest):
            break
        body, data = body + rest[:size], rest[size + 2 :]
    return body


class Upgraded(NamedTuple):
    """A connection after a request: its transport, the answer, and the protocol that holds what came after the head."""

    transport: asyncio.Transport
    greeting: Greeting
    head: ResponseHead


async def send_upgrade(
    endpoint: Endpoint, method: str, path: str, headers: Mapping[str, str], limits: DialLimits
) -> Upgraded:
    """Connect and send one request; `path` comes below the server's prefix. Raises OSError, TimeoutError,
    ssl.SSLError, ProtocolError, KubeConfigError."""
    place = place_of(endpoint.server)
    transport, greeting = await connect(endpoint, place, limits)
    try:
        with anyio.fail_after(limits.upgrade):
            transport.write(request_bytes(method, place.prefix + path, {"Host": place.authority, **headers}))
            head = await greeting.head()
    except BaseException:
        transport.abort()
        raise
    return Upgraded(transport, greeting, head)


async def connect(endpoint: Endpoint, place: Place, limits: DialLimits) -> tuple[asyncio.Transport, Greeting]:
    """A connection to the API server, ready for its first request."""
    loop = asyncio.get_running_loop()
    greeting = Greeting()
    tls = _tls(endpoint, place)
    proxy = place_of(endpoint.proxy) if endpoint.proxy else None
    if proxy is not None and proxy.tls:
        outer = await _through_tls_proxy(endpoint.proxy or "", proxy, place, limits)
        if tls is None:
            outer.set_protocol(greeting)
            greeting.connection_made(outer)
            return outer, greeting
        return await _tls_within(outer, greeting, tls, endpoint.server_hostname or place.host, limits)
    sock = await open_socket(proxy or place, limits)
    try:
        if proxy is not None:
            await _ask_proxy(sock, endpoint.proxy or "", place, limits)
        if tls is None:
            transport, _ = await loop.create_connection(lambda: greeting, sock=sock)
        else:
            transport, _ = await connector(loop)(
                lambda: greeting,
                sock=sock,
                ssl=tls,
                server_hostname=endpoint.server_hostname or place.host,
                ssl_handshake_timeout=limits.tls,
            )
    except BaseException:
        greeting.abort()  # the handshake may have ended just before we were called off
        sock.close()
        raise
    return transport, greeting


def _tls(endpoint: Endpoint, place: Place) -> SSLContext | None:
    if not place.tls:
        return None
    return endpoint.ssl or create_default_context()


async def open_socket(place: Place, limits: DialLimits) -> socket.socket:
    """A connected TCP socket: addresses in order, a slow one beside the next. Raises OSError, TimeoutError."""
    won: list[socket.socket] = []
    errors: list[OSError] = []
    try:
        with anyio.fail_after(limits.connect):
            await _race(place, won, errors)
    except BaseException:
        for sock in won:
            sock.close()
        raise
    if not won:
        raise errors[0] if errors else OSError(f"no address for {place.host}")
    for late in won[1:]:
        late.close()
    won[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keep_alive(won[0])
    return won[0]


async def _race(place: Place, won: list[socket.socket], errors: list[OSError]) -> None:
    addresses = await _addresses(place)
    async with anyio.create_task_group() as group:

        async def attempt(family: int, address: Any, ended: anyio.Event) -> None:
            try:
                won.append(await _connected(family, address))
            except OSError as error:
                errors.append(error)
            else:
                group.cancel_scope.cancel()
            finally:
                ended.set()

        for family, address in addresses:
            ended = anyio.Event()
            group.start_soon(attempt, family, address, ended)
            with anyio.move_on_after(STAGGER):
                await ended.wait()


async def _connected(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _addresses(place: Place) -> list[tuple[int, Any]]:
    try:
        literal = ipaddress.ip_address(place.host)
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    family = socket.AF_INET6 if literal.version == 6 else socket.AF_INET
    return [(family, (place.host, place.port))]


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice a peer that is gone without a word."""
    idle, interval, count = KEEPALIVE
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle_option = getattr(socket, "TCP_KEEPALIVE" if sys.platform == "darwin" else "TCP_KEEPIDLE")
    sock.setsockopt(socket.IPPROTO_TCP, idle_option, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)


# Proxies.


def connect_request(proxy_url: str, target: Place) -> bytes:
    """What asks a proxy for a connection to `target`."""
    headers = {"Host": target.authority}
    parts = urlsplit(proxy_url)
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    return request_bytes("CONNECT", target.authority, headers)


def _check_connected(head: ResponseHead, leftover: bytes | bytearray) -> None:
    if head.status // 100 != 2:
        raise ProtocolError(f"the proxy refused the connection: {head.status} {head.reason}".rstrip())
    if leftover:
        raise ProtocolError("the proxy spoke before it was asked")


async def _ask_proxy(sock: socket.socket, proxy_url: str, target: Place, limits: DialLimits) -> None:
    """CONNECT over a plain socket, which is then a socket to the target."""
    loop = asyncio.get_running_loop()
    with anyio.fail_after(limits.connect):
        await loop.sock_sendall(sock, connect_request(proxy_url, target))
        data = bytearray()
        while (head := read_head(data)) is None:
            piece = await loop.sock_recv(sock, HEAD_LIMIT)
            if not piece:
                raise ConnectionResetError("the proxy closed the connection")
            data += piece
    _check_connected(head, data[head.size :])


async def _through_tls_proxy(proxy_url: str, proxy: Place, target: Place, limits: DialLimits) -> asyncio.Transport:
    """CONNECT over TLS to the proxy, whose certificate the system's authorities must know."""
    loop = asyncio.get_running_loop()
    greeting = Greeting()
    sock = await open_socket(proxy, limits)
    try:
        transport, _ = await loop.create_connection(
            lambda: greeting,
            sock=sock,
            ssl=create_default_context(),
            server_hostname=proxy.host,
            ssl_handshake_timeout=limits.tls,
        )
    except BaseException:
        greeting.abort()  # as in `connect`
        sock.close()
        raise
    try:
        with anyio.fail_after(limits.connect):
            transport.write(connect_request(proxy_url, target))
            _check_connected(await greeting.head(), greeting.data)
    except BaseException:
        transport.abort()
        raise
    return transport


async def _tls_within(
    outer: asyncio.Transport, greeting: Greeting, tls: SSLContext, hostname: str, limits: DialLimits
) -> tuple[asyncio.Transport, Greeting]:
    try:
        inner = await asyncio.get_running_loop().start_tls(
            outer, greeting, tls, server_hostname=hostname, ssl_handshake_timeout=limits.tls
        )
    except BaseException:
        outer.abort()
        raise
    if inner is None:
        raise ConnectionResetError("the proxy closed the connection")
    greeting.connection_made(inner)
    return inner, greeting
