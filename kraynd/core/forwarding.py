"""Forwards as values, and what becomes of a connection without a stream: how long it waits, when it is tried again.

Pure: time comes in, the caller waits and acts. The law of replay: bytes are sent a second time only when it is certain
that no application saw them the first time, or that seeing them twice changes nothing (`core.repeat`).
"""

from typing import Literal

import msgspec

from kraynd.core.backoff import DIAL, REFUSED, STEADY, Backoff
from kraynd.core.model import ForwardKey
from kraynd.core.repeat import may_repeat

KEEP_LIMIT = 64 * 1024  # bytes of a client kept for a replay, and read at most while there is no stream

After = Literal["finish", "replay", "reset"]

# The stream's own error text proves that the connect to the application failed, or that there was no pod to connect in.
_NOT_SEEN = frozenset({"refused", "pod-gone"})


class ForwardSpec(msgspec.Struct, frozen=True):
    """What a forward should be. `local_port` 0 takes any (tests)."""

    key: ForwardKey
    remote_port: int
    local_port: int
    scheme: str


class ForwardState(msgspec.Struct, frozen=True, kw_only=True):
    """What a forward is. `since` is unix time of the last change of `state`.

    `connections` have a stream now, `held` wait for one; ever, `total` were let in and `waited` held. `refused` were
    reset because they were too many, waited too long or could not be served; `foreign` were other users'; `blocked` are
    requests of web pages. `bytes_in` went to local clients, `bytes_out` came from them. `reconnects` counts connections
    given another stream in place of a lost one.
    """

    key: ForwardKey
    remote_port: int
    local_port: int
    state: str  # listening | holding | connected | port-taken | refused
    reason: str = ""
    connections: int = 0
    held: int = 0
    total: int = 0
    waited: int = 0
    refused: int = 0
    foreign: int = 0
    blocked: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reconnects: int = 0
    last_error: str = ""
    since: float = 0.0
    socket: str = ""
    listening: bool = False


class HoldSettings(msgspec.Struct, frozen=True):
    """Bounds of one forward: how long a connection waits (seconds), how many wait, how many are open at all."""

    seconds: float = 30.0
    connections: int = 256
    open: int = 4096


class Wait(msgspec.Struct, frozen=True):
    """One connection's wait for a stream that stays. `opened` is when the last stream was given to it."""

    since: float
    failures: int = 0
    curve: Backoff = DIAL
    opened: float | None = None

    def left(self, now: float, seconds: float) -> float:
        """Seconds this connection may still wait."""
        return max(0.0, self.since + seconds - now)

    def delay(self, rand: float) -> float:
        """Seconds before the next try."""
        return self.curve.delay(self.failures, rand)

    def dial_failed(self) -> "Wait":
        """No stream could be opened."""
        return Wait(self.since, self.failures + 1, DIAL, None)

    def got_stream(self, now: float) -> "Wait":
        """A stream is open; whether it leads to an application is not known yet."""
        return Wait(self.since, self.failures, self.curve, now)

    def stream_ended(self, now: float, kind: str) -> "Wait":
        """The stream ended and the connection waits again: a stream that lasted begins a new wait."""
        if self.opened is not None and now - self.opened >= STEADY:
            return Wait(now, 0, DIAL, None)
        return Wait(self.since, self.failures + 1, REFUSED if kind == "refused" else DIAL, None)

    def news(self) -> "Wait":
        """Another target, a wake: try at once. The deadline stays."""
        return Wait(self.since, 0, DIAL, None)


def after_end(kind: str, *, answered: bool, said: bytes | None, finished: bool) -> After:
    """What the end of a stream means to its client.

    `answered`: a byte or an end came from the pod. `said`: all the client sent, None if that is no longer here.
    `finished`: it sent its end, too.
    """
    if kind == "eof":
        return "finish"
    if answered or said is None:
        return "reset"
    if kind in _NOT_SEEN:
        return "replay"
    if kind == "tunnel-lost" and (may_repeat(said) if said else not finished):
        return "replay"
    return "reset"
