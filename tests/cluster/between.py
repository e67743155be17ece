"""What may stand between a daemon and its API server: a relay that delays, goes deaf, forgets, or cuts who is idle."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.controlplane.process import wait_until

CHUNK = 65536
HELD = {"01", "08"}  # ESTABLISHED and CLOSE_WAIT, as /proc/net/tcp writes them
CUT_LIMIT = 60.0  # seconds
TURNS = 3  # of a loop until an accepted connection has its protocol


class _Link:
    """One relayed connection."""

    def __init__(self, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.writers = writers
        self.deaf = False
        self.heard = asyncio.get_running_loop().time()

    def end(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Between:
    """A relay in a thread. `delay`: seconds each way. `idle`: seconds without a byte after which a connection is cut.

    The methods may be called from any thread.
    """

    def __init__(self, port: int, *, delay: float = 0.0, idle: float = 0.0) -> None:
        self.port = 0
        self.idle_cuts = 0
        self._target = port
        self._delay = delay
        self._idle = idle
        self._deaf_to_new = False
        self._links: set[_Link] = set()
        self._accepted: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()

    def go_deaf(self, *, new_too: bool = False) -> None:
        """From now on nothing is read from the connections there are, nor from new ones with `new_too`. No RST."""
        self._call(self._deafen, new_too)

    def heal(self) -> None:
        """New connections work again; the deaf ones stay deaf, as behind a NAT that forgot them."""
        self._call(self._hear)

    def cut(self) -> int:
        """End every connection there is, and wait until its client let go too; how many there were. New ones work."""
        ended: list[_Link] = []
        self._call(self._cut, ended)
        ports = {link.writers[0].get_extra_info("peername")[1] for link in ended}
        wait_until("the clients to see the cut", lambda: not ports & self._clients(), CUT_LIMIT)
        return len(ended)

    def _clients(self) -> set[int]:
        """The ports of those who hold a connection to here, by the kernel's table."""
        there = f":{self.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return {int(row[1].rpartition(":")[2], 16) for row in rows if row[2].endswith(there) and row[3] in HELD}

    def _cut(self, ended: list[_Link]) -> None:
        ended += self._links
        for link in ended:
            link.end()

    def _deafen(self, new_too: bool) -> None:
        self._deaf_to_new = new_too
        for link in self._links:
            link.deaf = True
            for writer in link.writers:
                with suppress(RuntimeError):
                    writer.transport.pause_reading()  # type: ignore[attr-defined]

    def _hear(self) -> None:
        self._deaf_to_new = False

    def _call(self, what: object, *args: object) -> None:
        done = threading.Event()

        def call() -> None:
            what(*args)  # type: ignore[operator]
            done.set()

        self._loop.call_soon_threadsafe(call)
        assert done.wait(10)

    @contextmanager
    def running(self) -> Iterator["Between"]:
        """Relay while the block lasts."""
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._end(server), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()

    async def _start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        me = asyncio.current_task()
        while rest := [task for task in asyncio.all_tasks() if task is not me]:
            for task in rest:
                task.cancel()
            await asyncio.wait(rest, timeout=1)
        for writer in self._accepted:
            writer.transport.abort()
        await asyncio.sleep(0)

    def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
        self._accepted.add(writer)  # before its task begins: one that is cancelled before that closes nothing
        return self._carry(reader, writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link: _Link | None = None
        try:
            while self._deaf_to_new:
                await asyncio.sleep(0.05)
            with suppress(OSError, asyncio.CancelledError):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
                link = _Link((writer, far_writer))
                self._links.add(link)
                await self._join(link, reader, far_reader)
        except asyncio.CancelledError:
            return
        finally:
            writer.transport.abort()
            self._accepted.discard(writer)
            if link is not None:
                self._links.discard(link)
                link.end()

    async def _join(self, link: _Link, reader: asyncio.StreamReader, far_reader: asyncio.StreamReader) -> None:
        ours, far = link.writers
        tasks = [
            asyncio.create_task(self._pump(link, reader, far)),
            asyncio.create_task(self._pump(link, far_reader, ours)),
        ]
        if self._idle:
            tasks.append(asyncio.create_task(self._cut_when_idle(link)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await self._read(reader):
            link.heard = loop.time()
            if link.deaf:
                await asyncio.Event().wait()
            if self._delay:
                loop.call_later(self._delay, _write, writer, data)
            else:
                writer.write(data)
                with suppress(OSError):
                    await writer.drain()
        if self._delay:
            await asyncio.sleep(self._delay)

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(CHUNK)
        except OSError:
            return b""

    async def _cut_when_idle(self, link: _Link) -> None:
        loop = asyncio.get_running_loop()
        while (left := link.heard + self._idle - loop.time()) > 0:
            await asyncio.sleep(left)
        self.idle_cuts += 1


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.transport.is_closing():
        writer.write(data)


@contextmanager
def between(kubeconfig: Path, *, delay: float = 0.0, idle: float = 0.0) -> Iterator[tuple[Between, Path]]:
    """A relay before a kubeconfig's server, and a kubeconfig that goes through it."""
    made = json.loads(kubeconfig.read_text())
    cluster = made["clusters"][0]["cluster"]
    with Between(urlsplit(cluster["server"]).port or 443, delay=delay, idle=idle).running() as relay:
        cluster["server"] = f"https://127.0.0.1:{relay.port}"
        path = kubeconfig.with_name(f"between-{relay.port}.kubeconfig")
        path.touch(mode=0o600)
        path.write_text(json.dumps(made))
        try:
            yield relay, path
        finally:
            path.unlink()
