"""A daemon in use for a while, with cuts: no growth in memory, descriptors or threads once it is warm.

KRAYNE_SOAK is the time in seconds (`make soak`: five minutes).
"""

import os
import socket
import statistics
import time
from contextlib import closing, suppress

import pytest

from tests.bench.measure import resident
from tests.cluster.conftest import Krayne
from tests.cluster.using import Echo, Knocking, exchange, opened, status, until
from tests.controlplane.plane import ControlPlane

SECONDS = float(os.environ.get("KRAYNE_SOAK", "40"))
pytestmark = [pytest.mark.real, pytest.mark.timeout(SECONDS + 240)]
WARM = 0.3  # the share of the time after which nothing may grow
MORE_MEMORY = 6.0  # MiB, between the median of the first and of the last measurements
MORE_FILES = 12  # spare tunnels come and go
MORE_THREADS = 2  # where two looks at files meet, a worker more lives for ten seconds
BIG = 2_000_000


def test_nothing_grows(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    with Echo().running() as echo:
        port = opened(plane, namespace, krayne, echo)
        pid = status(krayne)["pid"]
        seen: list[tuple[float, int, int]] = []
        with Knocking(port) as knocking:
            ends, number = time.monotonic() + SECONDS, 0
            starts = time.monotonic()
            while time.monotonic() < ends:
                number += 1
                _use(port, number)
                if number % 5 == 0:
                    plane.node.cut(namespace, "demo-head-*")
                served = knocking.served
                until("work", lambda served=served: knocking.served > served)  # type: ignore[misc]
                if time.monotonic() - starts > WARM * SECONDS:
                    seen.append((resident(pid), len(os.listdir(f"/proc/{pid}/fd")), _threads(pid)))
        assert knocking.refused == []
        assert knocking.wrong == []
        third = len(seen) // 3
        assert third >= 2
        first, last = (_medians(part) for part in (seen[:third], seen[-third:]))
        assert last[0] - first[0] < MORE_MEMORY, (first, last)
        assert last[1] - first[1] < MORE_FILES, (first, last)
        assert last[2] - first[2] <= MORE_THREADS, (first, last)
        assert status(krayne)["pid"] == pid
        # And when all is quiet, what was open is closed.
        until("quiet", lambda: krayne("ports", "demo", "-o", "json").json()[-1]["connections"] == 0)


def _use(port: int, number: int) -> None:
    """A transfer, a client that aborts its own, and a half-close."""
    with suppress(ConnectionResetError, BrokenPipeError):  # of a cut
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as client:
            data = number.to_bytes(4, "big") * (BIG // 4)
            found = exchange(client, data)
            assert data.startswith(found)
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as client:
            client.sendall(bytes(100_000))
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as client:
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
            client.recv(10)


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def _medians(rows: list[tuple[float, int, int]]) -> tuple[float, float, float]:
    one, two, three = zip(*rows, strict=True)
    return statistics.median(one), statistics.median(two), statistics.median(three)
