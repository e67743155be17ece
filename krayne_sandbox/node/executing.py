"""A command in a pod: a process of this machine in the pod's folder and environment, with pipes or a terminal."""

import asyncio
import errno
import fcntl
import os
import pty
import shutil
import signal
import struct
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

CHUNK: Final = 65536
# The leader of a new session gets the terminal that it opens first: without one of its own, Ctrl-C interrupts nobody.
_ON_TERMINAL: Final = ("/bin/sh", "-c", 'tty=$1; shift; exec "$@" <"$tty" >"$tty" 2>&1', "sh")


class LocalExecution:
    """One process, and the terminal it may have."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader | None,
        terminal: int | None = None,
        transport: asyncio.ReadTransport | None = None,
    ) -> None:
        self._process, self._reader = process, reader
        self._terminal, self._transport = terminal, transport

    @classmethod
    async def begin(
        cls, command: Sequence[str], env: Mapping[str, str], folder: Path, *, tty: bool
    ) -> "LocalExecution":
        """Start it. Raises OSError."""
        if not tty:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(env), cwd=folder, start_new_session=True
            )
            return cls(process, process.stdout)
        ours, theirs = pty.openpty()
        try:
            _check_program(command[0], env, folder)
            process = await asyncio.create_subprocess_exec(
                *_ON_TERMINAL, os.ttyname(theirs), *command, stdin=theirs, stdout=theirs, stderr=theirs,
                env={"TERM": "xterm", **env}, cwd=folder, start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        reader = asyncio.StreamReader()
        file = os.fdopen(os.dup(ours), "rb", 0)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        return cls(process, reader, ours, transport)

    async def write(self, data: bytes) -> None:
        """Bytes for its standard input."""
        with suppress(OSError):
            if self._terminal is not None:
                await asyncio.to_thread(os.write, self._terminal, data)
            elif self._process.stdin is not None:
                self._process.stdin.write(data)
                await self._process.stdin.drain()

    async def close_input(self) -> None:
        """End of its standard input."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def stdout(self) -> AsyncIterator[bytes]:
        """What it prints."""
        return _read(self._reader)

    def stderr(self) -> AsyncIterator[bytes]:
        """What it complains."""
        return _read(self._process.stderr)

    def resize(self, width: int, height: int) -> None:
        """The terminal's size."""
        if self._terminal is not None:
            size = struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0)
            with suppress(OSError):
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    async def wait(self) -> int:
        """Its exit code."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def close(self) -> None:
        """End it and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._transport is not None:
            self._transport.close()
        for output in (self._process.stdout, self._process.stderr):  # a full pipe nobody reads keeps `wait` waiting
            async for _ in _read(output):
                pass
        await self._process.wait()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None


def _check_program(program: str, env: Mapping[str, str], folder: Path) -> None:
    """Raises FileNotFoundError, as starting it would: the shell between would only print it."""
    where = str(folder / program) if "/" in program else program
    if shutil.which(where, path=env.get("PATH")) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)


async def _read(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    while stream is not None:
        try:
            data = await stream.read(CHUNK)
        except OSError:  # EIO: a terminal whose last process has left
            return
        if not data:
            return
        yield data
