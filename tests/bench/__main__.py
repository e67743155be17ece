"""`make bench`: krayne beside kubectl on one real control plane, in one run; medians and ratios, misses marked.

Nothing is asserted: machines differ and are noisy, so each figure is a ratio of two things measured in turn.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Collection
from functools import partial

from tests.bench import idle, locks, minute, outages, sandbox, steady
from tests.bench.lab import lab

GROUPS = {
    "commands": steady.commands,
    "forwards": steady.forwards,
    "far": steady.far,
    "locks": locks.locks,
    "stalls": outages.stalls,
    "minute": minute.minute,
    "cut": outages.cut,
    "replaced": outages.replaced,
    "restarted": outages.restarted,
    "idle": idle.idle,
}

ALONE = {"sandbox": sandbox.sandbox}  # these need no control plane


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each load, in turn with kubectl")
    parser.add_argument("--only", choices=[*GROUPS, *ALONE], action="append", help="this part alone; may be repeated")
    options = parser.parse_args()
    chosen = options.only or [*GROUPS, *ALONE]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, medians")
    print(f"{'':44} {'krayne':>9} {'kubectl':>9}\n")
    measured([name for name in chosen if name in GROUPS], options.rounds)
    for name in (name for name in chosen if name in ALONE):
        attempt(name, ALONE[name])
    return 0


def measured(names: Collection[str], rounds: int) -> None:
    """Those that want a control plane, on one."""
    if not names:
        return
    with lab() as place:
        for name in names:
            attempt(name, partial(GROUPS[name], place, rounds))


def attempt(name: str, measure: Callable[[], None]) -> None:
    """One part; one that breaks is said, and the others are measured."""
    try:
        measure()
    except Exception as error:  # whatever it is
        print(f"{name}: not measured: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
