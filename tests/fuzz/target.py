"""What is fuzzed: a client session under any server and the pod's side under any client, bare or in WebSocket.

An input is a program: its first byte chooses the side, each command after it is one opcode byte. Nothing here asserts
what an input means; the laws hold for every input. ProtocolError is an answer, any other exception is a fault.
"""

from collections.abc import Sequence
from typing import Final

from kraynd.core import spdy, websocket
from kraynd.core.pipe import Buffer
from kraynd.core.podside import MAX_HALVES, PodPair, PodSession
from kraynd.core.portforward import ClientSession, Pair, SessionLimits
from kraynd.core.verdict import TEXT_LIMIT, EndKind
from krayne.errors import ProtocolError

MOST_PAIRS: Final = 40
LONGEST: Final = 4096  # bytes of one input


class Program:
    """The input, read from its front; an input that ends reads as zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data[:LONGEST]
        self._at = 0

    @property
    def over(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]


class Hearer:
    """Holds a pair's receiver to its protocol, and remembers what it heard."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.eof = self.full = False
        self.end: EndKind | None = None

    def pod_data(self, data: memoryview) -> None:
        assert self.end is None
        assert not self.eof
        self.data += data

    def pod_eof(self) -> None:
        assert self.end is None
        assert not self.eof
        self.eof = True

    def pod_end(self, kind: EndKind, message: str) -> None:
        assert self.end is None
        assert len(message) < 4 * TEXT_LIMIT
        self.end = kind

    def pod_full(self) -> None:
        assert not self.full
        self.full = True

    def pod_room(self) -> None:
        assert self.full
        self.full = False


class Written:
    """What our side writes, held to the laws of the wire."""

    def __init__(self) -> None:
        self.pairs: dict[int, Pair] = {}  # by data id
        self._finished: set[int] = set()
        self._last_opened = 0
        self._reader = spdy.FrameReader(self)

    def take(self, parts: Sequence[Buffer]) -> None:
        self._reader.feed(memoryview(b"".join(parts)))

    def on_data(self, stream: int, data: memoryview) -> None:  # noqa: ARG002 - FrameSink's words
        assert stream not in self._finished
        pair = self.pairs.get(stream)
        assert pair is None or not pair.error_ended  # it would wedge the node's worker for good

    def on_fin(self, stream: int) -> None:
        assert stream not in self._finished
        self._finished.add(stream)

    def on_control(self, kind: int, flags: int, body: bytes) -> None:  # noqa: ARG002
        if kind == spdy.SYN_STREAM:
            assert spdy.word(body) % 2
            assert spdy.word(body) > self._last_opened
            self._last_opened = spdy.word(body)
        if kind == spdy.SETTINGS:  # a turn passed
            assert body == bytes(4)
        assert kind in {spdy.SYN_STREAM, spdy.RST_STREAM, spdy.PING, spdy.SETTINGS}


class ClientRun:
    """One client session and all that is asked of it."""

    def __init__(self, skin: bool, chunk: int) -> None:
        self.now = 100.0
        self.written = Written()
        self.session = ClientSession(self.written.take, self.now, SessionLimits())
        self.stripper = websocket.FrameStripper(masked=False) if skin else None
        self.pairs: list[Pair] = []
        self.hearers: list[Hearer] = []
        self.dead = False
        self._chunk = chunk

    def step(self, program: Program) -> None:
        code = program.byte()
        if code < 0x20:
            self._open(program.take(program.byte() % 64))
        elif code < 0x40:
            self._act(code, program)
        elif code < 0x50:
            self.now += program.byte() / 8
            if self.session.tick(self.now) == "dead":
                self.die()
            else:
                assert self.session.alarm > self.now  # else whoever holds the timer would spin
        elif code < 0x80:
            self.feed(program.take(program.byte()), wrapped=True)
        elif code < 0x90:
            self.feed(program.take(1 + program.byte() % 16), wrapped=False)
        else:
            self.feed(self._frame(code, program), wrapped=True)
        self._bounded()

    def die(self) -> None:
        self.dead = True
        self.session.lost("gone")
        assert all(one.end or pair.ended for one, pair in zip(self.hearers, self.pairs, strict=True))

    def _open(self, first: bytes) -> None:
        if len(self.pairs) < MOST_PAIRS and not self.session.retiring:
            hearer = Hearer()
            pair = self.session.open(80, hearer, first, self.now)
            self.written.pairs[pair.data_id] = pair
            self.pairs.append(pair)
            self.hearers.append(hearer)

    def _act(self, code: int, program: Program) -> None:
        if not self.pairs:
            return
        pair = self.pairs[program.byte() % len(self.pairs)]
        if code < 0x2C:
            self.session.send(pair, bytes(program.byte() * 300), self.now)
        elif code < 0x36:
            self.session.finish(pair)
        else:
            self.session.reset(pair)

    def _frame(self, code: int, program: Program) -> bytes:
        """A frame that is well formed, of a stream that exists."""
        pair = self.pairs[program.byte() % len(self.pairs)] if self.pairs else None
        data_id, error_id = (pair.data_id, pair.error_id) if pair is not None else (1, 3)
        stream = data_id if code & 1 else error_id
        size = program.byte()
        made = {
            0x9: spdy.data_header(stream, size, size & spdy.FIN) + bytes(size),
            0xA: spdy.syn_reply(stream, b"", size & spdy.FIN),
            0xB: spdy.rst_stream(stream, size),
            0xC: spdy.ping(2 * (size // 2) + 1),
            0xD: spdy.data_header(stream, 0, spdy.FIN),
            0xE: spdy.data_header(error_id, 6) + b"failed",
            0xF: spdy.goaway(stream, size),
        }
        return made[code >> 4]

    def feed(self, data: bytes, *, wrapped: bool) -> None:
        """From the server. `wrapped` puts a whole message around it where there is a skin."""
        if self.stripper is not None and wrapped:
            data = websocket.frame_header(websocket.BINARY, len(data)) + data
        size = self._chunk or len(data) or 1
        for at in range(0, len(data), size):
            view = memoryview(bytearray(data[at : at + size]))
            if self.stripper is not None:
                view = view[: self.stripper.strip(view)]
                self.stripper.replies.clear()
            self.session.feed(view, self.now)

    def _bounded(self) -> None:
        assert len(self.session._reader._head) <= spdy.MAX_CONTROL + spdy.HEADER_SIZE
        assert len(self.session._pairs) <= len(self.pairs)
        assert all(len(pair.text) <= TEXT_LIMIT for pair in self.pairs)
        assert self.stripper is None or len(self.stripper._head) + len(self.stripper._control) < 256

    def heard(self) -> list[tuple[bytes, bool, EndKind | None]]:
        return [(bytes(one.data), one.eof, one.end) for one in self.hearers]


class Process:
    """Behind a port of the pod: answers in kind, ends when it is told."""

    def __init__(self, pair: PodPair) -> None:
        self.pair = pair
        self.over = False
        pair.receiver = self

    def on_data(self, data: memoryview) -> None:
        assert not self.over
        self.pair.send(bytes(data))

    def on_fin(self) -> None:
        assert not self.over
        self.pair.close()

    def on_reset(self) -> None:
        assert not self.over
        self.over = True


def run(data: bytes) -> None:
    """One input. The client's side is run twice, cut differently: what is heard must be the same."""
    side = data[0] & 3 if data else 0
    if side & 2:
        _run_pod(data[1:], skin=bool(side & 1))
        return
    whole = _run_client(data[1:], skin=bool(side & 1), chunk=0)
    cut = _run_client(data[1:], skin=bool(side & 1), chunk=1 + (data[0] >> 2) % 8 if data else 1)
    assert (whole is None) == (cut is None)
    assert whole == cut


def _run_client(data: bytes, *, skin: bool, chunk: int) -> list[tuple[bytes, bool, EndKind | None]] | None:
    client, program = ClientRun(skin, chunk), Program(data)
    try:
        while not program.over and not client.dead:
            client.step(program)
    except ProtocolError:
        client.die()
        return None
    return client.heard()


def _run_pod(data: bytes, *, skin: bool) -> None:
    session = PodSession(lambda _parts: None, _behind)
    stripper = websocket.FrameStripper(masked=True) if skin else None
    program = Program(data)
    try:
        while not program.over:
            piece = bytearray(program.take(1 + program.byte()))
            if stripper is not None:
                piece = bytearray(websocket.Dress(lambda: b"\x01\x02\x03\x04").frame((piece,)))
                del piece[stripper.strip(memoryview(piece)) :]
            session.feed(memoryview(piece))
            assert len(session._halves) <= MAX_HALVES
    except ProtocolError:
        pass
    session.ended()


def _behind(pair: PodPair) -> None:
    Process(pair)
