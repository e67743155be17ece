"""A forward's doors, and one accepted connection as an End."""

# ruff: noqa: ARG002 - small ends and owners hear more than they use

import asyncio
import errno
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest

from kraynd.core.forwarding import KEEP_LIMIT
from kraynd.core.pipe import Buffer, End
from kraynd.local import listen
from kraynd.local.accepted import DRAIN_SECONDS, HIGH, READ_SIZE, LocalConnection, Mode
from kraynd.local.listen import Listener, bind_unix
from tests.daemon.localhost import free_doors

pytestmark = pytest.mark.anyio

LOOPS = [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
if find_spec("uvloop"):
    LOOPS.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def until(reached: Callable[[], bool]) -> None:
    """Let the loop turn until it is so; the deadline is for a broken build."""
    with anyio.fail_after(20):
        while not reached():
            await anyio.sleep(0)


class Far:
    """The other end of a connection under test: keeps what it is told."""

    def __init__(self) -> None:
        self.peer: End | None = None
        self.said = bytearray()
        self.eof = anyio.Event()
        self.aborted = anyio.Event()
        self.paused = anyio.Event()
        self.resumed = anyio.Event()

    def write(self, data: Buffer) -> None:
        assert not self.eof.is_set()
        assert not self.aborted.is_set()
        self.said += data

    def write_eof(self) -> None:
        assert not self.eof.is_set()
        self.eof.set()

    def abort(self, reason: str) -> None:
        assert not self.aborted.is_set()
        self.aborted.set()

    def pause_reading(self) -> None:
        self.paused.set()

    def resume_reading(self) -> None:
        self.resumed.set()


class Watcher:
    """An Owner that keeps what it hears."""

    def __init__(self) -> None:
        self.answers = 0
        self.early = anyio.Event()
        self.over = anyio.Event()
        self.faults: list[Exception] = []

    def answered(self, connection: LocalConnection) -> None:
        self.answers += 1

    def finished_early(self, connection: LocalConnection) -> None:
        self.early.set()

    def admitted(self, connection: LocalConnection) -> None: ...

    def blocked(self, connection: LocalConnection, why: str) -> bytes:
        return why.encode()

    def closed(self, connection: LocalConnection) -> None:
        assert not self.over.is_set()
        self.over.set()

    def faulted(self, connection: LocalConnection, error: Exception) -> None:
        self.faults.append(error)


class Line:
    """A client, and the accepted connection it is one end of."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.loop = asyncio.get_running_loop()
        if family == socket.AF_UNIX:
            accepted, self.client = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                self.client = socket.create_connection(server.getsockname())
                accepted, _ = server.accept()
        accepted.setblocking(False)
        self.client.setblocking(False)
        self.watcher = Watcher()
        self.far = Far()
        self.near = LocalConnection(accepted, self.watcher, self.loop, memoryview(bytearray(READ_SIZE)))
        self.far.peer = self.near

    async def hear(self, size: int = 65536) -> bytes:
        with anyio.fail_after(20):
            return await self.loop.sock_recv(self.client, size)

    async def say(self, data: bytes) -> None:
        with anyio.fail_after(20):
            await self.loop.sock_sendall(self.client, data)

    def reset(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line()
    yield line
    line.near.reset("the test is over")
    line.client.close()
    assert line.watcher.over.is_set()


# A connection.


async def test_bytes_go_both_ways(line: Line) -> None:
    line.near.splice(line.far)
    await line.say(b"up")
    await until(lambda: line.far.said == b"up")
    line.near.write(b"down")
    assert await line.hear() == b"down"
    assert (line.near.bytes_out, line.near.bytes_in, line.watcher.answers) == (2, 4, 1)


async def test_the_client_closes_its_half_and_still_hears(line: Line) -> None:
    line.near.splice(line.far)
    await line.say(b"request")
    line.client.shutdown(socket.SHUT_WR)
    await line.far.eof.wait()
    assert line.far.said == b"request"
    line.near.write(b"answer")
    line.near.write_eof()
    assert await line.hear() == b"answer"
    assert await line.hear() == b""
    assert line.watcher.over.is_set()
    assert not line.far.aborted.is_set()


async def test_the_pod_closes_its_half_and_still_hears(line: Line) -> None:
    line.near.splice(line.far)
    line.near.write(b"bye")
    line.near.write_eof()
    assert await line.hear() == b"bye"
    assert await line.hear() == b""
    assert not line.watcher.over.is_set()
    await line.say(b"one more thing")
    line.client.shutdown(socket.SHUT_WR)
    await line.far.eof.wait()
    assert line.far.said == b"one more thing"
    assert line.watcher.over.is_set()


async def test_an_abort_is_a_reset_for_the_client(line: Line) -> None:
    line.near.splice(line.far)
    line.near.abort("the application reset")
    with pytest.raises(ConnectionResetError):
        await line.hear()
    assert not line.far.aborted.is_set()  # who aborts is told nothing back


async def test_a_reset_of_the_client_aborts_the_peer(line: Line) -> None:
    line.near.splice(line.far)
    line.reset()
    await line.far.aborted.wait()
    assert line.watcher.over.is_set()


async def test_a_reset_found_while_writing_aborts_the_peer(line: Line) -> None:
    line.near.splice(line.far)
    line.near.pause_reading()  # reading would find it first
    line.reset()
    line.near.write(b"x")
    await line.far.aborted.wait()
    line.near.write(b"nothing happens any more")
    line.near.write_eof()


async def test_a_stalled_client_pauses_the_peer_and_memory_stays_bounded(line: Line) -> None:
    line.near.splice(line.far)
    chunk, sent = os.urandom(65536), 0
    while not line.far.paused.is_set():
        line.near.write(chunk)
        sent += len(chunk)
    assert HIGH < line.near.buffered <= HIGH + len(chunk)
    assert not line.far.resumed.is_set()
    heard = bytearray()
    while len(heard) < sent:
        heard += await line.hear(1 << 20)
    await line.far.resumed.wait()
    assert heard == chunk * (sent // len(chunk))
    assert line.near.buffered == 0


async def test_an_end_after_much_data_comes_after_all_of_it(line: Line) -> None:
    line.near.splice(line.far)
    data = os.urandom(8 << 20)
    for at in range(0, len(data), 65536):
        line.near.write(data[at : at + 65536])
    line.near.write_eof()
    heard = bytearray()
    while part := await line.hear(1 << 20):
        heard += part
    assert heard == data


async def test_a_paused_connection_is_not_read(line: Line) -> None:
    line.near.splice(line.far)
    line.near.pause_reading()
    await line.say(b"later")
    await anyio.wait_all_tasks_blocked()
    assert line.far.said == b""
    line.near.resume_reading()
    await until(lambda: line.far.said == b"later")


async def test_a_waiting_connection_is_read_to_its_bound_and_no_further(line: Line) -> None:
    line.near.wait()
    data = os.urandom(KEEP_LIMIT + 40_000)
    await line.say(data)
    await until(lambda: line.near.buffered == KEEP_LIMIT)
    await anyio.wait_all_tasks_blocked()
    assert line.near.buffered == KEEP_LIMIT
    assert not line.near._reading  # readiness nobody answers would spin the loop
    first = line.near.freeze()
    line.near.splice(line.far)
    await until(lambda: first + line.far.said == data)
    assert line.near.said is None


async def test_what_comes_while_an_open_is_under_way_is_left_to_the_kernel_and_wakes_nobody(line: Line) -> None:
    line.near.wait()
    assert line.near.freeze() == b""
    await line.say(b"later")
    await until(lambda: not line.near._reading)  # readiness nobody answers would spin the loop
    line.near.splice(line.far)
    await until(lambda: line.far.said == b"later")


async def test_what_was_kept_leaves_once_and_then_bytes_go_on(line: Line) -> None:
    await line.say(b"early")
    await until(lambda: line.near.socket.recv(5, socket.MSG_PEEK) == b"early")
    line.near.read_early()
    assert line.near.freeze() == b"early"
    line.near.splice(line.far)
    await line.say(b" late")
    await until(lambda: line.far.said == b" late")
    assert line.near.said == b"early late"
    # The stream ends before the pod said anything: the next one gets all of it, and what comes meanwhile.
    line.near.unsplice()
    await line.say(b" later")
    await until(lambda: line.near.bytes_out == len(b"early late later"))
    assert line.near.freeze() == b"early late later"
    again = Far()
    line.near.splice(again)
    line.near.write(b"answer")
    assert line.near.said is None
    assert line.near.buffered == 0


async def test_an_end_while_waiting_is_told_and_passed_on_later(line: Line) -> None:
    line.near.wait()
    await line.say(b"all of it")
    line.client.shutdown(socket.SHUT_WR)
    await line.watcher.early.wait()
    assert line.near.freeze() == b"all of it"
    line.near.splice(line.far)
    assert line.far.eof.is_set()


async def test_a_finished_stream_flushes_then_closes_with_the_client(line: Line) -> None:
    line.near.splice(line.far)
    line.near.write(b"answer")
    line.near.finish()
    assert line.near.mode is Mode.DRAINING
    assert await line.hear() == b"answer"
    assert await line.hear() == b""
    await line.say(b"nobody hears this")
    line.client.close()
    await line.watcher.over.wait()
    assert line.far.said == b""


async def test_a_client_that_never_closes_is_closed(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kraynd.local.accepted.DRAIN_SECONDS", 0.01)
    assert DRAIN_SECONDS < 10
    line.near.splice(line.far)
    line.near.write_eof()
    line.near.finish()
    with anyio.fail_after(20):
        await line.watcher.over.wait()


async def test_a_fault_of_the_peer_ends_this_connection_alone(line: Line) -> None:
    class Broken(Far):
        def write(self, data: Buffer) -> None:
            raise RuntimeError("a bug")

        def abort(self, reason: str) -> None:
            raise RuntimeError("another bug")

    line.near.splice(Broken())
    await line.say(b"x")
    await line.watcher.over.wait()
    await until(lambda: [str(fault) for fault in line.watcher.faults] == ["a bug", "another bug"])


async def test_a_unix_client_is_served_as_any(line: Line) -> None:
    unix = Line(socket.AF_UNIX)
    unix.near.splice(unix.far)
    await unix.say(b"up")
    await until(lambda: unix.far.said == b"up")
    unix.near.write(b"down")
    assert await unix.hear() == b"down"
    unix.near.abort("over")
    assert await unix.hear() == b""
    unix.client.close()


# The doors.


class Hall:
    """Keeps whom a listener let in."""

    def __init__(self) -> None:
        self.guests: list[socket.socket] = []
        self.faults: list[Exception] = []
        self.starved: list[OSError] = []

    def listener(self, port: int = 0, path: str | None = None, **more: object) -> Listener:
        return Listener(
            port,
            path,
            on_accept=self.guests.append,
            on_fault=self.faults.append,
            on_starved=self.starved.append,
            **more,  # type: ignore[arg-type]
        )


@asynccontextmanager
async def opened(hall: Hall, path: str | None = None, **more: object) -> AsyncIterator[Listener]:
    listener = hall.listener(0, path, **more)
    listener.open()
    try:
        yield listener
    finally:
        listener.close()
        for guest in hall.guests:
            guest.close()


async def test_both_loopback_addresses_and_the_unix_socket_lead_in(tmp_path: Path) -> None:
    hall, path = Hall(), str(tmp_path / "run" / "f.sock")
    async with opened(hall, path) as listener:
        one = socket.create_connection(("127.0.0.1", listener.port))
        other = socket.create_connection(("::1", listener.port))
        unix = socket.socket(socket.AF_UNIX)
        unix.connect(path)
        await until(lambda: len(hall.guests) == 3)
        families = sorted(guest.family for guest in hall.guests)
        assert families == sorted([socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
        for guest in hall.guests:
            assert guest.gettimeout() == 0.0
            if guest.family != socket.AF_UNIX:
                assert guest.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        for client in (one, other, unix):
            client.close()
    assert not os.path.exists(path)


async def test_nobody_else_can_take_the_other_address() -> None:
    async with opened(Hall()) as listener:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as thief, pytest.raises(OSError, match=str(errno.EADDRINUSE)):
                thief.bind((host, listener.port))


async def test_a_port_half_taken_is_not_taken_by_us() -> None:
    with socket.socket(socket.AF_INET6) as thief:
        thief.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        thief.bind(("::1", 0))
        thief.listen()
        port = thief.getsockname()[1]
        listener = Hall().listener(port)
        with pytest.raises(OSError, match=str(errno.EADDRINUSE)):
            listener.open()
        assert not listener.is_open
        with socket.create_server(("127.0.0.1", port)):  # the other half was let go
            pass


async def test_a_machine_without_ipv6_works(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = listen._bind

    def without_ipv6(family: int, host: str, port: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        return bind(family, host, port)

    monkeypatch.setattr(listen, "_bind", without_ipv6)
    sockets = free_doors()
    assert [one.family for one in sockets] == [socket.AF_INET]
    sockets[0].close()


async def test_inherited_sockets_are_adopted_with_who_waits_in_them() -> None:
    sockets = free_doors()
    port = sockets[0].getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    hall = Hall()
    listener = hall.listener(port, inherited=sockets)
    listener.open()
    assert [one.fileno() for one in listener.sockets] == [one.fileno() for one in sockets]
    await until(lambda: len(hall.guests) == 1)
    client.close()
    listener.close()
    hall.guests[0].close()


async def test_a_stale_unix_socket_is_replaced_and_a_foreign_file_of_later_is_not_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "f.sock")
    stale = bind_unix(path)
    stale.close()
    async with opened(Hall(), path) as listener:
        assert listener.unix_path == path
        os.unlink(path)
        Path(path).write_text("somebody else's")
    assert Path(path).read_text() == "somebody else's"


async def test_without_a_unix_socket_the_port_still_serves(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    async with opened(Hall(), str(blocked / "f.sock")) as listener:
        assert listener.is_open
        assert listener.unix_path == ""
        assert "no Unix socket" in listener.problem


async def test_a_unix_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    async with opened(Hall(), str(tmp_path / ("x" * 120))) as listener:
        assert "too long" in listener.problem


async def test_a_pause_leaves_newcomers_in_the_backlog() -> None:
    hall = Hall()
    async with opened(hall) as listener:
        listener.pause()
        with socket.create_connection(("127.0.0.1", listener.port)):
            await anyio.wait_all_tasks_blocked()
            assert hall.guests == []
            listener.resume()
            await until(lambda: len(hall.guests) == 1)


async def test_a_fault_of_the_one_who_is_called_is_told() -> None:
    def broken(_: socket.socket) -> None:
        raise RuntimeError("a bug")

    faults: list[Exception] = []
    listener = Listener(0, None, on_accept=broken, on_fault=faults.append)
    listener.open()
    with socket.create_connection(("127.0.0.1", listener.port)):
        await until(lambda: [str(fault) for fault in faults] == ["a bug"])
    listener.close()


# Runs in its own process, for its own limit of descriptors: 64 of them against 200 clients.
STARVED_SERVER = """
import asyncio, resource, socket, sys
from kraynd.local.listen import Listener
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
guests, starved, served = [], [], 0

async def main():
    loop = asyncio.get_running_loop()
    listener = Listener(0, None, on_accept=guests.append, on_fault=lambda error: sys.exit(repr(error)),
                        on_starved=starved.append)
    listener.open()
    print(listener.port, flush=True)
    served = 0
    while not starved:
        await asyncio.sleep(0)
    while served < 200:
        while guests:
            guest = guests.pop()
            guest.send(b"served")
            guest.close()
            served += 1
        await asyncio.sleep(0)
    listener.close()
    print("starved" if starved else "never starved", flush=True)

asyncio.run(main())
"""


def test_a_lack_of_descriptors_delays_and_refuses_nobody() -> None:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, "-c", STARVED_SERVER], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        try:
            for client in clients:
                client.settimeout(20)
                assert client.recv(6) == b"served"
            assert process.stdout.readline() == b"starved\n"
            assert process.wait(20) == 0
        finally:
            process.kill()
            for client in clients:
                client.close()
