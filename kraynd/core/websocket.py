"""WebSocket (RFC 6455) as a skin around a byte stream: handshake, masking, and a reader that any chunking feeds.

Message borders mean nothing here, so payloads are moved together in the caller's buffer and no message is ever built.
Both roles: a client masks what it sends, a server unmasks what it reads. No extensions.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kraynd.core.pipe import Buffer
from krayne.errors import ProtocolError

TUNNEL_PROTOCOL: Final = "SPDY/3.1+portforward.k8s.io"

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

_MAX_CONTROL: Final = 125
_MAX_PAYLOAD: Final = 1 << 63
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3

Mask = Callable[[bytes, bytearray], None]  # (key, data): XOR in place


def accept_key(key: str) -> str:
    """What a server answers to Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def handshake_headers(nonce: bytes, protocol: str) -> dict[str, str]:
    """A client's request headers. `nonce` is 16 random bytes."""
    return {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(nonce).decode(),
        "Sec-WebSocket-Protocol": protocol,
    }


def check_handshake(headers: Mapping[str, str], nonce: bytes, protocol: str) -> None:
    """Raises ProtocolError unless the server's 101 is a WebSocket of our protocol. Names in lower case."""
    if headers.get("upgrade", "").lower() != "websocket":
        raise ProtocolError("WebSocket: the server did not upgrade")
    if headers.get("sec-websocket-accept") != accept_key(base64.b64encode(nonce).decode()):
        raise ProtocolError("WebSocket: the server's accept key is wrong")
    if headers.get("sec-websocket-protocol") != protocol:
        raise ProtocolError("WebSocket: the server did not choose the tunnel protocol")
    if headers.get("sec-websocket-extensions"):
        raise ProtocolError("WebSocket: the server chose an extension nobody offered")


def mask_plainly(key: bytes, data: bytearray) -> None:
    """XOR in place without a C helper: about 1.5 us per KiB."""
    size = len(data)
    whole = key * (size // 4) + key[: size % 4]
    data[:] = (int.from_bytes(data, "little") ^ int.from_bytes(whole, "little")).to_bytes(size, "little")


def frame_header(opcode: int, size: int, key: bytes = b"", *, fin: bool = True) -> bytes:
    """The header of one frame; with a key it says that the payload is masked."""
    first = opcode | (0x80 if fin else 0)
    bit = 0x80 if key else 0
    if size < 126:
        return bytes((first, bit | size)) + key
    if size < 65536:
        return bytes((first, bit | 126)) + size.to_bytes(2, "big") + key
    return bytes((first, bit | 127)) + size.to_bytes(8, "big") + key


class FrameStripper:
    """Bytes in, payload bytes at the front of the same buffer out. After a ProtocolError it must not be used again."""

    __slots__ = ("_control", "_head", "_in_message", "_key", "_left", "_mask", "_masked", "_opcode", "_phase",
                 "closed", "replies")  # fmt: skip

    def __init__(self, *, masked: bool, mask: Mask = mask_plainly) -> None:
        self._masked = masked  # whether the peer must mask: it is the client
        self._mask = mask
        self._head = bytearray()
        self._control = bytearray()
        self._opcode = BINARY
        self._left = 0
        self._key = b""
        self._phase = 0
        self._in_message = False
        self.closed: int | None = None  # the peer's close code
        self.replies: list[bytes] = []  # payloads of PINGs to answer, at most one for each `strip`

    def strip(self, view: memoryview) -> int:
        """Move all payload of the stream to the front of the writable `view`; returns its size."""
        at, end, filled = 0, len(view), 0
        while at < end and self.closed is None:
            if not self._left:
                at = self._header(view, at, end)
                continue
            upto = min(at + self._left, end)
            size = upto - at
            self._left -= size
            if self._opcode < CLOSE:
                self._move(view, at, filled, size)
                filled += size
            else:
                self._control += self._opened(view[at:upto])
                self._finish_control()
            at = upto
        return filled

    def _move(self, view: memoryview, at: int, to: int, size: int) -> None:
        if self._masked:
            view[to : to + size] = self._opened(view[at : at + size])
        elif at != to:
            view[to : to + size] = view[at : at + size]

    def _opened(self, piece: memoryview) -> bytes | bytearray:
        if not self._masked:
            return bytes(piece)
        plain = bytearray(piece)
        self._mask(self._key[self._phase :] + self._key[: self._phase], plain)
        self._phase = (self._phase + len(piece)) % 4
        return plain

    def _header(self, view: memoryview, at: int, end: int) -> int:
        head = self._head
        while at < end:
            missing = _header_size(head) - len(head)
            upto = min(end, at + missing)
            head += view[at:upto]
            at = upto
            if len(head) >= 2 and len(head) == _header_size(head):
                self._begin(head)
                head.clear()
                break
        return at

    def _begin(self, head: bytearray) -> None:
        fin, opcode, masked, size = bool(head[0] & 0x80), head[0] & 0x0F, bool(head[1] & 0x80), head[1] & 0x7F
        key_at = len(head) - 4 if masked else len(head)
        if size > _MAX_CONTROL:
            size = int.from_bytes(head[2:key_at], "big")
        if head[0] & 0x70 or masked is not self._masked or size >= _MAX_PAYLOAD:
            raise ProtocolError("WebSocket: a frame that breaks the protocol")
        if opcode in {CLOSE, PING, PONG}:
            if not fin or size > _MAX_CONTROL:
                raise ProtocolError("WebSocket: a control frame that breaks the protocol")
        elif opcode not in {BINARY, CONTINUATION} or (opcode == CONTINUATION) is not self._in_message:
            raise ProtocolError(f"WebSocket: a frame of type {opcode} where none may be")
        else:
            self._in_message = not fin
        self._opcode, self._left, self._key, self._phase = opcode, size, bytes(head[key_at:]), 0
        if not size and opcode >= CLOSE:
            self._finish_control()

    def _finish_control(self) -> None:
        if self._left:
            return
        payload = bytes(self._control)
        self._control.clear()
        if self._opcode == CLOSE:
            self.closed = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
        elif self._opcode == PING:
            self.replies[:] = [payload]  # RFC 6455 5.5.3: only the latest needs an answer


def _header_size(head: bytearray) -> int:
    if len(head) < 2:
        return 2
    length = head[1] & 0x7F
    return 2 + (2 if length == 126 else 8 if length == 127 else 0) + (4 if head[1] & 0x80 else 0)


class Dress:
    """The sending half: any parts become one binary frame. `key` gives four fresh random bytes; None for a server."""

    __slots__ = ("_key", "_mask")

    def __init__(self, key: Callable[[], bytes] | None, mask: Mask = mask_plainly) -> None:
        self._key = key
        self._mask = mask

    def frame(self, parts: Sequence[Buffer], opcode: int = BINARY) -> bytes:
        """One frame, header and all."""
        if self._key is None:
            body: Buffer = b"".join(parts)
            return frame_header(opcode, len(body)) + bytes(body)
        key = self._key()
        body = bytearray().join(parts)
        self._mask(key, body)
        return b"".join((frame_header(opcode, len(body), key), body))
