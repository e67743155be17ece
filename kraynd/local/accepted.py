"""One accepted local connection: the `End` that stands for the user's program.

Reads and writes its socket straight from the loop's readiness, so that an accepted connection can be spliced in the
same tick (asyncio gives a transport only to a coroutine; measured, the two move bytes equally fast). Bounded: at most
`HIGH` bytes wait for the client before the peer is paused, and at most `KEEP_LIMIT` are read while there is no peer.
"""

import asyncio
import socket
import struct
from enum import Enum
from typing import Protocol

from kraynd.core.forwarding import KEEP_LIMIT
from kraynd.core.httpguard import HttpGuard, RefusedRequestError
from kraynd.core.pipe import Buffer, End

HIGH = 256 * 1024  # bytes that wait for the client when the peer is paused
LOW = 64 * 1024  # ... and when it may go on
READ_SIZE = 256 * 1024  # one read: as much as a loopback socket holds, and 0.1 ms of the loop
DRAIN_SECONDS = 2.0  # what a client still sends after the end is thrown away for so long, lest a RST eats the answer
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST


class Mode(Enum):
    """What is done with the client's bytes."""

    WAITING = "kept until there is a stream"
    FROZEN = "not read: the kept ones are on their way with an open"
    SPLICED = "written to the peer"
    DRAINING = "thrown away: the stream has ended"
    CLOSED = "the socket is gone"


# A member looked up in its class costs seven times a name of the module's.
_WAITING, _FROZEN, _SPLICED, _DRAINING, _CLOSED = Mode


class Owner(Protocol):
    """Who hears of a connection. Called from the loop; may call the connection back."""

    def answered(self, connection: "LocalConnection") -> None:
        """The first byte came from the pod."""

    def finished_early(self, connection: "LocalConnection") -> None:
        """The client stopped sending before there was a stream."""

    def admitted(self, connection: "LocalConnection") -> None:
        """The guard let the client's first bytes through."""

    def blocked(self, connection: "LocalConnection", why: str) -> bytes:
        """The guard refused a request; returns the answer to it."""

    def closed(self, connection: "LocalConnection") -> None:
        """The socket is gone; nothing more comes."""

    def faulted(self, connection: "LocalConnection", error: Exception) -> None:
        """An exception nobody foresaw; the connection is closed."""


class LocalConnection:
    """See the module. `scratch` is a read buffer shared by the connections of a loop: data in it lives one call.

    With a `guard` only what it lets through leaves or is kept.
    """

    __slots__ = (
        "_fin_sent",
        "_fin_wanted",
        "_guard",
        "_kept",
        "_loop",
        "_out",
        "_owner",
        "_paused",
        "_pausing_peer",
        "_reading",
        "_scratch",
        "_timer",
        "_writing",
        "answered",
        "bytes_in",
        "bytes_out",
        "client_finished",
        "mode",
        "peer",
        "socket",
    )

    def __init__(
        self,
        connection: socket.socket,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
        scratch: memoryview,
        guard: HttpGuard | None = None,
    ) -> None:
        self.peer: End | None = None
        self.socket = connection
        self.mode = _WAITING
        self.answered = False
        self.client_finished = False
        self.bytes_in = 0  # from the pod to the client
        self.bytes_out = 0  # from the client towards the pod; a replay counts once
        self._owner = owner
        self._guard = guard
        self._loop = loop
        self._scratch = scratch
        self._kept: bytearray | None = bytearray()
        self._out = bytearray()
        self._fin_wanted = False
        self._fin_sent = False
        self._paused = False
        self._pausing_peer = False
        self._reading = False
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None

    # What the forward asks.

    @property
    def is_closed(self) -> bool:
        """Whether the socket is gone."""
        return self.mode is _CLOSED

    @property
    def is_waiting(self) -> bool:
        """Whether what the client sends is kept, for want of a stream."""
        return self.mode is _WAITING

    @property
    def said(self) -> bytes | None:
        """All the client sent so far; None if it was more than is kept, or the pod has answered."""
        return None if self._kept is None else bytes(self._kept)

    @property
    def buffered(self) -> int:
        """Bytes held for the client and of the client."""
        return len(self._out) + (len(self._kept) if self._kept is not None else 0)

    def read_early(self) -> None:
        """Take what the client has sent already, so that it can leave with the stream's opening; watch nothing yet."""
        self._on_readable()

    def wait(self) -> None:
        """There is no stream: keep what comes, up to the bound."""
        if self.mode is not _CLOSED:
            self.mode = _WAITING
            self._watch()

    def freeze(self) -> bytes:
        """An open takes the kept bytes along: read nothing more until `splice` or `wait`.

        Mostly a `splice` follows in the same tick, so the socket stays watched until it has something to say.
        """
        self.mode = _FROZEN
        return bytes(self._kept or b"")

    def splice(self, stream: End) -> None:
        """The stream has what was kept: from now on bytes go straight to it."""
        if self.mode is _CLOSED:
            return
        self.peer = stream
        self.mode = _SPLICED
        if self.client_finished:
            stream.write_eof()
            self._close_if_done()
        self._watch()

    def unsplice(self) -> None:
        """The stream ended and another one will be tried."""
        self.peer = None
        self._paused = self._pausing_peer = False
        self.wait()

    def finish(self) -> None:
        """The stream ended well: give the client what is left, then FIN, and close once it has closed too."""
        if self.mode is _CLOSED:
            return
        self.peer = None
        self.mode = _DRAINING
        self._paused = False
        self.write_eof()
        self._watch()
        if self._fin_sent:
            self._linger()

    def reset(self, reason: str) -> None:
        """End both sides."""
        peer = self.peer
        self.abort(reason)
        if peer is not None:
            peer.abort(reason)

    def end(self, reason: str) -> None:
        """End a stream in order: what waits for the client as far as its kernel takes it now, then FIN."""
        peer, self.peer = self.peer, None
        if peer is None:
            self.abort(reason)
            return
        try:
            if self._out:
                self.socket.send(self._out)
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # it takes nothing, or is gone: a reset says so
            self.abort(reason)
        self._close()
        peer.abort(reason)

    def fault(self, error: Exception) -> None:
        """An exception nobody foresaw, here or in the peer: end both sides, and tell the owner."""
        peer = self.peer
        self.abort("a fault in the forward")
        self._owner.faulted(self, error)
        if peer is not None:
            try:
                peer.abort("a fault in the forward")
            except Exception as another:  # noqa: BLE001 - it may be the peer that is at fault
                self._owner.faulted(self, another)

    # The End, as the stream sees it.

    def write(self, data: Buffer) -> None:
        """Towards the client: to the kernel at once, the rest kept until it takes more."""
        if self._fin_wanted or self.mode is _CLOSED:
            return
        if not self.answered:
            self._first_answer()
        self.bytes_in += len(data)
        if not self._out:
            try:
                sent = self.socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lost(error)
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        self._out += data
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self.socket.fileno(), self._on_writable)
        if len(self._out) > HIGH and not self._pausing_peer and self.peer is not None:
            self._pausing_peer = True
            self.peer.pause_reading()

    def write_eof(self) -> None:
        """FIN to the client, after what is kept for it."""
        if self._fin_wanted or self.mode is _CLOSED:
            return
        if not self.answered:
            self._first_answer()
        self._fin_wanted = True
        if not self._out:
            self._send_fin()

    def abort(self, reason: str) -> None:  # noqa: ARG002 - an End's word; TCP has none for it
        """RST to the client, now. A Unix socket knows no RST: it closes."""
        if self.mode is _CLOSED:
            return
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._close()

    def pause_reading(self) -> None:
        """The peer can take no more."""
        self._paused = True
        self._watch()

    def resume_reading(self) -> None:
        """The peer takes more."""
        self._paused = False
        self._watch()

    # The socket.

    def _watch(self) -> None:
        """Register for reading exactly when a read is wanted."""
        if self.client_finished or self._paused or self.mode in (_CLOSED, _FROZEN):
            wanted = False
        elif self.mode is _WAITING:
            wanted = self._room() > 0
        else:
            wanted = True
        if wanted and not self._reading:
            self._reading = True
            self._loop.add_reader(self.socket.fileno(), self._on_readable)
        elif self._reading and not wanted:
            self._reading = False
            self._loop.remove_reader(self.socket.fileno())

    def _room(self) -> int:
        """Bytes that may be read while there is no stream."""
        if self._kept is None:
            return 0
        return KEEP_LIMIT - len(self._kept) - (self._guard.held if self._guard is not None else 0)

    def _on_readable(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - the wall: this connection ends, no other
            self.fault(error)

    def _read(self) -> None:
        size = READ_SIZE
        if self.mode is _FROZEN:
            self._watch()
            return
        if self.mode is _WAITING:
            size = self._room()
            if size <= 0:
                return
        try:
            count = self.socket.recv_into(self._scratch, size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error)
            return
        if count == 0:
            self._client_fin()
        elif self.mode is not _DRAINING:
            self._admit(self._scratch[:count])

    def _admit(self, data: memoryview) -> None:
        if self._guard is None:
            self._client_data(data)
            return
        try:
            through = self._guard.feed(data)
        except RefusedRequestError as error:
            self._refuse(self._owner.blocked(self, str(error)))
            return
        if not through:
            return
        first = self.bytes_out == 0
        self._client_data(memoryview(through))
        if first:
            self._owner.admitted(self)

    def _refuse(self, answer: bytes) -> None:
        """Tell the client and end; in the middle of an exchange there is nothing left to tell but a reset."""
        peer, self.peer = self.peer, None
        answering = self.answered
        self._guard = None
        self._kept = None
        self.answered = True  # by us: the pod has said nothing
        if answering:
            self.abort("a request was refused")
        else:
            self.write(answer)
            self.finish()
        if peer is not None:
            peer.abort("a request was refused")

    def _client_data(self, data: memoryview) -> None:
        self.bytes_out += len(data)
        if self._kept is not None:
            if len(self._kept) + len(data) <= KEEP_LIMIT:
                self._kept += data
            else:
                self._kept = None
        if self.mode is not _WAITING:
            if self.peer is not None:
                self.peer.write(data)
        elif self._reading:
            self._watch()

    def _client_fin(self) -> None:
        self.client_finished = True
        self._watch()
        if self.mode is _WAITING:
            self._owner.finished_early(self)
            return
        if self.peer is not None:
            self.peer.write_eof()
        self._close_if_done()

    def _on_writable(self) -> None:
        try:
            self._flush()
        except Exception as error:  # noqa: BLE001 - the wall: this connection ends, no other
            self.fault(error)

    def _flush(self) -> None:
        try:
            sent = self.socket.send(self._out)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error)
            return
        del self._out[:sent]
        if not self._out:
            self._stop_writing()
            if self._fin_wanted:
                self._send_fin()
        if self._pausing_peer and len(self._out) <= LOW:
            self._pausing_peer = False
            if self.peer is not None:
                self.peer.resume_reading()

    def _first_answer(self) -> None:
        self.answered = True
        self._kept = None
        self._owner.answered(self)

    def _send_fin(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lost(error)
            return
        self._fin_sent = True
        self._close_if_done()
        if self.mode is _DRAINING:
            self._linger()

    def _linger(self) -> None:
        if self._timer is None and self.mode is not _CLOSED:
            self._timer = self._loop.call_later(DRAIN_SECONDS, self._close)

    def _close_if_done(self) -> None:
        if self.client_finished and self._fin_sent and self.mode is not _CLOSED:
            self._close()

    def _lost(self, error: OSError) -> None:
        """The client reset the connection, or is gone."""
        self.reset(f"the local client is gone: {error.strerror or error}")

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self.socket.fileno())

    def _close(self) -> None:
        if self.mode is _CLOSED:
            return
        self.mode = _CLOSED
        self.peer = None
        self._watch()
        self._stop_writing()
        if self._timer is not None:
            self._timer.cancel()
        self.socket.close()
        self._out.clear()
        self._kept = None
        self._owner.closed(self)
