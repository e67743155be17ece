"""Somebody stands still for a minute while another moves 1 GB: both ways, and what newcomers meet meanwhile.

kubectl is not measured beside it: it serves nobody for as long as the stall lasts (see `--only stalls`).
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.bench import measure, outages
from tests.bench.lab import CLUSTER, PORTS, Holder, Lab, forwards_alone
from tests.bench.table import fact, row

MINUTE = 60.0  # seconds
MOVED = 1_000_000_000  # bytes
OTHER_SINK = 7004  # leads to the sink, and is not the port that stalls
PAUSE = 0.2  # seconds between two newcomers

Stalled = Callable[[Lab, Holder], AbstractContextManager[None]]


def minute(lab: Lab, _rounds: int) -> None:
    """A client that does not read beside a download; a process in the pod that does not read beside an upload."""
    lab.plane.node.map_port("default", f"{CLUSTER}-head-*", OTHER_SINK, lab.targets[1])
    _beside(lab, "reader", outages.stalled_reader, measure.download, 2)
    _beside(lab, "pod process", outages.stalled_process, measure.upload, 3)


def _beside(lab: Lab, what: str, stalled: Stalled, move: Callable[[int, int], None], index: int) -> None:
    wanted = [*PORTS.values(), OTHER_SINK]
    with forwards_alone(lab.plane.kubeconfig, "default", lab.pod, lab.uid, wanted) as (pid, ports):
        holder = Holder("krayne", pid, *ports[:3])
        alone = measure.throughput(move, ports[index], MOVED, 1) / 1e6
        normal = measure.median([measure.connect_and_echo(holder.echo) for _ in range(outages.TRIES)])
        before = measure.peak(pid)
        with stalled(lab, holder):
            began = time.monotonic()
            beside = measure.throughput(move, ports[index], MOVED, 1) / 1e6
            times = []
            while time.monotonic() - began < MINUTE:
                times.append(outages.tried(holder.echo))
                time.sleep(PAUSE)
        # In this table's second column: the same without the stall.
        row(f"1 GB beside a stalled {what} (2nd: alone)", beside, alone, "MB/s", 0.8, least=True)
        fact(f"connect in its minute, x normal, median of {len(times)}", measure.median(times) / normal, None, "x", 2.0)
        fact("connect in its minute: the longest", max(times) * 1e3, None, "ms", outages.PATIENCE * 1e3)
        fact("memory at most, beyond what 1 GB alone took", measure.peak(pid) - before, None, "MiB", 40.0)
