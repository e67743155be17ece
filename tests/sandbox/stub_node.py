"""A node for the API's tests: real sockets and real processes, logs from a list. Pods are whatever is asked for."""

# ruff: noqa: ARG002 - the Node protocol names them

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from krayne_sandbox.core.statuses import StatusError


class StubExecution:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.size: tuple[int, int] | None = None

    async def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(ConnectionError):
            self._process.stdin.write(data)
            await self._process.stdin.drain()

    async def close_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def stdout(self) -> AsyncIterator[bytes]:
        return _read(self._process.stdout)

    def stderr(self) -> AsyncIterator[bytes]:
        return _read(self._process.stderr)

    def resize(self, width: int, height: int) -> None:
        self.size = (width, height)

    async def wait(self) -> int:
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()


async def _read(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    assert stream is not None
    while data := await stream.read(65536):
        yield data


class StubNode:
    """`ports`: (pod, port) to a port of this machine. `lines`: what pods have said; `said` is set when more comes."""

    def __init__(self) -> None:
        self.ports: dict[tuple[str, int], int] = {}
        self.lines: list[bytes] = []
        self.ended = False
        self.said = asyncio.Event()
        self.running: list[StubExecution] = []

    def say(self, line: bytes) -> None:
        self.lines.append(line)
        self.said.set()

    def end(self) -> None:
        self.ended = True
        self.said.set()

    async def connect(self, namespace: str, pod: str, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.ports.get((pod, port), 1)))
        except OSError:
            sock.close()
            raise
        return sock

    async def logs(
        self, namespace: str, pod: str, container: str, *, follow: bool, tail: int | None, since: float | None,
        timestamps: bool, limit: int | None,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        at = 0 if tail is None else max(len(self.lines) - tail, 0)
        while True:
            while at < len(self.lines):
                yield self.lines[at]
                at += 1
            if not follow or self.ended:
                return
            await self.said.wait()
            self.said.clear()

    async def execute(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, tty: bool
    ) -> StubExecution:
        if command[0] == "absent":
            raise StatusError(400, "BadRequest", "no such container")
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        made = StubExecution(process)
        self.running.append(made)
        return made
