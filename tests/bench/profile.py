"""`python -m tests.bench.profile`: where the time of our process goes, up, down and in opening connections.

cProfile sees our Python and, as one line each, the loop's, OpenSSL's and the kernel's work that it waits for; it makes
everything slower, so only the proportions mean something. NOTES.md says what was tried.
"""

import argparse
import pstats
import sys
import tempfile
from pathlib import Path

from tests.bench import measure
from tests.bench.lab import Holder, bare_forward, lab

AMOUNT = 800_000_000
CONNECTS = 2000


def main() -> int:
    """Profile and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--transport", choices=("spdy", "websocket"), default="spdy")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--lines", type=int, default=15)
    options = parser.parse_args()
    with lab() as place, tempfile.TemporaryDirectory() as folder:
        for name, run in (("up", _up), ("down", _down), ("connect", _connect)):
            file = Path(folder) / name
            flags = ("--profile", str(file), "--transport", options.transport, "--loop", options.loop)
            with bare_forward(place, *flags) as holder:
                run(holder)
            print(f"\n=== {name}, {options.transport}, {options.loop}")
            pstats.Stats(str(file)).sort_stats("tottime").print_stats("kraynd|method|built-in", options.lines)
    return 0


def _up(holder: Holder) -> None:
    measure.throughput(measure.upload, holder.sink, AMOUNT, 4)


def _down(holder: Holder) -> None:
    measure.throughput(measure.download, holder.source, AMOUNT, 4)


def _connect(holder: Holder) -> None:
    for _ in range(CONNECTS):
        measure.connect_and_echo(holder.echo)


if __name__ == "__main__":
    sys.exit(main())
