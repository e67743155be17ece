"""Takes a connection over from HTTP: a 101, then raw bytes, or WebSocket frames around them.

Owns the protocol switch under aiohttp. Invariant: aiohttp hears of the connection's end, so its own books are right.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import anyio
from aiohttp import web

from kraynd.core import websocket
from kraynd.core.pipe import Buffer
from krayne.errors import ProtocolError
from krayne_sandbox.core.statuses import bad_request

RECEIVE_BUFFER: Final = 64 * 1024
GOODBYE_SECONDS: Final = 1.0  # for the client to take leave of TLS


class Session(Protocol):
    """What speaks over the connection."""

    def feed(self, view: memoryview) -> None:
        """The client's next bytes. Raises ProtocolError."""

    def ended(self) -> None:
        """The connection is gone."""


def upgrade_of(request: web.Request) -> str:
    """The protocol a client asks to change to, in lower case; none for a plain request."""
    if "upgrade" not in request.headers.get("Connection", "").lower():
        return ""
    return request.headers.get("Upgrade", "").lower()


def chosen(request: web.Request, header: str, known: Sequence[str]) -> str:
    """The client's first protocol that we know. Raises StatusError."""
    offered = [one.strip() for value in request.headers.getall(header, []) for one in value.split(",")]
    for one in offered:
        if one in known:
            return one
    raise bad_request(f"unable to negotiate protocol: client supports {offered}, server accepts {list(known)}")


class Carrier(asyncio.BufferedProtocol):
    """The connection after its 101. Made, then `start`ed once the session is there."""

    def __init__(self, request: web.Request, *, framed: bool) -> None:
        if request.transport is None:
            raise ConnectionResetError("the client has left")
        self._transport = request.transport
        self._socket = request.transport.get_extra_info("socket")
        self._http = request.protocol
        self._buffer = memoryview(bytearray(RECEIVE_BUFFER))
        self._stripper = websocket.FrameStripper(masked=True) if framed else None
        self._dress = websocket.Dress(None)
        self._session: Session | None = None
        self._held: set[object] = set()
        self.writable: Callable[[bool], None] = lambda _: None
        self.over = asyncio.Event()

    def start(self, session: Session, head: Sequence[str]) -> None:
        """Answer 101 and hand everything that follows to the session."""
        self._session = session
        self._transport.set_protocol(self)
        self._transport.write(("\r\n".join(("HTTP/1.1 101 Switching Protocols", *head)) + "\r\n\r\n").encode())
        self._transport.resume_reading()  # aiohttp may have paused it for the body that was never there

    # asyncio calls these.

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 asyncio names it
        """Part of asyncio's protocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Part of asyncio's protocol."""
        view = self._buffer[:nbytes]
        try:
            if self._stripper is not None:
                view = view[: self._stripper.strip(view)]
                for one in self._stripper.replies:
                    self._transport.write(self._dress.frame([one], websocket.PONG))
                self._stripper.replies.clear()
            if self._session is not None and len(view):
                self._session.feed(view)
        except ProtocolError:
            self._transport.abort()
            return
        if self._stripper is not None and self._stripper.closed is not None:
            self.close()

    def eof_received(self) -> None:
        """Part of asyncio's protocol."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's protocol."""
        session, self._session = self._session, None
        if session is not None:
            session.ended()
        self.over.set()
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        """Part of asyncio's protocol."""
        self.writable(False)

    def resume_writing(self) -> None:
        """Part of asyncio's protocol."""
        self.writable(True)

    # The session calls these.

    def write(self, parts: Sequence[Buffer]) -> None:
        """Bytes to the client."""
        if self._session is not None and not self._is_ending:
            self._transport.write(self._dress.frame(parts) if self._stripper is not None else b"".join(parts))

    @property
    def _is_ending(self) -> bool:
        return self.over.is_set() or self._transport.is_closing()

    def hold(self, who: object) -> None:
        """Read no more until `who` releases it."""
        self._held.add(who)
        if not self._is_ending:
            self._transport.pause_reading()

    def release(self, who: object) -> None:
        """Read on, if nobody else holds it."""
        self._held.discard(who)
        if not self._held and not self._is_ending:
            self._transport.resume_reading()

    async def closed(self) -> None:
        """Say goodbye, and be sure that the connection is gone when this returns."""
        self.close()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(GOODBYE_SECONDS):
                await self.over.wait()
            if not self.over.is_set():
                self._transport.abort()
                with suppress(OSError):  # Python 3.11's TLS does nothing once it was closed twice, by us and aiohttp
                    self._socket.shutdown(socket.SHUT_RDWR)
                await self.over.wait()

    def close(self) -> None:
        """Say goodbye and end the connection."""
        if not self._is_ending:
            if self._stripper is not None:
                with suppress(OSError):
                    self._transport.write(self._dress.frame([b"\x03\xe8"], websocket.CLOSE))
            self._transport.close()


def websocket_head(request: web.Request, protocol: str) -> list[str]:
    """The head of a 101 to WebSocket."""
    return [
        "Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Protocol: {protocol}",
        f"Sec-WebSocket-Accept: {websocket.accept_key(request.headers.get('Sec-WebSocket-Key', ''))}",
    ]  # fmt: skip


def spdy_head(protocol: str) -> list[str]:
    """The head of a 101 to SPDY."""
    return ["Connection: Upgrade", "Upgrade: SPDY/3.1", f"X-Stream-Protocol-Version: {protocol}"]
