"""Figures of one forward, whoever holds it: connect, echo, throughput each way, CPU of the process that holds it.

Blocking sockets and no event loop, so that the figures are the forward's and not the meter's.
"""

import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence

from tests.bench.load import BLOCK, COUNT

GB = 1e9
TICKS = os.sysconf("SC_CLK_TCK")


def connect(port: int) -> socket.socket:
    """A fresh connection, as an application opens it."""
    peer = socket.create_connection(("127.0.0.1", port), timeout=60)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def connect_and_echo(port: int) -> float:
    """Seconds from connect to the first echoed byte."""
    started = time.perf_counter()
    with connect(port) as peer:
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        return time.perf_counter() - started


def echo_round_trips(port: int, count: int) -> float:
    """Median seconds of one byte there and back on an open connection."""
    times = []
    with connect(port) as peer:
        for _ in range(count):
            started = time.perf_counter()
            peer.sendall(b"x")
            assert peer.recv(1) == b"x"
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def upload(port: int, amount: int) -> None:
    """Send `amount` bytes to the sink and wait for its count."""
    block = memoryview(bytes(BLOCK))
    with connect(port) as peer:
        peer.sendall(COUNT.pack(amount))
        left = amount
        while left:
            left -= peer.send(block[: min(left, BLOCK)])
        assert COUNT.unpack(peer.recv(8, socket.MSG_WAITALL))[0] == amount


def download(port: int, amount: int) -> None:
    """Fetch `amount` bytes from the source."""
    buffer = bytearray(BLOCK)
    with connect(port) as peer:
        peer.sendall(COUNT.pack(amount))
        left = amount
        while left:
            count = peer.recv_into(buffer)
            assert count
            left -= count


def throughput(move: Callable[[int, int], None], port: int, amount: int, connections: int) -> float:
    """Bytes a second of `connections` at once, `amount` bytes in all."""
    share = amount // connections
    workers = [threading.Thread(target=move, args=(port, share)) for _ in range(connections)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return share * connections / (time.perf_counter() - started)


def burst(port: int, count: int) -> float:
    """Seconds until `count` connections opened at once have each had their echo."""
    started = time.perf_counter()
    peers = [connect(port) for _ in range(count)]
    for peer in peers:
        peer.sendall(b"x")
    for peer in peers:
        assert peer.recv(1) == b"x"
    took = time.perf_counter() - started
    for peer in peers:
        peer.close()
    return took


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """MiB in memory."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak(pid: int) -> float:
    """MiB in memory at most, so far."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)
