"""A server's WebSocket messages, each with its borders kept: what exec's channels need. Pure; any chunking feeds it.

For tunnels, where borders mean nothing, `websocket.FrameStripper` is the faster one. The messages are bounded.
"""

from kraynd.core.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from krayne.errors import ProtocolError

MESSAGE_LIMIT = 4 * 1024 * 1024  # bytes; the API server's are about 32 KiB
_CONTROL_LIMIT = 125
_KNOWN = {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}


class MessageReader:
    """Bytes in, (opcode, payload) out. After a ProtocolError it must not be used again."""

    def __init__(self, first: bytes = b"") -> None:
        self._data = bytearray(first)
        self._parts = bytearray()
        self._opcode = CONTINUATION  # of the message that is not whole yet; CONTINUATION: none is

    def feed(self, data: bytes) -> None:
        """More bytes of the connection."""
        self._data += data

    def take(self) -> tuple[int, bytes] | None:
        """The next whole message or control frame. Raises ProtocolError."""
        while (one := self._frame()) is not None:
            fin, opcode, payload = one
            if opcode >= CLOSE:
                return opcode, payload
            if (opcode == CONTINUATION) is (self._opcode == CONTINUATION):
                raise ProtocolError("WebSocket: a message begins or goes on where it may not")
            self._opcode = self._opcode or opcode
            self._parts += payload
            if len(self._parts) > MESSAGE_LIMIT:
                raise ProtocolError("WebSocket: a message without end")
            if fin:
                whole, self._opcode, self._parts = (self._opcode, bytes(self._parts)), CONTINUATION, bytearray()
                return whole
        return None

    def _frame(self) -> tuple[bool, int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        fin, opcode, size, at = bool(data[0] & 0x80), data[0] & 0x0F, data[1] & 0x7F, 2
        if data[0] & 0x70 or data[1] & 0x80 or opcode not in _KNOWN:
            raise ProtocolError("WebSocket: a frame that breaks the protocol")
        if opcode >= CLOSE and (size > _CONTROL_LIMIT or not fin):
            raise ProtocolError("WebSocket: a control frame that breaks the protocol")
        if size > _CONTROL_LIMIT:
            at = 4 if size == 126 else 10
            if len(data) < at:
                return None
            size = int.from_bytes(data[2:at], "big")
        if size > MESSAGE_LIMIT:
            raise ProtocolError("WebSocket: a message without end")
        if len(data) < at + size:
            return None
        payload = bytes(data[at : at + size])
        del data[: at + size]
        return fin, opcode, payload
