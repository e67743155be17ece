"""What tests of forwards share: the loops to run on, and a user's program on a local port."""

import asyncio
import errno
import random
import socket
import struct
from collections.abc import Callable
from importlib.util import find_spec

import anyio
import pytest

from kraynd.local.listen import bind_loopback

LOOPS = [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
if find_spec("uvloop"):
    LOOPS.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))


async def until(reached: Callable[[], bool]) -> None:
    """Let the loop turn until it is so; the deadline is for a broken build."""
    with anyio.fail_after(20):
        while not reached():
            await anyio.sleep(0)


def free_doors() -> list[socket.socket]:
    """Listening sockets on a port of both families that is not among those which clients are given."""
    while True:
        try:
            return bind_loopback(random.randrange(12_000, 32_000))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


def free_port() -> int:
    sockets = free_doors()
    port: int = sockets[0].getsockname()[1]
    for one in sockets:
        one.close()
    return port


class Client:
    """A user's program on a local port."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.setblocking(False)
        self._loop = asyncio.get_running_loop()

    @classmethod
    def to(cls, port: int, host: str = "127.0.0.1") -> "Client":
        return cls(socket.create_connection((host, port)))

    async def say(self, data: bytes) -> None:
        with anyio.fail_after(20):
            await self._loop.sock_sendall(self.socket, data)

    async def hear(self, size: int = 65536) -> bytes:
        with anyio.fail_after(20):
            return await self._loop.sock_recv(self.socket, size)

    async def hear_all(self) -> bytes:
        heard = bytearray()
        while part := await self.hear(1 << 20):
            heard += part
        return bytes(heard)

    async def hear_exactly(self, size: int) -> bytes:
        heard = bytearray()
        while len(heard) < size:
            part = await self.hear(size - len(heard))
            assert part, f"the end after {bytes(heard[:100])!r}"
            heard += part
        return bytes(heard)

    def finish(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
