"""When a cluster counts as idle, and what follows: nothing, a word, or a suspension. Pure.

The laws: what is not known counts as use; the clock starts when use was last seen and never before we looked; a
cluster is announced before it is suspended.
"""

import msgspec

from kraynd.core.text import duration

ANNOUNCED = 600.0  # seconds before the suspension from which on it is announced...
ANNOUNCED_PART = 0.5  # ...or this part of a limit that is shorter than twice that


class Use(msgspec.Struct, frozen=True):
    """What was seen of a cluster's use. `moved`: bytes through its forwards so far; `jobs` None: not known."""

    connections: int
    moved: int
    jobs: bool | None


class Idle(msgspec.Struct, frozen=True):
    """`since`: when it was last seen in use (monotonic seconds); `moved` as seen last; `told`: announced."""

    since: float
    moved: int
    told: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """What to do now. `note` is for whoever looks at the cluster."""

    idle: Idle
    suspend: bool = False
    note: str = ""


def judge(before: Idle | None, use: Use, limit: float, now: float) -> Verdict:
    """One look. `limit`: seconds without use after which it is suspended."""
    used = use.connections > 0 or use.jobs is not False
    if before is None or used or use.moved != before.moved:
        return Verdict(Idle(now, use.moved))
    left = before.since + limit - now
    if left > min(ANNOUNCED, limit * ANNOUNCED_PART):
        return Verdict(before)
    told = Idle(before.since, before.moved, told=True)
    if left <= 0 and before.told:
        return Verdict(told, suspend=True, note=f"suspended after {duration(limit)} without use")
    return Verdict(told, note=f"idle: suspended in {duration(max(left, 0.0))} unless it is used")
