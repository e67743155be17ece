"""The seam between the two byte rims: `kube.tunnel` and `local.listen` meet only through an `End`.

Both sides are protocols on one event loop, so every call is synchronous and nothing is queued between them. The law of
the seam: a side that cannot take more calls `peer.pause_reading()` and later `peer.resume_reading()`; after `abort` or
after both directions have ended, nothing more is called on either.
"""

from typing import Protocol

Buffer = bytes | bytearray | memoryview


class End(Protocol):
    """One side of a spliced connection, as the other side sees it."""

    peer: "End | None"

    def write(self, data: Buffer) -> None:
        """Take `data` towards this side. Valid only during the call: copy it or hand it to the kernel."""

    def write_eof(self) -> None:
        """No more data will come to this side; the other direction stays open."""

    def abort(self, reason: str) -> None:
        """End both directions at once, as a reset where the side can say so."""

    def pause_reading(self) -> None:
        """Produce no more data for the peer until `resume_reading`."""

    def resume_reading(self) -> None:
        """Produce data for the peer again."""


def splice(one: End, other: End) -> None:
    """Make two sides each other's peer."""
    one.peer = other
    other.peer = one
