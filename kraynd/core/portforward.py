"""The client side of one port-forward tunnel: pairs of SPDY streams, what their endings mean, when to send no more.

Owns ids, the ping window and the life signs of one tunnel; bytes leave through `write`, time comes in as `now`.
Invariants: SYN pair and first data leave in one write; no DATA follows the end of the error stream; frames for streams
we do not know are counted and dropped; whatever the server sends, memory stays within the constants here.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from kraynd.core import headerblock, spdy
from kraynd.core.pingwindow import PingWindow, Worker
from kraynd.core.pipe import Buffer
from kraynd.core.pulse import Pulse, PulseLimits
from kraynd.core.verdict import TEXT_LIMIT, EndKind, read_verdict, short_text
from krayne.errors import ProtocolError

MAX_FRAME: Final = 256 * 1024  # the node holds each frame whole
LAST_STREAM: Final = spdy.MAX_ID - 64  # ids are retired long before they could wrap
STREAMS_IN_A_LIFE: Final = 1_000_000  # connections after which a tunnel is replaced
NEVER: Final = float("inf")

_ERROR_STREAM: Final = headerblock.field("streamtype", "error")
_DATA_STREAM: Final = headerblock.field("streamtype", "data")

Write = Callable[[Sequence[Buffer]], None]


class SessionLimits(msgspec.Struct, frozen=True):
    """Seconds. `end`: pod FIN until the error stream ends; `reply`: the server's own limit for a pair;
    `stalled`: an unanswered PING after which no new stream is placed here; `wedged`: after which a worker without
    streams is given up; `doubt`: until doubtful workers are asked, all with one burst."""

    end: float = 1.5
    reply: float = 30.0
    stalled: float = 0.5
    wedged: float = 5.0
    doubt: float = 0.25
    pulse: PulseLimits = PulseLimits()


class Receiver(Protocol):
    """Who hears of a pair. Called synchronously; views are valid only during the call."""

    def pod_data(self, data: memoryview) -> None:
        """Bytes from the pod."""

    def pod_eof(self) -> None:
        """The pod's direction ended cleanly; ours may go on."""

    def pod_end(self, kind: EndKind, message: str) -> None:
        """The connection is over, and the last call on this receiver."""

    def pod_full(self) -> None:
        """Send no more until `pod_room`. What is sent nevertheless is not lost."""

    def pod_room(self) -> None:
        """Send again."""


class Pair:
    """One forwarded connection: its data and error stream."""

    __slots__ = ("closing", "data_id", "deadline", "ended", "error_ended", "error_id", "finished", "full", "half",
                 "pod_fin", "port", "received", "receiver", "replied", "sent", "text", "worker")  # fmt: skip

    def __init__(self, error_id: int, data_id: int, port: int, worker: Worker, receiver: Receiver) -> None:
        self.error_id = error_id
        self.data_id = data_id
        self.port = port
        self.worker = worker
        self.receiver = receiver
        self.received = 0
        self.sent = 0
        self.text = b""
        self.deadline: float | None = None
        self.replied = False  # the server answered in any way
        self.finished = False  # we sent FIN
        self.pod_fin = False
        self.half = False  # the receiver knows of it: a half-close
        self.error_ended = False
        self.closing = False  # one of the streams came to its end: no data, until `deadline` says it is a half-close
        self.ended = False
        self.full = False


class ClientSession:
    """One tunnel. `feed`, `open`, `send`, `finish`, `reset` and `tick` may be called from a receiver's callbacks."""

    def __init__(self, write: Write, now: float, limits: SessionLimits | None = None) -> None:
        self._write = write
        self._limits = limits or SessionLimits()
        self._reader = spdy.FrameReader(self)
        self._window = PingWindow()
        self._pairs: dict[int, Pair] = {}  # by data id
        self._errors: dict[int, Pair] = {}  # by error id
        self._waiting: set[Pair] = set()  # pairs with a deadline
        self._last_id = -1
        self._opened = 0
        self._now = now
        self._ask_at = NEVER  # when doubtful workers are asked
        self.pulse = Pulse(self._limits.pulse, now)
        self.discarded = 0  # bytes for streams that are no more, since the last stream was opened
        self.alarm = self.pulse.due  # when to tick; whoever holds the timer compares it after each call
        self.retiring = ""  # why no new stream may be opened here; "" while it may

    # Towards the pod.

    def open(self, port: int, receiver: Receiver, first: Buffer, now: float) -> Pair:
        """Forward one more connection; `first` goes with the opening in one write."""
        worker = self._window.best()
        error_id = self._next_id(worker.index)
        pair = Pair(error_id, error_id + 2 * 5, port, worker, receiver)
        self._last_id = pair.data_id
        self._opened += 1
        parts: list[Buffer] = [self._opening(pair)]
        self._pairs[pair.data_id] = self._errors[error_id] = pair
        worker.streams += 1
        self._wait(pair, now + self._limits.reply)
        if self.pulse.expect(now):
            parts.append(self._window.burst(now))
            self.alarm = min(self.alarm, self.pulse.due)
        elif worker.doubtful:  # all of them are: know soon
            parts.append(self._window.ask(worker, now))
        if first:
            parts += self._frames(pair, first, now)
        self._write(parts)
        self._note_full(pair)
        if self._opened >= STREAMS_IN_A_LIFE or self._last_id >= LAST_STREAM or self._window.spent:
            self.retiring = self.retiring or "worn out"
        return pair

    def send(self, pair: Pair, data: Buffer, now: float) -> None:
        """Bytes towards the pod. Dropped when the pod's side has ended."""
        if pair.error_ended or pair.ended or pair.finished or not data:
            return
        self._write(self._frames(pair, data, now))
        self._note_full(pair)

    def finish(self, pair: Pair) -> None:
        """No more bytes towards the pod. The node may give the other direction one second only."""
        if pair.finished or pair.ended:
            return
        pair.finished = True
        self._write((spdy.data_header(pair.data_id, 0, spdy.FIN),))

    def reset(self, pair: Pair) -> None:
        """Forget the connection at once; the receiver hears no more."""
        if not pair.ended:
            self._forget(pair)
            self._write((spdy.rst_stream(pair.data_id, spdy.CANCEL),))

    def _next_id(self, worker: int) -> int:
        """The next odd id on a worker. Both streams go there, so order is kept and one stall cannot split a pair."""
        candidate = self._last_id + 2
        while candidate % 5 != worker:
            candidate += 2
        return candidate

    def _opening(self, pair: Pair) -> bytes:
        names = (headerblock.field("port", str(pair.port)), headerblock.field("requestid", str(self._opened)))
        first = b"" if self._opened > 1 else headerblock.START
        error = spdy.syn_stream(pair.error_id, first + headerblock.stored(_ERROR_STREAM, *names), spdy.FIN)
        return error + spdy.syn_stream(pair.data_id, headerblock.stored(_DATA_STREAM, *names))

    def _frames(self, pair: Pair, data: Buffer, now: float) -> list[Buffer]:
        size = len(data)
        pair.sent += size
        if size <= MAX_FRAME:
            header = spdy.data_header(pair.data_id, size)
            return [header, data, self._window.sent(pair.worker, size, now)]
        parts: list[Buffer] = []
        view = memoryview(data)
        for at in range(0, size, MAX_FRAME):
            piece = view[at : at + MAX_FRAME]
            parts += (spdy.data_header(pair.data_id, len(piece)), piece)
            parts.append(self._window.sent(pair.worker, len(piece), now))
        return parts

    def _note_full(self, pair: Pair) -> None:
        if pair.worker.full and not pair.full:
            self._hold(pair)

    def _hold(self, pair: Pair) -> None:
        pair.full = True
        pair.receiver.pod_full()

    def _release(self, pair: Pair) -> None:
        if pair.full and not pair.ended and not pair.worker.full and not (pair.closing and pair.deadline):
            pair.full = False
            pair.receiver.pod_room()

    # From the pod.

    def feed(self, view: memoryview, now: float) -> None:
        """Take the server's next bytes. Raises ProtocolError: then the tunnel is lost."""
        self._now = now
        answered = self.pulse.doubtful
        self.pulse.hear(now)
        if answered:  # the alarm stood at the answer's deadline: the next question may be due before it
            self.alarm = min(self.alarm, self.pulse.due)
        self._reader.feed(view)

    def on_data(self, stream: int, data: memoryview) -> None:
        """Part of FrameSink."""
        pair = self._pairs.get(stream)
        if pair is not None and not pair.pod_fin:
            pair.received += len(data)
            pair.receiver.pod_data(data)
            return
        failed = self._errors.get(stream)
        if failed is None:
            self.discarded += len(data)
        elif len(failed.text) < TEXT_LIMIT:
            failed.text += bytes(data[: TEXT_LIMIT - len(failed.text)])
            self._closing(failed)

    def on_fin(self, stream: int) -> None:
        """Part of FrameSink."""
        if (pair := self._pairs.get(stream)) is not None:
            if not pair.pod_fin:
                pair.pod_fin = True
                self._closing(pair)
        elif (pair := self._errors.get(stream)) is not None:
            pair.error_ended = True
            self._closing(pair)

    def on_control(self, kind: int, flags: int, body: bytes) -> None:
        """Part of FrameSink."""
        if kind == spdy.PING:
            self._echoed(spdy.word(body))
        elif kind == spdy.SYN_REPLY:
            self._replied(spdy.word(body), bool(flags & spdy.FIN))
        elif kind == spdy.RST_STREAM:
            self._was_reset(spdy.word(body))
        elif kind == spdy.GOAWAY:
            self.retiring = self.retiring or "the server is going away"
        elif kind == spdy.SYN_STREAM:
            raise ProtocolError("SPDY: the server opened a stream")

    def _replied(self, stream: int, fin: bool) -> None:
        pair = self._pairs.get(stream)
        if pair is not None and not pair.replied:
            pair.replied = True
            if not (pair.pod_fin or pair.text):
                self._wait(pair, None)
        if fin:
            self.on_fin(stream)

    def _was_reset(self, stream: int) -> None:
        if (pair := self._pairs.get(stream)) is not None:
            pair.text = pair.text or (b"" if pair.pod_fin and not pair.half else b"the pod reset the connection")
            pair.pod_fin = True
            self._closing(pair)
        elif (pair := self._errors.get(stream)) is not None:
            pair.error_ended = True
            self._closing(pair)

    def _echoed(self, number: int) -> None:
        worker = self._window.echoed(number, self._now)
        if worker is None:
            return
        for pair in [one for one in self._pairs.values() if one.full and one.worker is worker]:
            self._release(pair)

    def _closing(self, pair: Pair) -> None:
        """One of the two streams came nearer to its end: judge, or wait a little for the other."""
        if pair.error_ended and (pair.pod_fin or pair.text):
            self._judge(pair)
            return
        if not pair.closing or pair.deadline is None:
            pair.closing = True
            self._wait(pair, self._now + self._limits.end)
        if not pair.full:  # data that reaches a finished connection would wedge its worker for good
            self._hold(pair)

    def _judge(self, pair: Pair) -> None:
        text = pair.text.decode(errors="replace")
        kind: EndKind = read_verdict(text, received=pair.received) if text else "eof"
        self._forget(pair)
        if text or not pair.finished:
            self._write((spdy.rst_stream(pair.data_id, spdy.CANCEL),))
        self._doubt(pair.worker)
        pair.receiver.pod_end(kind, short_text(text, pair.port) if text else "")

    def _doubt(self, worker: Worker) -> None:
        """Data still under way may have reached a finished connection: find out soon whether the worker lives.

        Not at once: most connections end with such a doubt, and a question costs as much as an answer of the pod's.
        """
        if worker.unasked:
            worker.doubtful = True
            self._ask_at = min(self._ask_at, self._now + self._limits.doubt)
            self.alarm = min(self.alarm, self._ask_at)

    # Time, and the end of the tunnel.

    def tick(self, now: float) -> str:
        """Act on what is due; returns "dead" when the tunnel has not answered in time, else ""."""
        self._now = now
        for pair in [one for one in self._waiting if one.deadline is not None and one.deadline <= now]:
            self._late(pair)
        if self._wedged(now):
            self.retiring = self.retiring or "a worker of the node's stopped"
        verdict = self.pulse.check(now)
        if verdict == "ask":
            self._write((self._window.burst(now),))
        if now >= self._ask_at:
            self._ask_doubtful(now)
        deadlines = [pair.deadline for pair in self._waiting if pair.deadline is not None]
        self.alarm = min([self.pulse.due, self._ask_at, *deadlines])
        return "dead" if verdict == "dead" else ""

    def _ask_doubtful(self, now: float) -> None:
        doubtful = [worker for worker in self._window.workers if worker.doubtful]
        # A burst asks all at once. Where one worker's queue has no room for its part, those that can be asked are.
        asked = (self._window.burst(now) if doubtful else b"") or b"".join(
            self._window.ask(worker, now) for worker in doubtful if worker.doubtful
        )
        if asked:
            self._write((asked,))
        self._ask_at = now + self._limits.doubt if any(worker.doubtful for worker in doubtful) else NEVER

    def probe(self, now: float) -> None:
        """Demand an answer within the probe's time; `congested` until it comes."""
        self.pulse.probe(now)
        self.alarm = min(self.alarm, self.pulse.due)
        self._write((self._window.burst(now),))

    def _late(self, pair: Pair) -> None:
        self._wait(pair, None)
        if pair.error_ended or pair.text:
            pair.pod_fin = pair.error_ended = True
            self._judge(pair)
        elif pair.pod_fin:  # the node passes half-closes on: the other direction lives
            pair.half = True
            self._release(pair)
            pair.receiver.pod_eof()
        elif not pair.replied:
            self._forget(pair)
            self._write((spdy.rst_stream(pair.data_id, spdy.CANCEL),))
            pair.receiver.pod_end("tunnel-lost", "the node did not answer the connection")

    def _wedged(self, now: float) -> bool:
        """A worker that owes an answer although no stream of ours could hold it up."""
        return any(
            not worker.streams and worker.marks and now - worker.marks[0].at > self._limits.wedged
            for worker in self._window.workers
        )

    def stalled(self, now: float) -> bool:
        """A PING is unanswered for so long that something stands still here: place no new stream."""
        debt = self._window.oldest_debt()
        return self.pulse.doubtful or (debt is not None and now - debt > self._limits.stalled)

    def held_up(self) -> bool:
        """Stalled pod processes keep every question from being answered or asked: silence is no death.

        A connection that the server never answered proves nothing: that is how a dead path looks under load.
        """
        may_stall = {pair.worker for pair in self._pairs.values() if pair.replied and pair.sent}
        return any(one.deep for one in may_stall) or all(one in may_stall and one.marks for one in self._window.workers)

    @property
    def streams(self) -> int:
        """Connections open now."""
        return len(self._pairs)

    @property
    def in_flight(self) -> int:
        """Bytes on their way to the pod."""
        return self._window.in_flight

    def lost(self, reason: str) -> None:
        """The transport is gone: every connection ends. Nothing is written."""
        self.retiring = self.retiring or reason
        for pair in list(self._pairs.values()):
            self._forget(pair)
            pair.receiver.pod_end("tunnel-lost", reason)

    def _wait(self, pair: Pair, deadline: float | None) -> None:
        pair.deadline = deadline
        if deadline is None:
            self._waiting.discard(pair)
        else:
            self._waiting.add(pair)
            self.alarm = min(self.alarm, deadline)

    def _forget(self, pair: Pair) -> None:
        pair.ended = True
        self._wait(pair, None)
        if self._pairs.pop(pair.data_id, None) is not None:
            pair.worker.streams -= 1
        self._errors.pop(pair.error_id, None)
        if not self._pairs:
            self.discarded = 0
