"""How long to wait before trying again, and what counts as a success.

`Backoff` is the curve, `Retry` the memory of one thing that is retried. Both are values: the caller brings the time and
the random number, and does the waiting.
"""

import math

import msgspec

STEADY = 10.0  # seconds a success must last before it forgets the failures: a flapping link must not reset the curve


class Backoff(msgspec.Struct, frozen=True):
    """The n-th failure waits min(cap, base * factor^(n-1-free)) seconds, less a random share of at most `jitter`.

    The first `free` failures wait nothing. Jitter only shortens, so `cap` is never exceeded.
    """

    base: float
    cap: float
    factor: float = 2.0
    jitter: float = 0.5
    free: int = 0

    def delay(self, failures: int, rand: float) -> float:
        """Seconds to wait after `failures` failures in a row (1 is the first); `rand` is in [0, 1)."""
        steps = failures - 1 - self.free
        if steps < 0:
            return 0.0
        return self._full(steps) * (1.0 - self.jitter * rand)

    def _full(self, steps: int) -> float:
        if self.base <= 0.0 or self.cap <= self.base:
            return max(0.0, min(self.base, self.cap))
        # Compared as logarithms: factor^steps overflows a float after a night of failures.
        if steps * math.log(self.factor) >= math.log(self.cap / self.base):
            return self.cap
        return min(self.cap, self.base * self.factor**steps)


# Somebody waits at the local port: at once, then 50 ms, 100 ms ... 5 s.
DIAL = Backoff(base=0.05, cap=5.0, free=1)
# The pod is there and its port is not: it may listen any moment, and asking costs one stream pair.
REFUSED = Backoff(base=0.1, cap=1.0, factor=1.5, jitter=0.2)
# A local port somebody else holds: asking costs two system calls, and it must open soon after it is freed.
PORT_TAKEN = Backoff(base=0.25, cap=1.5)
# A fault of our own in one forward: it must come back, and must not spin.
FAULT = Backoff(base=0.1, cap=30.0)


class Retry(msgspec.Struct, frozen=True):
    """Failures in a row of one thing. `since` is when it last began to work; None while it does not."""

    failures: int = 0
    since: float | None = None

    def works(self, now: float) -> "Retry":
        """It works now; the failures are only forgotten once that has lasted."""
        return self if self.since is not None else Retry(self.failures, now)

    def failed(self, now: float) -> "Retry":
        """It failed. After a success of at least `STEADY` seconds this failure is the first again."""
        steady = self.since is not None and now - self.since >= STEADY
        return Retry(1 if steady else self.failures + 1)

    def woken(self) -> "Retry":
        """A wake from sleep or news of the pod: whatever failed before says nothing about now."""
        return Retry(0, self.since)
