"""The pod's side of a port-forward tunnel: takes stream pairs from any SPDY port-forward client and answers them.

For nodes that are ours: the sandbox and the tests. Owns pairing by request id and the order in which endings are said.
Bytes leave through `write`. Invariant: a client can neither open more pairs than `MAX_PAIRS` nor keep half of one.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from kraynd.core import spdy
from kraynd.core.headerblock import START, HeaderReader, stored
from kraynd.core.pipe import Buffer
from krayne.errors import ProtocolError

MAX_PAIRS: Final = 10_000  # open at once on one tunnel
MAX_HALVES: Final = 1_000  # error or data streams whose partner has not come
MAX_FRAME: Final = 32 * 1024  # as the runtimes' copy buffers

Write = Callable[[Sequence[Buffer]], None]


class PodReceiver(Protocol):
    """What the process behind a port hears. Views are valid only during the call."""

    def on_data(self, data: memoryview) -> None:
        """Bytes from the client."""

    def on_fin(self) -> None:
        """The client will send no more."""

    def on_reset(self) -> None:
        """The client gave the connection up, or the tunnel ended: the last call."""


class PodPair:
    """One connection a client opened."""

    __slots__ = ("_done", "_fin_sent", "_session", "data_id", "error_id", "fin_received", "port", "receiver")

    def __init__(self, session: "PodSession", data_id: int, error_id: int, port: int) -> None:
        self._session = session
        self.data_id = data_id
        self.error_id = error_id
        self.port = port
        self.receiver: PodReceiver | None = None
        self.fin_received = False
        self._fin_sent = False
        self._done = False

    def send(self, data: Buffer) -> None:
        """Bytes to the client."""
        view = memoryview(data)
        parts: list[Buffer] = []
        for at in range(0, len(view), MAX_FRAME):
            piece = view[at : at + MAX_FRAME]
            parts += (spdy.data_header(self.data_id, len(piece)), piece)
        if parts and not (self._done or self._fin_sent):
            self._session.write(parts)

    def finish(self) -> None:
        """The process sends no more; it may still read."""
        if not (self._done or self._fin_sent):
            self._fin_sent = True
            self._session.write((spdy.data_header(self.data_id, 0, spdy.FIN),))

    def close(self) -> None:
        """Both directions ended well: FIN on data, then on error."""
        self.finish()
        if not self._done:
            self._end((spdy.data_header(self.error_id, 0, spdy.FIN),))

    def fail(self, text: str) -> None:
        """The connection failed: the text on the error stream, then both are reset."""
        if not self._done:
            said = text.encode()
            fin = spdy.data_header(self.data_id, 0, spdy.FIN)
            error = spdy.data_header(self.error_id, len(said)) + said
            self._end((fin, error, spdy.rst_stream(self.error_id, spdy.CANCEL)))

    def drop(self) -> None:
        """Forget it without a word, as after the client's reset."""
        if not self._done:
            self._end(())

    def _end(self, parts: Sequence[Buffer]) -> None:
        self._done = True
        self._session.forget(self)
        if parts:
            self._session.write(parts)


class PodSession:
    """One tunnel as the node sees it. `on_pair` gets each new connection and sets its receiver."""

    def __init__(self, write: Write, on_pair: Callable[[PodPair], None]) -> None:
        self.write = write
        self._on_pair = on_pair
        self._reader = spdy.FrameReader(self)
        self._headers = HeaderReader()
        self._halves: dict[str, tuple[str, int, int]] = {}  # request id: the half that came first
        self._pairs: dict[int, PodPair] = {}
        self._fins: set[int] = set()
        self._last_id = 0
        self._replied = False

    def feed(self, view: memoryview) -> None:
        """Take the client's next bytes. Raises ProtocolError: then the connection must end."""
        self._reader.feed(view)

    def ended(self) -> None:
        """The transport is gone."""
        for pair in list(self._pairs.values()):
            pair.drop()
            if pair.receiver is not None:
                pair.receiver.on_reset()

    def forget(self, pair: PodPair) -> None:
        """Called by a pair that is over."""
        self._pairs.pop(pair.data_id, None)

    def on_data(self, stream: int, data: memoryview) -> None:
        """Part of FrameSink. Leftovers of ended connections are dropped."""
        pair = self._pairs.get(stream)
        if pair is not None and pair.receiver is not None and not pair.fin_received:
            pair.receiver.on_data(data)

    def on_fin(self, stream: int) -> None:
        """Part of FrameSink."""
        pair = self._pairs.get(stream)
        if pair is not None and not pair.fin_received:
            pair.fin_received = True
            if pair.receiver is not None:
                pair.receiver.on_fin()

    def on_control(self, kind: int, flags: int, body: bytes) -> None:
        """Part of FrameSink."""
        if kind == spdy.SYN_STREAM:
            self._opened(spdy.word(body), flags, body[10:])
        elif kind == spdy.PING:
            self.write((spdy.ping(spdy.word(body)),))
        elif kind == spdy.RST_STREAM:
            pair = self._pairs.get(spdy.word(body))
            if pair is not None:
                pair.drop()
                if pair.receiver is not None:
                    pair.receiver.on_reset()

    def _opened(self, stream: int, flags: int, block: bytes) -> None:
        headers = self._headers.read(block)
        if stream <= self._last_id or not stream % 2:
            self.write((spdy.rst_stream(stream, 1),))
            return
        self._last_id = stream
        kind, request, port = headers.get("streamtype"), headers.get("requestid", ""), headers.get("port", "")
        if kind not in {"error", "data"} or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            self.write((spdy.rst_stream(stream, spdy.CANCEL),))
            return
        self._reply(stream)
        if kind == "data" and flags & spdy.FIN:
            self._fins.add(stream)
        self._match(kind, stream, int(port), request)

    def _match(self, kind: str, stream: int, port: int, request: str) -> None:
        half = self._halves.pop(request, None)
        if half is None:
            if len(self._halves) >= MAX_HALVES or len(self._pairs) >= MAX_PAIRS:
                raise ProtocolError("SPDY: too many streams")
            self._halves[request] = (kind, stream, port)
            return
        if half[0] == kind or half[2] != port:
            raise ProtocolError("port-forward: two streams of one request do not belong together")
        data_id, error_id = (stream, half[1]) if kind == "data" else (half[1], stream)
        pair = self._pairs[data_id] = PodPair(self, data_id, error_id, port)
        self._on_pair(pair)
        if data_id in self._fins:
            self._fins.discard(data_id)
            self.on_fin(data_id)

    def _reply(self, stream: int) -> None:
        block = stored() if self._replied else START + stored()
        self._replied = True
        self.write((spdy.syn_reply(stream, block),))
