"""One open tunnel: the asyncio protocol between its transport and the pure session.

Owns one timer, the skin (plain or WebSocket) and who may read. No task, no queue: bytes go from the shared receive
buffer to the local sides within one call. Invariant: after `lost` every stream has ended and nothing is written.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from kraynd.core import websocket
from kraynd.core.model import PodTarget
from kraynd.core.pipe import Buffer, End
from kraynd.core.portforward import ClientSession, Pair, SessionLimits
from kraynd.kube.dial import WEBSOCKET, Link, random_keys
from kraynd.kube.mask import mask
from kraynd.kube.stream import WIRE, PodStream
from krayne.errors import ProtocolError

RECEIVE_BUFFER: Final = 256 * 1024  # shared by all tunnels of a pool: reads are handed on before the next one
TLS_RECORD: Final = 16 * 1024  # the most one record holds
LARGE: Final = 3 * TLS_RECORD  # payloads that are worth not being copied
TCP_INFO_SIZE: Final = 104
RETIRED_SECONDS: Final = 30.0  # what open connections get once their tunnel is retired for the pod's sake
WEBSOCKET_QUIET: Final = 2.0  # an API server passes the loss of its node on only once the client sends something
NEVER: Final = float("inf")


class WireLimits(msgspec.Struct, frozen=True):
    """Bytes, and seconds.

    `kept`: for one paused reader that shares its tunnel, before the tunnel stops reading. `patience`: how long it may
    then hold its neighbours up. `discarded`: leftovers of aborted downloads, before an empty tunnel is closed.
    `life`: age at which a tunnel is replaced.
    """

    kept: int = 1024 * 1024
    patience: float = 10.0
    discarded: int = 256 * 1024
    life: float = 24 * 3600.0
    session: SessionLimits = SessionLimits()


def _limits_for(kind: str, limits: SessionLimits) -> SessionLimits:
    if kind != WEBSOCKET or limits.pulse.quiet <= WEBSOCKET_QUIET:
        return limits
    pulse = msgspec.structs.replace(limits.pulse, quiet=WEBSOCKET_QUIET)
    return msgspec.structs.replace(limits, pulse=pulse)


class Owner(Protocol):
    """What a tunnel tells its pool."""

    def wire_idle(self, wire: "Wire") -> float:
        """The last connection ended; returns for how many seconds to stay warm."""

    def wire_lost(self, wire: "Wire") -> None:
        """It is gone."""


class Wire(asyncio.BufferedProtocol):
    """Made with an upgraded connection; `start` takes over the transport."""

    def __init__(self, link: Link, target: PodTarget, owner: Owner, buffer: memoryview, limits: WireLimits) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._buffer = buffer
        self._limits = limits
        self._link = link
        self._transport = link.upgraded.transport
        self._tls = self._transport.get_extra_info("ssl_object") is not None
        self._dress: websocket.Dress | None = None
        self._stripper: websocket.FrameStripper | None = None
        if link.kind == WEBSOCKET:
            self._dress = websocket.Dress(random_keys(), mask)
            self._stripper = websocket.FrameStripper(masked=False)
        now = self._loop.time()
        self.target = target
        self.kind = link.kind
        self.session = ClientSession(self._write, now, _limits_for(link.kind, limits.session))
        self.streams: set[PodStream] = set()
        self._stalled: set[PodStream] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed = NEVER
        self._born = self._idle_since = now
        self._retired_at = NEVER
        self._patience_ends = NEVER
        self._reading = True
        self._writing = True
        self._lost = False
        self.bytes_in = 0
        self.bytes_out = 0

    def start(self) -> None:
        """Take over the connection, and what it has said since the answer."""
        self._transport.pause_reading()  # a loop may pick its read path when reading starts
        self._transport.set_protocol(self)
        self._transport.resume_reading()
        said = self._link.upgraded.greeting.data
        for at in range(0, len(said), RECEIVE_BUFFER):
            piece = said[at : at + RECEIVE_BUFFER]
            self._buffer[: len(piece)] = piece
            self.buffer_updated(len(piece))
        del self._link
        if not self._lost:
            self._arm(self._idle_since + self._owner.wire_idle(self))

    # asyncio calls these.

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 asyncio names it
        """Part of asyncio's protocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Part of asyncio's protocol."""
        if self._lost:
            return
        view = self._buffer[:nbytes]
        session = self.session
        try:
            if self._stripper is not None:
                view = view[: self._strip(view, self._stripper)]
            session.feed(view, self._loop.time())
        except ProtocolError as error:
            self.close(f"the tunnel spoke nonsense: {error.message}")
            return
        self.bytes_in += nbytes
        if self._stripper is not None and self._stripper.closed is not None:
            self.close("the server closed the tunnel")
        elif session.alarm < self._armed:
            self._arm()
        if not self.streams and session.discarded > self._limits.discarded:
            self.close("an aborted download went on")

    def eof_received(self) -> None:
        """Part of asyncio's protocol."""
        self.close("the server closed the tunnel")

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's protocol."""
        reason = f"the tunnel broke: {exc}" if exc is not None else "the server closed the tunnel"
        self._end(reason)
        del self._transport  # its TLS buffers would wait for the garbage collector in a cycle with us

    def pause_writing(self) -> None:
        """Part of asyncio's protocol."""
        self._writing = False
        for stream in list(self.streams):
            stream.hold(WIRE)

    def resume_writing(self) -> None:
        """Part of asyncio's protocol."""
        self._writing = True
        for stream in list(self.streams):
            stream.release(WIRE)

    # The pool calls these.

    def open(self, port: int, local: End, first: bytes) -> PodStream:
        """One more connection to the pod, its first bytes in the same write."""
        stream = PodStream(self, local)
        self.streams.add(stream)
        local.peer = stream
        stream.pair = self.session.open(port, stream, first, self._loop.time())
        if not self._writing:
            stream.hold(WIRE)
        if self._stalled:
            self._govern()
        self._arm()
        return stream

    @property
    def lost(self) -> bool:
        """The connection is gone."""
        return self._lost

    @property
    def usable(self) -> bool:
        """A new connection would not stand behind anything here."""
        session = self.session
        if self._lost or session.retiring or self._stalled or not (self._reading and self._writing):
            return False
        return not session.stalled(self._loop.time())

    @property
    def idle(self) -> bool:
        """No connection is open here."""
        return not self.streams

    def probe(self) -> None:
        """Demand a sign of life soon; not usable until it comes."""
        if not self._lost and self._reading:
            self.session.probe(self._loop.time())
            self._arm()

    def retire(self, reason: str, *, pod_gone: bool = False) -> None:
        """Take no new connections; close with the last one, or soon if the pod is gone."""
        self.session.retiring = self.session.retiring or reason
        if not self.streams:
            self.close(reason)
        elif pod_gone:
            self._retired_at = self._loop.time()
            self._arm()

    def close(self, reason: str) -> None:
        """End it now, with all its connections."""
        if not self._lost:
            self._transport.abort()
            self._end(reason)

    # Its streams call these.

    def send(self, pair: Pair, data: Buffer) -> None:
        """Bytes of a stream towards the pod."""
        self.session.send(pair, data, self._loop.time())

    def finish(self, pair: Pair) -> None:
        """A stream's local side sends no more."""
        self.session.finish(pair)

    def reset(self, stream: PodStream) -> None:
        """A stream's local side is gone. Alone here, a running transfer is ended by ending the tunnel: that is
        the only way it stops at once, and the only one that frees a node's worker it may have blocked."""
        if stream not in self.streams:
            return
        busy = stream.received > self._limits.discarded or self.session.in_flight > self._limits.discarded
        alone = len(self.streams) == 1
        self.session.reset(stream.pair)
        self.left(stream)
        if alone and busy and not self._lost:
            self.close("its only connection was aborted")

    def left(self, stream: PodStream) -> None:
        """A stream has ended."""
        self.streams.discard(stream)
        self._stalled.discard(stream)
        self._govern()
        if not self.streams and not self._lost:
            self._idle_since = self._loop.time()
            if self.session.retiring:
                self.close(self.session.retiring)
            else:
                self._arm(self._idle_since + self._owner.wire_idle(self))

    def reader_stalled(self, stream: PodStream) -> None:
        """Its local side takes no more."""
        if stream in self.streams:
            self._stalled.add(stream)
            self._govern()

    def reader_resumed(self, stream: PodStream) -> None:
        """It takes more."""
        self._stalled.discard(stream)
        self._govern()

    def kept_grew(self, stream: PodStream) -> None:
        """More bytes wait for its local side."""
        if len(stream.kept) >= self._limits.kept and self._reading:
            self._govern()

    # Inside.

    def _write(self, parts: Sequence[Buffer]) -> None:
        if self._lost:
            return
        if self._dress is not None:
            data = self._dress.frame(parts)
        elif self._tls and len(parts) == 3 and len(parts[1]) >= LARGE:
            self._write_large(*parts)
            return
        else:
            data = b"".join(parts)
        self.bytes_out += len(data)
        self._transport.write(data)

    def _write_large(self, header: Buffer, payload: Buffer, tail: Buffer) -> None:
        """The payload goes to TLS where it lies, cut so that no record is spent on the header or the tail.

        Only under TLS, which encrypts during the call: the payload is not ours any more afterwards.
        """
        view = memoryview(payload)
        first = TLS_RECORD - len(header)
        last = first + (len(view) - first) // TLS_RECORD * TLS_RECORD
        pieces: list[Buffer] = [b"".join((header, view[:first])), view[first:last]]
        if last < len(view) or tail:
            pieces.append(b"".join((view[last:], tail)))
        self.bytes_out += len(header) + len(view) + len(tail)
        self._transport.writelines(pieces)

    def _strip(self, view: memoryview, stripper: websocket.FrameStripper) -> int:
        size = stripper.strip(view)
        if stripper.replies and self._dress is not None:
            self._transport.write(self._dress.frame(stripper.replies, websocket.PONG))
            stripper.replies.clear()
        return size

    def _govern(self) -> None:
        """Read on, unless a paused reader is alone here or has kept too much."""
        if self._lost:
            return
        alone = len(self.streams) <= 1
        stop = any(alone or len(one.kept) >= self._limits.kept for one in self._stalled)
        if stop is self._reading:
            self._reading = not stop
            (self._transport.pause_reading if stop else self._transport.resume_reading)()
            self.session.pulse.hear(self._loop.time())  # silence we asked for proves nothing
        if not stop or alone:
            self._patience_ends = NEVER
        elif self._patience_ends == NEVER:
            self._patience_ends = self._loop.time() + self._limits.patience
            self._arm()

    def _arm(self, also: float = NEVER) -> None:
        when = min(self.session.alarm, self._patience_ends, also)
        if self._retired_at != NEVER:
            when = min(when, self._retired_at + RETIRED_SECONDS)
        if self._lost or when >= self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed = when
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._armed, self._timer = NEVER, None
        now = self._loop.time()
        if not self._reading:
            self.session.pulse.hear(now)
        if self.session.tick(now) == "dead":
            if not ((self.session.held_up() or not self._writing) and self._is_acked()):
                self.close("the tunnel did not answer")
                return
            self.session.pulse.postpone(now)
        self._lose_patience(now)
        if now - self._retired_at >= RETIRED_SECONDS or (self.session.retiring and not self.streams):
            self.close(self.session.retiring)
        else:
            self._grow_old(now)

    def _grow_old(self, now: float) -> None:
        if now - self._born > self._limits.life:
            self.retire("worn out")
        warm_ends = NEVER if self.streams else self._idle_since + self._owner.wire_idle(self)
        if now >= warm_ends:
            self.close("unused")
        self._arm(warm_ends)

    def _lose_patience(self, now: float) -> None:
        if now < self._patience_ends:
            return
        for stream in [one for one in self._stalled if len(one.kept) >= self._limits.kept]:
            peer = stream.peer
            stream.abort("its reader stood still and held up other connections")
            if peer is not None:
                peer.abort("not read for too long")

    def _is_acked(self) -> bool:
        """The peer's kernel takes what we send, or says that its window is full: the path is no black hole."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sys.platform != "linux":
            return sock is not None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
        except OSError:
            return False
        _, _, retransmits, probes = struct.unpack_from("4B", info)
        return bool(retransmits == 0 and probes <= 1)

    def _end(self, reason: str) -> None:
        if self._lost:
            return
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._owner.wire_lost(self)
        self.session.lost(reason)
        self.streams.clear()
        self._stalled.clear()
