"""`python -m tests.bench.listing`: what starting `krayne` costs, beside `python -c pass`, and long lists.

The server and its renderer are the real ones; the clusters are in memory, so no Kubernetes is needed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from tests.bench import measure
from tests.daemon.backend import MemoryBackend, serving, some_cluster

RUNS = 25
START = "import sys; from krayne_client.main import main; sys.exit(main())"
FEW, MANY = 20, 1000
ROW_LIMIT = 60.0  # ms that MANY clusters may cost over FEW


def main() -> int:
    """Measure in turn and print medians."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory(prefix="krb-") as folder, daemon(folder, FEW) as few, daemon(folder, MANY) as many:
        kinds: dict[str, tuple[list[str], dict[str, str], float]] = {
            "python -c pass": ([sys.executable, "-c", "pass"], few, 1.0),
            f"krayne ls, {FEW} clusters": ([sys.executable, "-c", START, "ls"], few, 1.5),
            f"krayne ls, {MANY} clusters": ([sys.executable, "-c", START, "ls"], many, 0.0),
            "krayne __complete clusters": ([sys.executable, "-c", START, "__complete", "clusters"], few, 1.5),
            "krayne --help": ([sys.executable, "-c", START, "--help"], few, 4.0),
        }
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(RUNS + 1):
            for name, (argv, env, _) in kinds.items():
                began = time.perf_counter()
                subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL, cwd=root)
                times[name].append((time.perf_counter() - began) * 1e3)
    found = {name: measure.median(taken[1:]) for name, taken in times.items()}
    plain = found["python -c pass"]
    for name, taken in found.items():
        target = kinds[name][2]
        miss = "   MISSED" if target and taken > target * plain * 1.0001 else ""
        wanted = f"  (<= {target}x){miss}" if target else ""
        print(f"{name:30} {taken:8.1f} ms {taken / plain:6.2f}x{wanted}")
    more = found[f"krayne ls, {MANY} clusters"] - found[f"krayne ls, {FEW} clusters"]
    miss = "" if more <= ROW_LIMIT else "   MISSED"
    print(f"{f'{MANY} clusters over {FEW}':30} {more:8.1f} ms          (<= {ROW_LIMIT:.0f} ms){miss}")
    return 0


@contextmanager
def daemon(folder: str, clusters: int) -> Iterator[dict[str, str]]:
    """A server over so many clusters, in a process of its own; the environment that leads to it."""
    run = Path(folder) / str(clusters)
    run.mkdir(mode=0o700)
    env = {**os.environ, "KRAYNE_HOME": str(run / "home"), "KRAYNE_SOCKET": str(run / "s")}
    argv = [sys.executable, "-m", "tests.bench.listing", "serve", str(run / "s"), str(clusters)]
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        try:
            yield env
        finally:
            child.terminate()


async def serve(path: str, clusters: int) -> None:
    """Until killed."""
    async with serving(MemoryBackend(*(some_cluster(f"cluster-{number}") for number in range(clusters))), Path(path)):
        print("up", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        anyio.run(serve, sys.argv[2], int(sys.argv[3]))
    sys.exit(main())
