"""What a working day is made of: commands, connects, echoes, transfers, bursts; and a connect over a long way."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench import measure
from tests.bench.lab import Holder, Lab, bare_forward, krayne_forward, kubectl_forward
from tests.bench.table import row
from tests.cluster.between import between
from tests.controlplane.build import binary

AMOUNT = 400_000_000  # bytes a throughput run moves
CPU_AMOUNT = 1_000_000_000  # ... and one for CPU, which is counted in hundredths of a second
FAR = 0.025  # seconds each way


def commands(lab: Lab, rounds: int) -> None:
    """`krayne ls` beside `python -c pass` and `kubectl get rayclusters`, in turn."""
    script = Path(sys.executable).with_name("krayne")
    kubectl = [str(binary("kubectl")), "get", "rayclusters", "-A"]
    kinds = {
        "krayne ls": ([str(script), "ls"], lab.krayne.env),
        "python -c pass": ([sys.executable, "-c", "pass"], lab.krayne.env),
        "kubectl get rayclusters": (kubectl, lab.plane.environment()),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(3 * rounds + 1):
        for name, (argv, env) in kinds.items():
            started = time.perf_counter()
            subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - started)
    ours, python, theirs = (measure.median(one[1:]) for one in times.values())
    row("krayne ls / kubectl get rayclusters", ours * 1e3, theirs * 1e3, "ms", 0.3)
    row("krayne ls / python -c pass", ours * 1e3, python * 1e3, "ms", 1.5)


Take = Callable[[Holder], float]


def compare(
    both: tuple[Holder, Holder], rounds: int, what: str, unit: str, target: float, take: Take, least: bool = False
) -> None:
    """The same load through both in turn, the first in turn too; the first round warms up. Medians."""
    taken: dict[str, list[float]] = {one.name: [] for one in both}
    for number in range(rounds + 1):
        for one in both if number % 2 else both[::-1]:
            try:
                taken[one.name].append(take(one))
            except (OSError, AssertionError) as error:  # a forward that broke is a result, not the meter's end
                print(f"{what}: {one.name} FAILED: {error or type(error).__name__}", flush=True)
    if all(taken.values()):
        first, second = (measure.median(taken[one.name][1:] or taken[one.name]) for one in both)
        row(what, first, second, unit, target, least=least)


def fresh(count: int, one: Holder) -> float:
    """Median milliseconds from connect to the first echoed byte."""
    return 1e3 * measure.median([measure.connect_and_echo(one.echo) for _ in range(count)])


def _cpu(up: bool, one: Holder) -> float:
    before = one.cpu()
    (measure.upload if up else measure.download)(one.sink if up else one.source, CPU_AMOUNT)
    return (one.cpu() - before) / (CPU_AMOUNT / measure.GB)


def _rate(up: bool, count: int, one: Holder) -> float:
    move, port = (measure.upload, one.sink) if up else (measure.download, one.source)
    return measure.throughput(move, port, AMOUNT, count) / 1e6


def forwards(lab: Lab, rounds: int) -> None:
    """The whole daemon beside kubectl."""
    with kubectl_forward(lab) as kubectl:
        ours = krayne_forward(lab.krayne)
        both = (ours, kubectl)
        compare(both, rounds, "connect + first echoed byte", "ms", 0.6, partial(fresh, 100))
        echo: Take = lambda one: 1e3 * measure.echo_round_trips(one.echo, 500)  # noqa: E731
        compare(both, rounds, "echo round trip", "ms", 1.0, echo)
        for count, target in ((1, 1.3), (4, 1.4)):
            for up in (True, False):
                what = f"{'up' if up else 'down'}, {count} connection(s)"
                compare(both, rounds, what, "MB/s", target, partial(_rate, up, count), least=True)
        compare(both, rounds, "CPU of the holder, up", "s/GB", 0.6, partial(_cpu, True))
        compare(both, rounds, "CPU of the holder, down", "s/GB", 0.6, partial(_cpu, False))
        row("memory of the holder", measure.resident(ours.pid), measure.resident(kubectl.pid), "MiB", 1.2)
        burst: Take = lambda one: 1e3 * measure.burst(one.echo, 500)  # noqa: E731
        compare(both, rounds, "500 connections at once", "ms", 1.0, burst)


def far(lab: Lab, rounds: int) -> None:
    """With 50 ms of round trip before the API server."""
    with between(lab.plane.kubeconfig, delay=FAR) as (_, kubeconfig):
        with kubectl_forward(lab, kubeconfig) as kubectl, bare_forward(lab, kubeconfig=kubeconfig) as ours:
            what = "connect + first byte, 50 ms of round trip"
            compare((ours, kubectl), rounds, what, "ms", 0.4, partial(fresh, 20))
