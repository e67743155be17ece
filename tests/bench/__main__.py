"""`make bench`: krayne beside kubectl on one real control plane, in one run; medians and ratios, misses marked.

Nothing is asserted: machines differ and are noisy, so each figure is a ratio of two things measured in turn.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import measure
from tests.cluster.conftest import Krayne, make_krayne
from tests.controlplane.build import binary
from tests.controlplane.plane import ControlPlane

PORTS = {"echo": 7001, "sink": 7002, "source": 7003}
AMOUNT = 400_000_000  # bytes a throughput run moves


@dataclass(frozen=True)
class Holder:
    """Somebody's forwards to the same application, and the process that holds them."""

    name: str
    pid: int
    echo: int
    sink: int
    source: int


def main() -> int:
    """Measure and print."""
    options = _arguments()
    with ExitStack() as undo:
        root = Path(tempfile.mkdtemp(prefix="krp-"))
        undo.callback(shutil.rmtree, root, ignore_errors=True)
        plane = ControlPlane.start(root)
        undo.callback(plane.stop)
        krayne = make_krayne(plane.kubeconfig)
        undo.callback(shutil.rmtree, krayne.home, ignore_errors=True)
        undo.callback(krayne, "daemon", "stop", code=None)
        ports = undo.enter_context(application())
        krayne("create", "bench")
        krayne("wait", "bench", "--timeout", "120s")
        pod = plane.pods("default", "bench")[-1]["metadata"]["name"]
        for port, target in zip(PORTS.values(), ports, strict=True):
            plane.node.map_port("default", pod, port, target)
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, medians\n")
        commands(plane, krayne, options.runs)
        with kubectl_forward(plane, pod) as kubectl:
            forwards(krayne_forward(krayne), kubectl, options.rounds)
    return 0


def commands(plane: ControlPlane, krayne: Krayne, runs: int) -> None:
    """`krayne ls` beside `python -c pass` and `kubectl get rayclusters`, in turn."""
    script = Path(sys.executable).with_name("krayne")
    kubectl = [str(binary("kubectl")), "get", "rayclusters", "-A"]
    kinds = {
        "krayne ls": ([str(script), "ls"], krayne.env),
        "python -c pass": ([sys.executable, "-c", "pass"], krayne.env),
        "kubectl get rayclusters": (kubectl, plane.environment()),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(runs + 1):
        for name, (argv, env) in kinds.items():
            started = time.perf_counter()
            subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - started)
    ours, python, theirs = (measure.median(one[1:]) for one in times.values())
    row("krayne ls / kubectl get rayclusters", ours * 1e3, theirs * 1e3, "ms", 0.5)
    row("krayne ls / python -c pass", ours * 1e3, python * 1e3, "ms", 2.2)


def forwards(ours: Holder, theirs: Holder, rounds: int) -> None:
    """The same loads through both forwards, in turn."""
    both = (ours, theirs)

    def compare(what: str, unit: str, target: float, *, least: bool, take: object, scale: float = 1.0) -> None:
        assert callable(take)
        taken: dict[str, list[float]] = {one.name: [] for one in both}
        for _ in range(rounds + 1):
            for one in both:
                try:
                    taken[one.name].append(take(one))
                except (OSError, AssertionError) as error:  # a forward that broke is a result, not the meter's end
                    print(f"{what}: {one.name} FAILED: {error or type(error).__name__}", flush=True)
        if not all(taken.values()):
            return
        first, second = (measure.median(taken[one.name][1:] or taken[one.name]) * scale for one in both)
        row(what, first, second, unit, target, least=least)

    def fresh(one: Holder) -> float:
        return measure.median([measure.connect_and_echo(one.echo) for _ in range(100)])

    def cpu(one: Holder, up: bool) -> float:
        before = measure.cpu_seconds(one.pid)
        (measure.upload if up else measure.download)(one.sink if up else one.source, AMOUNT)
        return (measure.cpu_seconds(one.pid) - before) / (AMOUNT / measure.GB)

    compare("connect + first echoed byte", "ms", 0.6, least=False, take=fresh, scale=1e3)
    compare("echo round trip", "ms", 1.0, least=False, take=lambda o: measure.echo_round_trips(o.echo, 500), scale=1e3)
    for count, target in ((1, 1.3), (4, 1.4)):
        compare(
            f"up, {count} connection(s)", "MB/s", target, least=True, scale=1e-6,
            take=lambda o, c=count: measure.throughput(measure.upload, o.sink, AMOUNT, c),
        )  # fmt: skip
        compare(
            f"down, {count} connection(s)", "MB/s", target, least=True, scale=1e-6,
            take=lambda o, c=count: measure.throughput(measure.download, o.source, AMOUNT, c),
        )  # fmt: skip
    compare("CPU of the holder, up", "s/GB", 0.6, least=False, take=lambda o: cpu(o, True))
    compare("CPU of the holder, down", "s/GB", 0.6, least=False, take=lambda o: cpu(o, False))
    compare("500 connections at once", "ms", 1.0, least=False, take=lambda o: measure.burst(o.echo, 500), scale=1e3)
    row("memory of the holder", measure.resident(ours.pid), measure.resident(theirs.pid), "MiB", 1.2)


def row(what: str, ours: float, theirs: float, unit: str, target: float, *, least: bool = False) -> None:
    """One line: ours, theirs, the ratio, and what it should be."""
    ratio = ours / theirs
    good = ratio >= target if least else ratio <= target
    word = ">=" if least else "<="
    miss = "" if good else "   MISSED"
    print(f"{what:38} {ours:9.2f} {theirs:9.2f} {unit:5} {ratio:6.2f}x  ({word} {target}x){miss}", flush=True)


@contextmanager
def application() -> Iterator[list[int]]:
    """The load process; its ports."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        yield [int(word) for word in child.stdout.readline().split()]
        assert child.stdin is not None
        child.stdin.close()


@contextmanager
def kubectl_forward(plane: ControlPlane, pod: str) -> Iterator[Holder]:
    """`kubectl port-forward` with its default transport."""
    argv = [str(binary("kubectl")), "port-forward", f"pod/{pod}", *(f":{port}" for port in PORTS.values())]
    with subprocess.Popen(argv, env=plane.environment(), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        found: dict[int, int] = {}
        while len(found) < len(PORTS):
            words = child.stdout.readline().split()
            if len(words) == 5 and words[2].startswith("127.0.0.1:"):
                found[int(words[4])] = int(words[2].rpartition(":")[2])
        try:
            yield Holder("kubectl", child.pid, *(found[port] for port in PORTS.values()))
        finally:
            child.terminate()


def krayne_forward(krayne: Krayne) -> Holder:
    """Ours, to the same ports."""
    krayne("tun-open", "bench", *(str(port) for port in PORTS.values()))
    services = {one["remote_port"]: one["local_port"] for one in krayne.cluster("bench")["services"]}
    pid = krayne("status", "-o", "json").json()["pid"]
    return Holder("krayne", pid, *(services[port] for port in PORTS.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--runs", type=int, default=15, help="runs of each command")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each load")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
