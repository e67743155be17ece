"""One forwarded connection as its local side sees it: an `End` whose other half is a pair of SPDY streams.

Pausing: towards the pod the ping window and the tunnel's own buffer can hold the local reader; from the pod a paused
stream keeps a bounded number of bytes here and tells its tunnel. Invariant: after `ended` nothing is kept, and the
local side hears no more than one end.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import msgspec

from kraynd.core.pipe import Buffer, End
from kraynd.core.portforward import Pair
from kraynd.core.verdict import EndKind

if TYPE_CHECKING:
    from kraynd.kube.wire import Wire

WINDOW = 1  # the ping window is full, or the pod's side is ending
WIRE = 2  # the tunnel's transport takes no more
KEPT_PIECE = 256 * 1024  # bytes handed over at once when a paused reader goes on


class StreamEnd(msgspec.Struct, frozen=True):
    """How it ended. `refused` with nothing received, and `tunnel-lost` with nothing sent: the application saw nothing.

    Kinds: eof, refused, reset, pod-gone, tunnel-lost.
    """

    kind: EndKind
    message: str
    received: int
    sent: int


class PodStream:
    """The pod's end of a splice.

    When it ends other than by "eof", `on_end` may take the local side back for a replay by setting `peer` to None;
    else the local side is aborted.
    """

    __slots__ = ("_ended", "_eof", "_eof_passed", "_holds", "_over", "_paused", "_wire", "kept", "on_end", "pair",
                 "peer", "result")  # fmt: skip

    pair: Pair

    def __init__(self, wire: "Wire", local: End) -> None:
        self._wire = wire
        self.peer: End | None = local
        self._ended: anyio.Event | None = None  # made for who waits: a forward's connections are told by `on_end`
        self.result: StreamEnd | None = None
        self.on_end: Callable[[StreamEnd], None] | None = None
        self.kept = bytearray()  # bytes from the pod that the paused local side has not taken
        self._paused = False
        self._holds = 0
        self._eof = False  # the pod's end waits behind `kept`
        self._eof_passed = False
        self._over: StreamEnd | None = None  # and so does the result

    @property
    def received(self) -> int:
        """Bytes from the pod."""
        return self.pair.received

    @property
    def sent(self) -> int:
        """Bytes towards the pod."""
        return self.pair.sent

    @property
    def ended(self) -> anyio.Event:
        """Set once there is a result."""
        if self._ended is None:
            self._ended = anyio.Event()
            if self.result is not None:
                self._ended.set()
        return self._ended

    # The local side calls these.

    def write(self, data: Buffer) -> None:
        """Towards the pod. After the pod has gone, what a kernel would do: reset."""
        if self.result is None and self._over is None:
            self._wire.send(self.pair, data)
        elif self.peer is not None:
            peer, self.peer = self.peer, None
            peer.abort("the pod has closed the connection")

    def write_eof(self) -> None:
        """The local side sends no more. Real nodes then give the pod one second for the rest of its answer."""
        self._wire.finish(self.pair)

    def abort(self, reason: str) -> None:
        """The local side is gone."""
        self.peer = None
        self.kept.clear()
        self._eof = False
        self._wire.reset(self)
        self._finish(self._over or StreamEnd("reset", reason, self.received, self.sent))

    def pause_reading(self) -> None:
        """The local side takes no more."""
        if not self._paused and self.result is None:
            self._paused = True
            self._wire.reader_stalled(self)

    def resume_reading(self) -> None:
        """The local side takes more."""
        if not self._paused:
            return
        self._paused = False
        while self.kept and not self._paused and self.peer is not None:
            piece = bytes(self.kept[:KEPT_PIECE])
            del self.kept[:KEPT_PIECE]
            self.peer.write(piece)
        if self._paused:
            return
        self._wire.reader_resumed(self)
        if self._eof:
            self._pass_eof()
        if self._over is not None:
            self._finish(self._over)

    # The session calls these.

    def pod_data(self, data: memoryview) -> None:
        """Part of Receiver."""
        if self._paused:
            self.kept += data
            self._wire.kept_grew(self)
        elif self.peer is not None:
            self.peer.write(data)

    def pod_eof(self) -> None:
        """Part of Receiver."""
        if self.kept:
            self._eof = True
        else:
            self._pass_eof()

    def pod_end(self, kind: EndKind, message: str) -> None:
        """Part of Receiver."""
        end = StreamEnd(kind, message, self.received, self.sent)
        self._wire.left(self)
        if kind == "eof" and self.kept:
            self._eof, self._over = True, end
        else:
            if kind == "eof":
                self._pass_eof()
            self._finish(end)

    def pod_full(self) -> None:
        """Part of Receiver."""
        self.hold(WINDOW)

    def pod_room(self) -> None:
        """Part of Receiver."""
        self.release(WINDOW)

    def hold(self, why: int) -> None:
        """One more reason not to read the local side."""
        before, self._holds = self._holds, self._holds | why
        if not before and self.peer is not None:
            self.peer.pause_reading()

    def release(self, why: int) -> None:
        """A reason is gone."""
        before, self._holds = self._holds, self._holds & ~why
        if before and not self._holds and self.peer is not None:
            self.peer.resume_reading()

    def _pass_eof(self) -> None:
        if not self._eof_passed and self.peer is not None:
            self._eof_passed = True
            self.peer.write_eof()
        self._eof = False

    def _finish(self, end: StreamEnd) -> None:
        if self.result is not None:
            return
        self.result = end
        self.kept.clear()
        self.release(WINDOW | WIRE)
        if self._ended is not None:
            self._ended.set()
        if self.on_end is not None:
            self.on_end(end)
        if end.kind != "eof" and self.peer is not None:
            peer, self.peer = self.peer, None
            peer.abort(end.message)
