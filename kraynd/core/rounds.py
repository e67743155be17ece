"""When loops look at files and clocks again: at the same moments, so that an idle machine wakes once for all."""

ROUND = 0.8  # seconds; what looks more seldom does so in a multiple of it
EARLY = 0.01  # seconds a timer may fire too soon, and still have been of its own moment


def until_round(now: float, every: float) -> float:
    """Seconds from `now` on the loop's clock until its next multiple of `every`; never less than EARLY."""
    left = every - now % every
    return left if left >= EARLY else left + every
