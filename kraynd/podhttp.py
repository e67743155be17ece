"""One small HTTP question to a port of the head pod, its status server's at first, through the tunnel.

Owns the exchange: bounded in time and size, and nothing of it stays open.
"""

import anyio

from kraynd.core.bootstrap import STATUS_PORT
from kraynd.core.model import PodTarget
from kraynd.core.pipe import Buffer, End, splice
from kraynd.forwards import Opener

ANSWER_SECONDS = 5.0
ANSWER_LIMIT = 2 * 1024 * 1024  # bytes; a log's end is up to 1 MiB


class _Answer:
    """An `End` that keeps what the pod says, bounded, until it ends."""

    def __init__(self) -> None:
        self.peer: End | None = None
        self.data = bytearray()
        self.ended = anyio.Event()

    def write(self, data: Buffer) -> None:
        """Keep it; too much ends the exchange."""
        self.data += data
        if len(self.data) > ANSWER_LIMIT:
            self.abort("too large")

    def write_eof(self) -> None:
        """The whole answer is here."""
        self.ended.set()

    def abort(self, reason: str) -> None:
        """No more will come."""
        self.ended.set()
        if self.peer is not None:
            peer, self.peer = self.peer, None
            peer.abort(reason)

    def pause_reading(self) -> None:
        """Nothing is read from here."""

    def resume_reading(self) -> None:
        """Nothing is read from here."""


async def ask(
    opener: Opener, target: PodTarget, path: str, seconds: float = ANSWER_SECONDS, port: int = STATUS_PORT
) -> tuple[int, bytes]:
    """GET `path` of a port: the status (0: no HTTP) and the body. Raises KrayneError, TimeoutError."""
    answer = _Answer()
    stream: End | None = None
    request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
    try:
        with anyio.fail_after(seconds):
            stream = await opener.open(target, port, answer, request, aside=True)
            splice(answer, stream)
            await answer.ended.wait()
    finally:
        if stream is not None and not answer.ended.is_set():
            stream.abort("no answer in time")
    head, _, body = bytes(answer.data).partition(b"\r\n\r\n")
    words = head.split(b"\r\n")[0].split(b" ")
    status = int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else 0
    return status, body
