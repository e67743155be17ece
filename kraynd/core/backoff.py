"""How long to wait after failures. Pure: the caller counts the failures and gives the randomness.

A success, a wake from sleep or news of the world sets the caller's count back to zero; nothing is remembered here.
"""

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Exponential delays in seconds, at most `cap`, with `jitter` (0 to 1) as the share that is random."""

    base: float
    cap: float
    factor: float = 2.0
    jitter: float = 0.5

    def delay(self, failures: int, rand: float) -> float:
        """Seconds to wait after `failures` in a row; `rand` in [0, 1). 0 for none.

        The delay lies between `(1 - jitter)` and 1 times `min(cap, base * factor ** (failures - 1))`.
        """
        if failures <= 0:
            return 0.0
        # Past 64 doublings every base has met its cap, and a float would overflow.
        whole = min(self.cap, self.base * self.factor ** min(failures - 1, 64))
        return whole * (1.0 - self.jitter * rand)
