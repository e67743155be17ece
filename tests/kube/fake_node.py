"""A streaming server in this process that speaks real bytes: HTTP upgrade, WebSocket, SPDY, with our pod-side session.

What listens behind a pod's port is a `Program`. What goes wrong is an attribute, read when the next request comes.
"""

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from kraynd.core import websocket
from kraynd.core.pipe import Buffer
from kraynd.core.podside import PodPair, PodSession
from krayne.errors import ProtocolError

Program = Callable[[PodPair], object]


class Echo:
    """Sends back what comes, and ends when the client does."""

    def __init__(self, pair: PodPair) -> None:
        self.pair = pair
        pair.receiver = self

    def on_data(self, data: memoryview) -> None:
        self.pair.send(bytes(data))

    def on_fin(self) -> None:
        self.pair.close()

    def on_reset(self) -> None:
        pass


class Inbox:
    """Keeps what comes; the test answers through `pair`."""

    def __init__(self, pair: PodPair) -> None:
        self.pair = pair
        self.data = bytearray()
        self.fin = asyncio.Event()
        self.was_reset = asyncio.Event()
        self.news = asyncio.Event()
        pair.receiver = self

    def on_data(self, data: memoryview) -> None:
        self.data += data
        self.news.set()

    def on_fin(self) -> None:
        self.fin.set()

    def on_reset(self) -> None:
        self.was_reset.set()


REFUSED = (
    "error forwarding port {0} to pod abc, uid : failed to execute portforward in network namespace "
    '"/var/run/netns/x": failed to connect to localhost:{0} inside namespace "x", IPv4: dial tcp4 127.0.0.1:{0}: '
    "connect: connection refused IPv6 dial tcp6 [::1]:{0}: connect: connection refused "
)


@dataclass
class Request:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass
class Node:
    """The server. `programs` by port; `answers` maps a transport to (status, headers, body) instead of a tunnel."""

    programs: Mapping[int, Program] = field(default_factory=lambda: {80: Echo})
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    token: str = ""
    silent: bool = False  # takes connections, says nothing
    mute: str = ""  # the transport that gets no answer
    glued: bytes = b""  # SPDY bytes in one segment with the 101
    wrong_protocol: bool = False
    requests: list[Request] = field(default_factory=list)
    tunnels: list["Tunnel"] = field(default_factory=list)
    opened: int = 0
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, tls: ssl.SSLContext | None = None) -> int:
        self.idle.set()
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()
        await self.idle.wait()
        await self.server.wait_closed()

    def cut(self) -> None:
        for tunnel in list(self.tunnels):
            tunnel.writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        self.idle.clear()
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, ProtocolError, ssl.SSLError):
                await self._converse(reader, writer)
        finally:
            writer.transport.abort()
            self.writers.discard(writer)
            if not self.writers:
                self.idle.set()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = _parse((await reader.readuntil(b"\r\n\r\n")).decode())
        self.requests.append(request)
        kind = "websocket" if request.headers.get("upgrade") == "websocket" else "spdy"
        if self.silent or self.mute == kind:
            await reader.read()
            return
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            writer.write(_answer(401, {}, status("Unauthorized", 401)))
        elif kind in self.answers:
            writer.write(_answer(*self.answers[kind]))
        else:
            await self._tunnel(kind, request, reader, writer)
            return
        await writer.drain()
        writer.close()

    async def _tunnel(
        self, kind: str, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "portforward.k8s.io"}
        if kind == "websocket":
            key = request.headers["sec-websocket-key"]
            head = {"Connection": "Upgrade", "Upgrade": "websocket"}
            head["Sec-WebSocket-Accept"] = websocket.accept_key(key)
            head["Sec-WebSocket-Protocol"] = request.headers["sec-websocket-protocol"]
        if self.wrong_protocol:
            head["Upgrade"] = "h2c"
        writer.write(_answer(101, head, b"") + self.glued)
        tunnel = Tunnel(self, kind, writer)
        self.tunnels.append(tunnel)
        self.opened += 1
        try:
            while data := await reader.read(65536):
                tunnel.feed(bytearray(data))
        finally:
            self.tunnels.remove(tunnel)
            tunnel.session.ended()


class Tunnel:
    """One accepted tunnel. `frozen`: it reads and drops, and never answers (a black hole)."""

    def __init__(self, node: Node, kind: str, writer: asyncio.StreamWriter) -> None:
        self.node = node
        self.kind = kind
        self.writer = writer
        self.frozen = False
        self.session = PodSession(self.write, self._on_pair)
        self._stripper = websocket.FrameStripper(masked=True) if kind == "websocket" else None
        self._dress = websocket.Dress(None)

    def write(self, parts: Sequence[Buffer]) -> None:
        if self.frozen or self.writer.transport.is_closing():
            return
        self.writer.write(self._dress.frame(parts) if self._stripper is not None else b"".join(parts))

    def feed(self, data: bytearray) -> None:
        if self.frozen:
            return
        view = memoryview(data)
        if self._stripper is not None:
            view = view[: self._stripper.strip(view)]
            for payload in self._stripper.replies:
                self.writer.write(self._dress.frame((payload,), websocket.PONG))
            self._stripper.replies.clear()
        self.session.feed(view)

    def _on_pair(self, pair: PodPair) -> None:
        program = self.node.programs.get(pair.port)
        if program is None:
            pair.fail(REFUSED.format(pair.port))
        else:
            program(pair)


def status(message: str, code: int) -> bytes:
    """A Status as the API server sends it."""
    return json.dumps({"kind": "Status", "apiVersion": "v1", "message": message, "code": code}).encode()


def _answer(code: int, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {code} Because", *(f"{name}: {value}" for name, value in headers.items())]
    if code != 101:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _parse(head: str) -> Request:
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(": ") for line in lines)
    return Request(method, target, {name.lower(): value for name, _, value in pairs})
