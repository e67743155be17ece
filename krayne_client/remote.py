"""A stream of frames as the client holds it: one socket, never blocked on one direction while the other is full.

Blocking for its callers; the standard library alone. Invariant: at most OUT_LIMIT bytes wait to be sent.
"""

import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any, Self

from krayne import frames
from krayne.errors import DaemonUnreachableError, KrayneError, error_for

OUT_LIMIT = 256 * 1024
READ_SIZE = 1 << 18


class Remote:
    """An upgraded connection. `exit_code` is known once END came."""

    def __init__(self, connected: socket.socket, first: bytes) -> None:
        self._socket = connected
        self._socket.setblocking(False)
        self._frames = frames.Frames(first)
        self._out = bytearray()
        self.exit_code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    @property
    def full(self) -> bool:
        """Whether enough waits to be sent."""
        return len(self._out) >= OUT_LIMIT

    def put(self, frame: bytes) -> None:
        """Send it when there is room."""
        self._out += frame

    def take(self) -> tuple[int, bytes] | None:
        """The next frame of output that is here; END sets `exit_code`. Raises the daemon's error."""
        one = self._frames.take()
        if one is not None and one[0] == frames.END:
            self.exit_code = _exit_code(frames.read_json(one[1]))
            return None
        return one

    def turn(self, also: Sequence[int] = (), timeout: float | None = None) -> list[int]:
        """Wait until something moves, move it; those of the descriptors `also` that can be read."""
        wanted: list[Any] = [self._socket, *also]
        ready, writable, _ = select.select(wanted, wanted[:1] if self._out else [], [], timeout)
        if writable:
            self._flush()
        if self._socket in ready:
            self._receive()
        return [one for one in also if one in ready]

    def _flush(self) -> None:
        try:
            del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            return
        except OSError:
            self._out.clear()  # whoever does not read any more has said why, or is gone: the reading side tells

    def _receive(self) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise DaemonUnreachableError("the daemon went away in the middle", hint="krayne status, then repeat it")
        self._frames.feed(data)

    # For callers that do one thing at a time.

    def next(self) -> tuple[int, bytes] | None:
        """The next frame of output; None at the end."""
        while True:
            one = self.take()
            if one is not None or self.exit_code is not None:
                return one
            self.turn()

    def send(self, data: bytes, on_output: Callable[[int, bytes], None]) -> bool:
        """Input for the other side, waiting for room; False once the other side has ended."""
        for begin in range(0, len(data), frames.PIECE):
            self.put(frames.frame(frames.STDIN, data[begin : begin + frames.PIECE]))
            while self.full:
                self.turn()
                while (one := self.take()) is not None:
                    on_output(*one)
                if self.exit_code is not None:
                    return False
        return True


def _exit_code(told: dict[str, Any]) -> int:
    if "exit" in told:
        return int(told["exit"])
    kind, message = str(told.get("kind", "internal")), str(told.get("message", ""))
    fault: KrayneError = error_for(kind, message, hint=str(told.get("hint", "")))
    raise fault


def write_out(channel: int, data: bytes) -> None:
    """Output of the other side to ours. Raises BrokenPipeError."""
    target = 1 if channel == frames.STDOUT else 2
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
