"""What goes wrong: somebody stalls, the tunnel is cut, the pod is replaced, the API server restarts."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import pairwise

from tests.bench import measure
from tests.bench.lab import CLUSTER, PORTS, Holder, Lab, bare_forward, krayne_forward, kubectl_forward
from tests.bench.load import BLOCK, COUNT
from tests.bench.table import fact
from tests.cluster.using import Knocking, until

PATIENCE = 5.0  # seconds after which a new connection beside a stalled one counts as not served
TRIES = 20
CUT_TRIES = 3


def stalls(lab: Lab, _rounds: int) -> None:
    """A new connection beside a client, and beside a pod's process, that stands still."""
    for what, stalled in (("reader", stalled_reader), ("pod process", stalled_process)):
        ours, theirs = _beside(lab, "krayne", stalled), _beside(lab, "kubectl", stalled)
        fact(f"connect beside a stalled {what}, x normal", ours[1] / ours[0], theirs[1] / theirs[0], "x", 2.0)
        fact(f"memory a stalled {what} costs", ours[2], theirs[2], "MiB", 40.0)


def _beside(lab: Lab, name: str, stalled: object) -> tuple[float, float, float]:
    """Seconds of a connect before and beside the stall (PATIENCE when it is not served), and MiB more."""
    assert callable(stalled)
    with ExitStack() as undo:
        holder = undo.enter_context(bare_forward(lab) if name == "krayne" else kubectl_forward(lab))
        normal = measure.median([measure.connect_and_echo(holder.echo) for _ in range(TRIES)])
        before = measure.resident(holder.pid)
        undo.enter_context(stalled(lab, holder))
        times = [tried(holder.echo)]
        if times[0] < PATIENCE:
            times += [tried(holder.echo) for _ in range(TRIES)]
        return normal, measure.median(times), measure.resident(holder.pid) - before


def tried(port: int) -> float:
    """Seconds of a connect and its first echoed byte; PATIENCE when none came in time."""
    started = time.perf_counter()
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as peer:
        peer.sendall(b"x")
        if peer.recv(1) == b"x":
            return time.perf_counter() - started
    return PATIENCE


@contextmanager
def stalled_reader(_lab: Lab, holder: Holder) -> Iterator[None]:
    """A client that asked for 1 GB and reads nothing."""
    with closing(measure.connect(holder.source)) as still:
        still.sendall(COUNT.pack(1_000_000_000))
        time.sleep(2.0)  # as much as fits arrives
        yield


@contextmanager
def stalled_process(lab: Lab, holder: Holder) -> Iterator[None]:
    """A client that sends 1 GB to a process in the pod that reads nothing."""
    lab.plane.node.fault("default", lab.pod, PORTS["sink"], stall_up=True)
    with closing(measure.connect(holder.sink)) as still:
        still.settimeout(2.0)
        still.sendall(COUNT.pack(1_000_000_000))
        with suppress(TimeoutError):
            while True:
                still.send(bytes(BLOCK))
        yield
    lab.plane.node.clear("default", lab.pod, PORTS["sink"])


def cut(lab: Lab, _rounds: int) -> None:
    """The tunnel is cut under fresh connections, one every 10 ms: a browser's, ssh's, and an unknown protocol's."""
    ours = krayne_forward(lab.krayne)
    gaps: list[float] = []
    for words, name in (("http", "a browser's"), ("ssh", "ssh's"), ("any", "any other")):
        seen = [_cut(lab, ours, words) for _ in range(CUT_TRIES)]
        with suppress(OSError), kubectl_forward(lab) as kubectl:
            refused, failed, _ = _cut(lab, kubectl, words)
        fact(f"tunnel cut: refused, of about 300, {name}", max(one[0] for one in seen), refused, "", 0)
        fact(f"tunnel cut: failed, {name}", max(one[1] for one in seen), failed, "", 0)
        gaps += [one[2] for one in seen]
    fact("tunnel cut: longest gap", max(gaps) * 1e3, None, "ms", 300)


def _cut(lab: Lab, holder: Holder, words: str) -> tuple[float, float, float]:
    with Knocking(holder.echo, words) as knocking:
        until("some work", lambda: knocking.served > 20)
        lab.plane.node.cut("default", lab.pod)
        time.sleep(3.0)
    times = sorted(knocking.times)
    gap = max(later - earlier for earlier, later in pairwise(times))
    return len(knocking.refused), len(knocking.lost), gap


def replaced(lab: Lab, _rounds: int) -> None:
    """The head pod is deleted; its successor becomes Ready."""
    holder, old = krayne_forward(lab.krayne), lab.pod
    with Knocking(holder.echo) as knocking:
        until("some work", lambda: knocking.served > 20)
        lab.plane.kubectl("delete", "pod", old, "--wait=false")
        gone = time.monotonic()
        while not _is_ready(lab, old):
            time.sleep(0.005)
        ready = time.monotonic()
        until("work again", lambda: knocking.times[-1] > ready + 1)
    first = min(one for one in knocking.times if one > max(gone + 0.05, ready - 0.5))
    fact("pod replaced: refused", len(knocking.refused), None, "", 0)
    fact("pod replaced: failed", len(knocking.lost), None, "", 0)
    fact("pod replaced: first byte after Ready", max(0.0, first - ready) * 1e3, None, "ms", 100)


def _is_ready(lab: Lab, old: str) -> bool:
    for pod in lab.plane.pods("default", CLUSTER):
        conditions = pod["status"].get("conditions", [])
        if pod["metadata"]["name"] != old and any(
            one["type"] == "Ready" and one["status"] == "True" for one in conditions
        ):
            return True
    return False


def restarted(lab: Lab, _rounds: int) -> None:
    """The API server restarts."""
    holder = krayne_forward(lab.krayne)
    with Knocking(holder.echo) as knocking:
        until("some work", lambda: knocking.served > 20)
        lab.plane.stop_apiserver()
        lab.plane.start_apiserver()
        ready = time.monotonic()
        until("work again", lambda: knocking.times[-1] > ready + 1)
    times = sorted(knocking.times)
    gap = max(pairwise(times), key=lambda pair: pair[1] - pair[0])
    fact("API server restarted: refused", len(knocking.refused), None, "", 0)
    fact("API server restarted: first byte after /readyz", max(0.0, gap[1] - ready) * 1e3, None, "ms", 500)
    lab.plane.restart_clients()
