"""The bytes of an upgraded connection that carries several streams: exec, logs. Both sides use it.

A frame is a channel (one byte), a size (four bytes, big end first) and so many bytes. No I/O, the standard library
alone. Law: any chunking of the same bytes gives the same frames. `krayne.messages.pods` says which channel is whose.
"""

import json
from typing import Any

from krayne.errors import ProtocolError

# Client to daemon: STDIN (empty: its end), RESIZE. Daemon to client: STDOUT, STDERR, END, after which it closes.
STDIN, STDOUT, STDERR, END, RESIZE = range(5)
PAYLOAD_LIMIT = 1 << 20  # bytes of one frame; senders cut longer data
PIECE = 64 * 1024  # bytes a sender puts into one frame
HEADER = 5


def frame(channel: int, data: bytes = b"") -> bytes:
    """One frame."""
    return bytes((channel,)) + len(data).to_bytes(4, "big") + data


def json_frame(channel: int, value: dict[str, Any]) -> bytes:
    """One frame of JSON: END and RESIZE."""
    return frame(channel, json.dumps(value).encode())


def read_json(data: bytes) -> dict[str, Any]:
    """A frame's JSON object. Raises ProtocolError."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ProtocolError("a frame that should hold a JSON object does not")
    return found


class Frames:
    """Bytes in, frames out. After a ProtocolError it must not be used again."""

    def __init__(self, first: bytes = b"") -> None:
        self._data = bytearray(first)

    def feed(self, data: bytes) -> None:
        """More bytes of the stream."""
        self._data += data

    def take(self) -> tuple[int, bytes] | None:
        """The next whole frame: channel and payload. Raises ProtocolError for one beyond PAYLOAD_LIMIT."""
        if len(self._data) < HEADER:
            return None
        size = int.from_bytes(self._data[1:HEADER], "big")
        if size > PAYLOAD_LIMIT or self._data[0] > RESIZE:
            raise ProtocolError("the other side of the connection does not send frames")
        if len(self._data) < HEADER + size:
            return None
        channel, payload = self._data[0], bytes(self._data[HEADER : HEADER + size])
        del self._data[: HEADER + size]
        return channel, payload
