"""`python -m tests.fuzz --seconds 60`: fuzz the tunnel's sessions with atheris, which is guided by coverage.

Where atheris is not installed (it has wheels for Linux alone) the same target gets mutations of the corpus at random:
far weaker, and it says so.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def main() -> int:
    """Fuzz; 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--random", action="store_true", help="without coverage, also where atheris is installed")
    parser.add_argument("--save", type=Path, help="folder for inputs that reached something new")
    parser.add_argument("inputs", type=Path, nargs="*", help="run these inputs alone")
    options = parser.parse_args()
    if options.inputs:
        return _rerun(options.inputs)
    if not options.random:
        try:
            import atheris
        except ImportError:
            print("atheris is not installed (pip install -e '.[fuzz]'): random mutations, without coverage")
        else:
            return _guided(atheris, options)
    return _blind(options.seconds, options.seed or random.SystemRandom().getrandbits(32))


def _guided(atheris: object, options: argparse.Namespace) -> int:
    import atheris as fuzzer

    with fuzzer.instrument_imports(include=["kraynd.core"]):
        from tests.fuzz.target import LONGEST, run

    with tempfile.TemporaryDirectory() as folder:
        found = options.save or Path(folder)
        found.mkdir(parents=True, exist_ok=True)
        argv = [sys.argv[0], f"-max_total_time={options.seconds}", f"-max_len={LONGEST}", f"-seed={options.seed}"]
        argv += ["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1", str(found), str(CORPUS)]
        fuzzer.Setup(argv, run)
        fuzzer.Fuzz()
    return 0


def _blind(seconds: float, seed: int) -> int:
    from tests.fuzz.target import run

    print(f"seed {seed}")
    rand = random.Random(seed)
    corpus = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    ends, count = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        data = mutated(rand, corpus)
        try:
            run(data)
        except BaseException:
            path = Path(f"crash-{seed}-{count}")
            path.write_bytes(data)
            print(f"input {count} fails; it is in {path}")
            raise
        count += 1
    print(f"{count} inputs, nothing found")
    return 0


def mutated(rand: random.Random, corpus: list[bytes]) -> bytes:
    """One of the corpus with a few bytes changed, dropped or taken from another."""
    data = bytearray(rand.choice(corpus))
    for _ in range(rand.randint(1, 8)):
        at = rand.randint(0, len(data))
        match rand.randint(0, 3):
            case 0:
                data[at : at + 1] = rand.randbytes(1)
            case 1:
                data[at:at] = rand.randbytes(rand.randint(1, 16))
            case 2:
                del data[at : at + rand.randint(1, 16)]
            case _:
                other = rand.choice(corpus)
                start = rand.randint(0, len(other))
                data[at:at] = other[start : start + rand.randint(1, 64)]
    return bytes(data)


def _rerun(inputs: list[Path]) -> int:
    from tests.fuzz.target import run

    for path in inputs:
        run(path.read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
