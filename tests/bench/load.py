"""The application behind the forwards, in a process of its own: echo, sink and source on three ports.

`echo` returns what comes. `sink` is told a count, swallows so much and answers. `source` is told a count and sends so
much. Prints its three ports on one line and serves until its standard input ends.
"""

import socket
import struct
import sys
import threading
from collections.abc import Callable

BLOCK = 256 * 1024
COUNT = struct.Struct(">Q")


def echo(peer: socket.socket) -> None:
    """Return what comes."""
    buffer = bytearray(BLOCK)
    while count := peer.recv_into(buffer):
        peer.sendall(memoryview(buffer)[:count])


def sink(peer: socket.socket) -> None:
    """Count what comes: eight bytes first say how much."""
    wanted = COUNT.unpack(peer.recv(8, socket.MSG_WAITALL))[0]
    buffer, total = bytearray(BLOCK), 0
    while total < wanted and (count := peer.recv_into(buffer)):
        total += count
    peer.sendall(COUNT.pack(total))


def source(peer: socket.socket) -> None:
    """Send what is asked for."""
    wanted = COUNT.unpack(peer.recv(8, socket.MSG_WAITALL))[0]
    block = memoryview(bytes(BLOCK))
    while wanted:
        count = min(wanted, BLOCK)
        peer.sendall(block[:count])
        wanted -= count


def serve(what: Callable[[socket.socket], None]) -> int:
    """Serve on a free port, a thread a connection; the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def one(peer: socket.socket) -> None:
        with peer:
            try:
                what(peer)
            except (OSError, struct.error):
                return

    def accept() -> None:
        while True:
            peer, _ = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=one, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


if __name__ == "__main__":
    print(*(serve(what) for what in (echo, sink, source)), flush=True)
    sys.stdin.read()
