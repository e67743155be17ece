"""SPDY/3.1 frames as Kubernetes streaming servers speak them: encoding, and a reader that any chunking feeds.

Knows nothing of port-forward or of transports. DATA payloads pass through as they come, never gathered into frames, and
neighbouring payloads of one stream are moved together in the caller's buffer, so the sink is called once per run.
Invariant: whatever comes, the reader holds at most one frame header and one bounded control frame.
"""

import struct
from typing import Final, Protocol

from kraynd.core.pipe import Buffer
from krayne.errors import ProtocolError

SYN_STREAM: Final = 1
SYN_REPLY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PING: Final = 6
GOAWAY: Final = 7
HEADERS: Final = 8
WINDOW_UPDATE: Final = 9
FIN: Final = 0x01

REFUSED_STREAM: Final = 3
CANCEL: Final = 5

HEADER_SIZE: Final = 8
MAX_ID: Final = 0x7FFF_FFFF
MAX_CONTROL: Final = 64 * 1024  # bytes of one control frame; real ones stay below 200
MAX_PAYLOAD: Final = 0xFF_FFFF  # what 24 bits of length can say

_CONTROL_BIT: Final = 0x8000_0000
_VERSION_WORD: Final = 0x8003_0000
_WORDS = struct.Struct(">II")
_THREE = struct.Struct(">III")
_FOUR = struct.Struct(">IIII")
_SYN = struct.Struct(">IIIIH")
_SIZES = {RST_STREAM: 8, PING: 4, GOAWAY: 8, WINDOW_UPDATE: 8}  # control frames of one exact length
_LEAST = {SYN_STREAM: 10, SYN_REPLY: 4, SETTINGS: 4, HEADERS: 4}  # and those that may be longer


class FrameSink(Protocol):
    """What the reader tells. Payload views are valid only during the call."""

    def on_data(self, stream: int, data: memoryview) -> None:
        """Payload of a stream, in order, in pieces of any size."""

    def on_fin(self, stream: int) -> None:
        """The peer's direction of a stream ended with DATA."""

    def on_control(self, kind: int, flags: int, body: bytes) -> None:
        """One whole control frame of valid length."""


def data_header(stream: int, size: int, flags: int = 0) -> bytes:
    """The 8 bytes before a DATA payload of `size` bytes (at most MAX_PAYLOAD)."""
    return _WORDS.pack(stream, flags << 24 | size)


def syn_stream(stream: int, block: bytes, flags: int = 0) -> bytes:
    """Open `stream` with an encoded header block; priority 0, no parent."""
    return _SYN.pack(_VERSION_WORD | SYN_STREAM, flags << 24 | 10 + len(block), stream, 0, 0) + block


def syn_reply(stream: int, block: bytes, flags: int = 0) -> bytes:
    """Accept `stream`."""
    return _THREE.pack(_VERSION_WORD | SYN_REPLY, flags << 24 | 4 + len(block), stream) + block


def rst_stream(stream: int, status: int) -> bytes:
    """End both directions of `stream`."""
    return _FOUR.pack(_VERSION_WORD | RST_STREAM, 8, stream, status)


def ping(number: int) -> bytes:
    """A ping, which the peer echoes unchanged."""
    return _THREE.pack(_VERSION_WORD | PING, 4, number)


def settings() -> bytes:
    """No settings at all: a frame that asks for nothing."""
    return _THREE.pack(_VERSION_WORD | SETTINGS, 4, 0)


def goaway(last: int, status: int = 0) -> bytes:
    """No more streams after `last`."""
    return _FOUR.pack(_VERSION_WORD | GOAWAY, 8, last, status)


def word(body: Buffer, at: int = 0) -> int:
    """The 31-bit number at `at` of a control frame's body."""
    return int.from_bytes(body[at : at + 4], "big") & MAX_ID


class FrameReader:
    """Bytes in, calls on the sink out. After a ProtocolError it must not be fed again."""

    __slots__ = ("_fin", "_head", "_kind", "_left", "_sink", "_stream")

    def __init__(self, sink: FrameSink) -> None:
        self._sink = sink
        self._head = bytearray()  # a frame header, or header and body of a control frame, that is not whole yet
        self._stream = 0
        self._left = 0  # payload bytes of the current DATA frame still to come
        self._fin = False
        self._kind = 0

    def feed(self, view: memoryview) -> None:
        """Take the next bytes. A writable view may be rearranged. Raises ProtocolError."""
        at, end = 0, len(view)
        start = stop = stream = 0  # the run of payload not handed over yet
        movable = not view.readonly
        while at < end:
            if self._left:
                upto = min(at + self._left, end)
                size = upto - at
                self._left -= size
                if stop > start and (self._stream != stream or not movable):
                    self._sink.on_data(stream, view[start:stop])
                    start = stop
                if stop == start:
                    stream, start, stop = self._stream, at, upto
                else:
                    if stop != at:
                        view[stop : stop + size] = view[at:upto]
                    stop += size
                at = upto
                if not self._left and self._fin:
                    self._sink.on_data(stream, view[start:stop])
                    start = stop
                    self._sink.on_fin(stream)
                continue
            if not self._head and end - at >= HEADER_SIZE and view[at] < 0x80:
                one, two = _WORDS.unpack_from(view, at)
                at += HEADER_SIZE
                if not two & MAX_PAYLOAD and stop > start:
                    self._sink.on_data(stream, view[start:stop])
                    start = stop
                self._begin_data(one, two)
                continue
            if stop > start:
                self._sink.on_data(stream, view[start:stop])
                start = stop
            at = self._take_control(view, at, end) or self._gather(view, at, end)
        if stop > start:
            self._sink.on_data(stream, view[start:stop])

    def _begin_data(self, one: int, two: int) -> None:
        if not one:
            raise ProtocolError("SPDY: data for stream 0")
        self._stream = one
        self._left = two & MAX_PAYLOAD
        self._fin = bool(two >> 24 & FIN)
        if self._fin and not self._left:
            self._sink.on_fin(one)

    def _take_control(self, view: memoryview, at: int, end: int) -> int:
        """A control frame that came in one piece, as nearly all do; returns where it ends, or 0."""
        if self._head or end - at < HEADER_SIZE:
            return 0
        one, two = _WORDS.unpack_from(view, at)
        size: int = two & MAX_PAYLOAD
        self._check_control(one, size)
        upto = at + HEADER_SIZE + size
        if upto > end:
            return 0
        self._sink.on_control(self._kind, two >> 24, bytes(view[at + HEADER_SIZE : upto]))
        return upto

    def _gather(self, view: memoryview, at: int, end: int) -> int:
        """Collect a header, or a control frame, across reads; returns how far the view is used up."""
        head = self._head
        if len(head) < HEADER_SIZE:
            upto = min(end, at + HEADER_SIZE - len(head))
            head += view[at:upto]
            at = upto
            if len(head) < HEADER_SIZE:
                return at
            one, two = _WORDS.unpack_from(head)
            if not one & _CONTROL_BIT:
                head.clear()
                self._begin_data(one, two)
                return at
            self._check_control(one, two & MAX_PAYLOAD)
        missing = int.from_bytes(head[5:8], "big") + HEADER_SIZE - len(head)
        upto = min(end, at + missing)
        head += view[at:upto]
        if upto - at == missing:
            flags, body = head[4], bytes(head[HEADER_SIZE:])
            head.clear()
            self._sink.on_control(self._kind, flags, body)
        return upto

    def _check_control(self, one: int, size: int) -> None:
        kind = one & 0xFFFF
        if one & 0xFFFF_0000 != _VERSION_WORD:
            raise ProtocolError(f"SPDY: not version 3 (frame starts with {one:#010x})")
        if size > MAX_CONTROL:
            raise ProtocolError(f"SPDY: a control frame of {size} bytes")
        if kind not in _SIZES and kind not in _LEAST:
            raise ProtocolError(f"SPDY: unknown frame type {kind}")
        if size != _SIZES.get(kind, size) or size < _LEAST.get(kind, 0):
            raise ProtocolError(f"SPDY: frame type {kind} of {size} bytes")
        self._kind = kind
