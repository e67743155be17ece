"""Is the peer alive? Decides when to ask and when silence means death; asks and times nothing itself.

Silence of 10 s is asked about; 5 s more without any byte is death. A probe (after sleep, or when an idle tunnel is used
again) allows 3 s. Any received byte ends a question.
"""

import msgspec


class PulseLimits(msgspec.Struct, frozen=True):
    """Seconds. `quiet` before asking, `patience` for the answer, `probe` for an answer that somebody waits for."""

    quiet: float = 10.0
    patience: float = 5.0
    probe: float = 3.0


class Pulse:
    """One tunnel's life signs. Times are monotonic seconds, and may be as coarse as a loop's clock."""

    __slots__ = ("_deadline", "_heard", "_limits")

    def __init__(self, limits: PulseLimits, now: float) -> None:
        self._limits = limits
        self._heard = now  # when the last byte came
        self._deadline: float | None = None  # of an open question

    @property
    def doubtful(self) -> bool:
        """A question is open."""
        return self._deadline is not None

    @property
    def due(self) -> float:
        """When `check` should be called next."""
        return self._heard + self._limits.quiet if self._deadline is None else self._deadline

    def hear(self, now: float) -> None:
        """A byte came, or silence proves nothing: any question is answered."""
        self._heard = now
        self._deadline = None

    def probe(self, now: float) -> None:
        """Somebody needs to know soon. The caller sends the question."""
        self._ask(now + self._limits.probe)

    def expect(self, now: float) -> bool:
        """The tunnel is used again: after a long silence the answer must come soon. True when that is the case."""
        if now - self._heard < self._limits.quiet / 2:
            return False
        self.probe(now)
        return True

    def postpone(self, now: float) -> None:
        """There is proof of life elsewhere: wait once more."""
        self._deadline = now + self._limits.patience

    def check(self, now: float) -> str:
        """What to do: "ask" (send a question now), "dead" (the silence lasted too long), or "" for nothing."""
        if self._deadline is not None:
            return "dead" if now >= self._deadline else ""
        if now - self._heard >= self._limits.quiet:
            self._ask(now + self._limits.patience)
            return "ask"
        return ""

    def _ask(self, until: float) -> None:
        self._deadline = until if self._deadline is None else min(self._deadline, until)
