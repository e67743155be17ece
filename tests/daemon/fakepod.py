"""A pod in this process: applications behind ports, and the streams and the pool that lead to them.

Keeps the law of the seam: a stream that must not deliver pauses the client, `on_end` comes before an abort, and nothing
is called on an end that is over.
"""

# ruff: noqa: ARG002 - small ends and owners hear more than they use

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from kraynd.core.model import PodTarget
from kraynd.core.pipe import Buffer, End, splice
from krayne.errors import KubeConnectionError


@dataclass(frozen=True)
class StreamEnd:
    kind: str
    message: str


class App:
    """What listens on a port. This one says nothing and keeps what it hears."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.heard_eof = anyio.Event()
        self.aborted = anyio.Event()

    def opened(self, stream: "PodStream") -> None: ...

    def data(self, stream: "PodStream", data: bytes) -> None:
        self.heard += data

    def eof(self, stream: "PodStream") -> None:
        self.heard_eof.set()

    def resumed(self, stream: "PodStream") -> None: ...

    def gone(self) -> None:
        self.aborted.set()


class Echo(App):
    def data(self, stream: "PodStream", data: bytes) -> None:
        super().data(stream, data)
        stream.push(data)

    def eof(self, stream: "PodStream") -> None:
        super().eof(stream)
        stream.push_eof()


class Banner(Echo):
    """Speaks first, as sshd does."""

    def opened(self, stream: "PodStream") -> None:
        stream.push(b"SSH-2.0-pod\r\n")


class LastWord(App):
    """Answers only once the client has said all, as `nc -N` and HTTP/1.0 posts want it."""

    def eof(self, stream: "PodStream") -> None:
        super().eof(stream)
        stream.push(b"heard " + str(len(self.heard)).encode())
        stream.push_eof()


class Flood(App):
    """Sends without end, as fast as it is taken."""

    CHUNK = bytes(64 * 1024)

    def __init__(self, total: int) -> None:
        super().__init__()
        self.left = total
        self.stopped = anyio.Event()

    def opened(self, stream: "PodStream") -> None:
        asyncio.get_running_loop().call_soon(self.resumed, stream)

    def resumed(self, stream: "PodStream") -> None:
        if self.left and not stream.paused and stream.result is None:
            self.left -= len(self.CHUNK)
            stream.push(self.CHUNK)
            asyncio.get_running_loop().call_soon(self.resumed, stream)
        elif stream.paused:
            self.stopped.set()
        elif not self.left:
            stream.push_eof()
            stream.end("eof", "")


class Closed(App):
    """A port nobody listens on."""

    def opened(self, stream: "PodStream") -> None:
        asyncio.get_running_loop().call_soon(stream.end, "refused", "nothing listens on the port in the pod")


class PodStream:
    """A `Stream` whose other end is an application."""

    def __init__(self, app: App) -> None:
        self.peer: End | None = None
        self.on_end: Callable[[StreamEnd], None] | None = None
        self.result: StreamEnd | None = None
        self.app = app
        self.paused = False
        self.queue: list[bytes] = []  # what the application said while paused
        self._eof_in = self._eof_out = False

    def begin(self, local: End, first: bytes) -> None:
        splice(self, local)
        if first:
            self.app.data(self, first)
        self.app.opened(self)

    # The end, as the client's side sees it.

    def write(self, data: Buffer) -> None:
        assert self.result is None
        assert not self._eof_in
        self.app.data(self, bytes(data))

    def write_eof(self) -> None:
        assert self.result is None
        assert not self._eof_in
        self._eof_in = True
        self.app.eof(self)
        self._end_if_done()

    def abort(self, reason: str) -> None:
        if self.result is None:
            self.peer = None
            self.result = StreamEnd("reset", reason)
            self.app.gone()

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        while self.queue and not self.paused and self.peer is not None:
            self.peer.write(self.queue.pop(0))
        if not self.paused and self.peer is not None:
            self.peer.resume_reading()
            self.app.resumed(self)

    # The end, as the application uses it.

    def push(self, data: bytes) -> None:
        assert not self._eof_out
        if self.peer is None:
            return
        if self.paused:
            self.queue.append(data)
            self.peer.pause_reading()
        else:
            self.peer.write(data)

    def push_eof(self) -> None:
        self._eof_out = True
        if self.peer is not None:
            self.peer.write_eof()
        self._end_if_done()

    def end(self, kind: str, message: str) -> None:
        if self.result is not None:
            return
        self.result = StreamEnd(kind, message)
        if self.on_end is not None:
            self.on_end(self.result)
        if self.peer is not None and kind != "eof":
            peer, self.peer = self.peer, None
            peer.abort(message)

    def _end_if_done(self) -> None:
        if self._eof_in and self._eof_out:
            self.end("eof", "")


@dataclass
class Pool:
    """An `Opener`. `warm`: streams open at once. `gate`: a dial waits for it. `failing`: what dials raise."""

    apps: dict[int, Callable[[], App]]
    warm: bool = True
    gate: anyio.Event | None = None
    failing: KubeConnectionError | None = None
    streams: list[PodStream] = field(default_factory=list)
    dials: int = 0
    opens: int = 0
    failures: int = 0

    def open_now(self, target: PodTarget, port: int, local: End, first: bytes = b"") -> PodStream | None:
        if not self.warm:
            return None
        self.opens += 1
        stream = PodStream(self.apps.get(port, Closed)())
        self.streams.append(stream)
        stream.begin(local, first)
        return stream

    async def open(
        self, target: PodTarget, port: int, local: End, first: bytes = b"", *, aside: bool = False
    ) -> PodStream:
        self.dials += 1
        await anyio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.failing is not None:
            self.failures += 1
            raise self.failing
        self.warm = True
        stream = self.open_now(target, port, local, first)
        assert stream is not None
        return stream


def head(uid: str = "uid-1", *, ready: bool = True) -> PodTarget:
    return PodTarget("default", f"demo-head-{uid}", uid, running=True, ready=ready)
