"""`make bench`: krayne beside kubectl on one real control plane, in one run; medians and ratios, misses marked.

Nothing is asserted: machines differ and are noisy, so each figure is a ratio of two things measured in turn.
"""

import argparse
import os
import platform
import sys

from tests.bench import idle, locks, minute, outages, steady
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


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each load, in turn with kubectl")
    parser.add_argument("--only", choices=GROUPS, action="append", help="this part alone; may be repeated")
    options = parser.parse_args()
    with lab() as place:
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, medians")
        print(f"{'':44} {'krayne':>9} {'kubectl':>9}\n")
        for name in options.only or GROUPS:
            try:
                GROUPS[name](place, options.rounds)
            except Exception as error:  # one part that breaks is said, and the others are measured
                print(f"{name}: not measured: {type(error).__name__}: {error}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
