"""A WebSocket to the API server for exec: dial, messages, end. Backpressure both ways, and nothing is lost at the end.

Over a plain socket and anyio's TLS: asyncio's and uvloop's transports, and so aiohttp's WebSocket, drop what is still
to be read when the peer closes while a slow reader has them paused, or when a write fails.
"""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from kraynd.core import websocket
from kraynd.core.http1 import ResponseHead, read_head, request_bytes
from kraynd.core.wsmessages import MessageReader
from kraynd.kube.auth import ApiEndpoint
from kraynd.kube.dial import random_keys
from kraynd.kube.refusals import refusal, unreachable
from kraynd.kube.transport import DialLimits, Place, connect_request, open_socket, place_of
from krayne.errors import KrayneError, ProtocolError

READ_SIZE = 65_536
REFUSAL_LIMIT = 64 * 1024  # bytes of a refusal's text
REFUSAL_SECONDS = 2.0
GOODBYE_SECONDS = 1.0
LOST = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class _Socket(ByteStream):
    """A connected socket. What came before a failed write can still be read."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def receive(self, max_bytes: int = READ_SIZE) -> bytes:
        """Some bytes. Raises EndOfStream, BrokenResourceError."""
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except OSError as error:
                raise anyio.BrokenResourceError from error
            else:
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        """All of it. Raises BrokenResourceError."""
        left = memoryview(item)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """Nothing more will be sent."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Let go of it."""
        self._socket.close()


class WebSocket:
    """An open one. One reader and any number of writers."""

    def __init__(self, stream: ByteStream, protocol: str, first: bytes) -> None:
        self.protocol = protocol
        self._stream = stream
        self._reader = MessageReader(first)
        self._dress = websocket.Dress(random_keys())
        self._sending = anyio.Lock()

    async def send(self, data: bytes, opcode: int = websocket.BINARY) -> None:
        """One message. Raises ConnectionError when the other side is gone."""
        async with self._sending:
            try:
                await self._stream.send(self._dress.frame([data], opcode))
            except LOST as error:
                raise ConnectionResetError("the API server closed the connection") from error

    async def messages(self) -> AsyncIterator[bytes]:
        """Binary messages until either side ends. Raises ProtocolError."""
        try:
            while True:
                while (one := self._reader.take()) is not None:
                    opcode, payload = one
                    if opcode == websocket.BINARY:
                        yield payload
                    elif opcode == websocket.PING:
                        await self.send(payload, websocket.PONG)
                    elif opcode == websocket.CLOSE:
                        return
                self._reader.feed(await self._stream.receive(READ_SIZE))
        except LOST:
            return

    async def aclose(self) -> None:
        """Say goodbye, briefly, and let go."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(GOODBYE_SECONDS), suppress(ConnectionError):
                await self.send(b"\x03\xe8", websocket.CLOSE)  # 1000: all is done
            await anyio.aclose_forcefully(self._stream)


@asynccontextmanager
async def opened(
    endpoint: ApiEndpoint, path: str, protocols: Sequence[str], limits: DialLimits | None = None
) -> AsyncIterator[WebSocket]:
    """A WebSocket to `path`, below the server's prefix. Raises the KrayneErrors of `refusals`."""
    limits = limits or DialLimits()
    found = await _attempt(endpoint, path, protocols, limits, refresh=False)
    if found is None:
        found = await _attempt(endpoint, path, protocols, limits, refresh=True)
    if found is None:
        raise endpoint.login_needed()
    try:
        yield found
    finally:
        await found.aclose()


async def _attempt(
    endpoint: ApiEndpoint, path: str, protocols: Sequence[str], limits: DialLimits, *, refresh: bool
) -> WebSocket | None:
    """None: the credentials are refused."""
    headers = await endpoint.headers(refresh)  # first: it may bring a new certificate
    place, nonce = place_of(endpoint.server), os.urandom(16)
    wanted = websocket.handshake_headers(nonce, ", ".join(protocols))
    request = request_bytes("GET", place.prefix + path, {"Host": place.authority, **headers, **wanted})
    stream: ByteStream | None = None
    try:
        stream = await _connect(endpoint, place, limits)
        with anyio.fail_after(limits.upgrade):
            await stream.send(request)
            head, rest = await _head(stream)
        if head.status != HTTPStatus.SWITCHING_PROTOCOLS:
            await _refuse(endpoint, stream, head, rest)
            return None
        return WebSocket(stream, _agreed(head, nonce, protocols), rest)
    except BaseException as error:
        if stream is not None:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)
        if isinstance(error, (*LOST, TimeoutError)):
            why = error if isinstance(error, OSError) else ConnectionResetError("it closed the connection")
            raise unreachable(endpoint.server, why) from None
        raise


def _agreed(head: ResponseHead, nonce: bytes, protocols: Sequence[str]) -> str:
    """The protocol the server chose. Raises ProtocolError."""
    chosen = head.headers.get("sec-websocket-protocol", "")
    if chosen not in protocols:
        raise ProtocolError("the API server speaks no protocol of ours for commands in pods")
    websocket.check_handshake(head.headers, nonce, chosen)
    return chosen


async def _refuse(endpoint: ApiEndpoint, stream: ByteStream, head: ResponseHead, rest: bytes) -> None:
    """Raises what the refusal means, but for refused credentials."""
    body, size = bytearray(rest), head.body_size
    with anyio.move_on_after(REFUSAL_SECONDS):
        try:
            while len(body) < (REFUSAL_LIMIT if size is None else min(size, REFUSAL_LIMIT)):
                body += await stream.receive(READ_SIZE)
        except LOST:
            pass  # what there is must do
    with anyio.CancelScope(shield=True):
        await anyio.aclose_forcefully(stream)
    if head.status != HTTPStatus.UNAUTHORIZED:
        text = endpoint.masked(bytes(body).decode("utf-8", "replace"))
        error: KrayneError = refusal(head.status, text.encode(), endpoint.server)
        raise error


async def _head(stream: ByteStream) -> tuple[ResponseHead, bytes]:
    data = bytearray()
    while (head := read_head(data)) is None:
        data += await stream.receive(READ_SIZE)
    return head, bytes(data[head.size :])


async def _connect(endpoint: ApiEndpoint, place: Place, limits: DialLimits) -> ByteStream:
    """A connection to the API server, through its proxy where there is one, ready for a request."""
    proxy = place_of(endpoint.proxy) if endpoint.proxy else None
    first = proxy or place
    stream: ByteStream = _Socket(await open_socket(first, limits))
    try:
        with anyio.fail_after(limits.connect + limits.tls):
            if proxy is not None:
                if proxy.tls:
                    stream = await _secured(stream, ssl.create_default_context(), proxy.host)
                await stream.send(connect_request(endpoint.proxy or "", place))
                head, _ = await _head(stream)
                if head.status // 100 != 2:
                    raise ProtocolError(f"the proxy refused the connection: {head.status} {head.reason}".rstrip())
            if place.tls:
                context = endpoint.ssl or ssl.create_default_context()
                stream = await _secured(stream, context, endpoint.server_hostname or place.host)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)
        raise
    return stream


async def _secured(stream: ByteStream, context: ssl.SSLContext, hostname: str) -> ByteStream:
    # Servers end without TLS's own goodbye; the WebSocket has one of its own.
    return await TLSStream.wrap(stream, hostname=hostname, ssl_context=context, standard_compatible=False)
