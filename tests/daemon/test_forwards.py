"""Forwards end to end on this machine: real sockets on one side, a pod in this process on the other."""

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from kraynd.core.model import ForwardKey, PodTarget
from kraynd.core.pipe import End
from kraynd.forwards import ForwardSpec, HoldSettings, socket_name
from kraynd.local.accepted import HIGH
from kraynd.local.listen import Listener, bind_unix
from tests.daemon.fakepod import Flood, PodStream
from tests.daemon.house import BANNER, ECHO, FLOOD, FLOOD_BYTES, LAST_WORD, SILENT, SSH, House, built
from tests.daemon.localhost import LOOPS, Client, free_doors, free_port, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with built(tmp_path) as house:
        yield house


# Serving.


async def test_echo_on_both_addresses_and_the_unix_socket(house: House) -> None:
    port = await house.open()
    house.aim()
    clients = [house.connect(port), house.connect(port, "::1"), house.connect_unix(house.state().socket)]
    for number, client in enumerate(clients):
        await client.say(b"hello %d" % number)
        assert await client.hear() == b"hello %d" % number
    state = house.state()
    assert (state.state, state.connections, state.held, state.total) == ("connected", 3, 0, 3)
    assert (state.bytes_in, state.bytes_out) == (21, 21)
    assert house.pool.dials == 0  # a warm tunnel serves in the tick of the accept
    for client in clients:
        client.finish()
        assert await client.hear() == b""
    await until(lambda: house.state().state == "listening")
    assert (house.state().bytes_in, house.state().total, house.state().connections) == (21, 3, 0)


async def test_a_pod_that_speaks_first_needs_no_word_of_the_client(house: House) -> None:
    port = await house.open(BANNER)
    house.aim()
    assert await house.connect(port).hear() == b"SSH-2.0-pod\r\n"


async def test_a_pod_that_speaks_last_hears_the_end(house: House) -> None:
    port = await house.open(LAST_WORD)
    house.aim()
    client = house.connect(port)
    await client.say(bytes(200_000))
    client.finish()
    assert await client.hear_all() == b"heard 200000"


async def test_what_the_client_said_before_the_accept_leaves_with_the_open(house: House) -> None:
    port = await house.open()
    house.aim()
    firsts: list[bytes] = []
    begin = house.pool.open_now

    def spy(target: PodTarget, remote: int, local: End, first: bytes = b"") -> PodStream | None:
        firsts.append(first)
        return begin(target, remote, local, first)

    house.pool.open_now = spy  # type: ignore[assignment,method-assign]
    client = house.connect(port)
    client.socket.send(b"at once")  # the loop has not turned: it is there when the connection is accepted
    assert await client.hear() == b"at once"
    assert firsts == [b"at once"]


async def test_a_reset_of_the_client_reaches_the_application(house: House) -> None:
    port = await house.open(SILENT)
    house.aim()
    client = house.connect(port)
    await client.say(b"x")
    await until(lambda: bool(house.apps) and house.apps[0].heard == b"x")
    client.reset()
    with anyio.fail_after(20):
        await house.apps[0].aborted.wait()
    await until(lambda: house.state().connections == 0)


async def test_a_reset_of_the_application_reaches_the_client(house: House) -> None:
    port = await house.open(ECHO)
    house.aim()
    client = house.connect(port)
    await client.say(b"x")
    assert await client.hear() == b"x"
    house.pool.streams[0].end("reset", "the application reset the connection")
    with pytest.raises(ConnectionResetError):
        await client.hear()
    assert house.state().last_error == "the application reset the connection"
    assert house.state().refused == 0


async def test_five_hundred_connections_at_once(house: House) -> None:
    port = await house.open()
    house.aim()
    clients = [house.connect(port) for _ in range(500)]
    for number, client in enumerate(clients):
        client.socket.send(b"%03d" % number)
    for number, client in enumerate(clients):
        assert await client.hear_exactly(3) == b"%03d" % number
    assert (house.state().connections, house.state().refused, house.state().held) == (500, 0, 0)


async def test_five_hundred_connections_at_once_on_a_cold_forward(house: House) -> None:
    """More than may be held: while the first dial is on its way the rest waits in the backlog, and none is refused."""
    port = await house.open()
    house.pool.warm, house.pool.gate = False, anyio.Event()
    house.aim()
    clients = [house.connect(port) for _ in range(500)]
    await until(lambda: house.state().held == 256)
    for number, client in enumerate(clients):
        client.socket.send(b"%03d" % number)
    house.pool.gate.set()
    for number, client in enumerate(clients):
        assert await client.hear_exactly(3) == b"%03d" % number
    assert (house.state().connections, house.state().refused) == (500, 0)


async def test_a_stalled_client_stalls_the_application_and_memory_stays_bounded(house: House) -> None:
    port = await house.open(FLOOD)
    house.aim()
    stalled = house.connect(port)
    await until(lambda: bool(house.apps))
    flood = house.apps[0]
    assert isinstance(flood, Flood)
    with anyio.fail_after(20):
        await flood.stopped.wait()
    connection = house.pool.streams[0].peer
    assert 0 < connection.buffered <= HIGH + len(Flood.CHUNK)  # type: ignore[union-attr]
    assert flood.left > FLOOD_BYTES // 2
    beside = house.connect(port)  # another connection does not feel it
    assert len(await beside.hear_exactly(1 << 20)) == 1 << 20
    beside.reset()
    assert len(await stalled.hear_all()) == FLOOD_BYTES


async def test_the_cap_of_connections_delays_the_next_one(tmp_path: Path) -> None:
    async with built(tmp_path, hold=HoldSettings(open=2)) as house:
        port = await house.open()
        house.aim()
        first, second, third = (house.connect(port) for _ in range(3))
        for client in (first, second, third):
            await client.say(b"x")
        assert await first.hear() == await second.hear() == b"x"
        assert house.state().total == 2
        first.socket.close()
        assert await third.hear() == b"x"
        assert house.state().refused == 0


# The set of forwards.


async def test_want_is_the_whole_set(house: House, tmp_path: Path) -> None:
    other = ForwardKey("default", "demo", "dashboard")
    port = await house.open()
    second = await house.open(BANNER, other)
    house.aim()
    client = house.connect(port)
    await client.say(b"x")
    assert await client.hear() == b"x"
    spec = ForwardSpec(other, BANNER, second, "tcp")
    unix = house.state().socket
    house.forwards.want([spec])
    assert list(house.forwards.states()) == [other]
    assert await client.hear() == b"", "its end is a FIN"
    with pytest.raises(ConnectionRefusedError):
        house.connect(port)
    assert not os.path.exists(unix)
    house.forwards.want([spec])  # said twice
    assert await house.connect(second).hear() == b"SSH-2.0-pod\r\n"


async def test_streams_end_in_order_and_who_waits_is_reset(house: House) -> None:
    port = await house.open()
    house.aim()
    client = house.connect(port)
    await client.say(b"x")
    assert await client.hear() == b"x"
    house.nowhere()
    waiting = house.connect(port)
    await until(lambda: house.state().held == 1)
    house.forwards.end_streams("the daemon stops")
    assert await client.hear() == b""
    with pytest.raises(ConnectionResetError):
        await waiting.hear()


async def test_a_forward_of_another_remote_port_keeps_its_local_port(house: House) -> None:
    port = await house.open()
    house.aim()
    await house.open(BANNER, port=port)
    assert await house.connect(port).hear() == b"SSH-2.0-pod\r\n"


async def test_changes_are_told_once_and_not_for_bytes(house: House) -> None:
    port = await house.open()
    house.nowhere("gone")
    house.nowhere("gone")
    house.aim()
    house.aim()
    del house.changes[:]
    one, other = house.connect(port), house.connect(port)
    for _ in range(50):
        await one.say(b"x")
        assert await one.hear() == b"x"
    await other.say(b"x")
    assert await other.hear() == b"x"
    assert house.changes == [(SSH, "connected", "")]
    for client in (one, other):
        client.finish()
        assert await client.hear() == b""
    await until(lambda: len(house.changes) == 2)
    assert house.changes[1] == (SSH, "listening", "")


async def test_a_taken_port_is_named_waited_for_and_never_moved(house: House) -> None:
    holder = socket.create_server(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    house.aim()
    house.forwards.want([ForwardSpec(SSH, ECHO, port, "ssh")])
    await until(lambda: house.state().state == "port-taken")
    state = house.state()
    assert state.local_port == port
    assert state.reason.startswith(f"local port {port} is held by process {os.getpid()} (")
    assert house.changes[-1][:2] == (SSH, "port-taken")
    holder.close()
    await until(lambda: house.state().state == "listening")
    client = house.connect(port)
    await client.say(b"x")
    assert await client.hear() == b"x"


async def test_a_taken_port_hurts_no_other_forward_and_can_be_given_up(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = ForwardKey("default", "demo", "taken")
        house.aim()
        house.forwards.want([ForwardSpec(taken, ECHO, holder.getsockname()[1], "tcp")])
        port = await house.open()
        client = house.connect(port)
        await client.say(b"x")
        assert await client.hear() == b"x"
        await until(lambda: house.state(taken).state == "port-taken")
        house.forwards.want([])
        assert house.forwards.states() == {}


async def test_an_unknown_fault_restarts_that_forward_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ForwardKey("default", "demo", "dashboard")
    port = await house.open()
    second = await house.open(ECHO, other)
    house.aim()
    beside = house.connect(second)
    await beside.say(b"x")
    assert await beside.hear() == b"x"

    def broken(listener: Listener, _: socket.socket) -> bool:
        monkeypatch.undo()
        raise RuntimeError("a bug in accept")

    monkeypatch.setattr(Listener, "_accept", broken)
    lost = house.connect(port)
    with pytest.raises(ConnectionResetError):
        await lost.hear()
    await until(lambda: house.state().state == "listening")
    assert "a bug in accept" in house.state().last_error
    again = house.connect(port)
    await again.say(b"y")
    assert await again.hear() == b"y"
    await beside.say(b"x")
    assert await beside.hear() == b"x"
    assert house.state(other).last_error == ""


@pytest.mark.parametrize("warm", [True, False])
async def test_an_unknown_fault_of_one_connection_ends_it_alone(house: House, warm: bool) -> None:
    port = await house.open()
    house.aim()
    beside = house.connect(port)
    await beside.say(b"x")
    assert await beside.hear() == b"x"

    def broken(*_: object) -> None:
        raise RuntimeError("a bug in the tunnel")

    if warm:
        house.pool.open_now = broken  # type: ignore[method-assign,assignment]
    else:
        house.pool.warm = False
        house.pool.open = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(ConnectionResetError):
        await house.connect(port).hear()
    assert "a bug in the tunnel" in house.state().last_error
    await beside.say(b"x")
    assert await beside.hear() == b"x"
    assert house.state().connections == 1


async def test_forwards_wanted_before_the_run_are_opened_by_it(tmp_path: Path) -> None:
    house = House(tmp_path)
    spec = ForwardSpec(SSH, ECHO, free_port(), "ssh")
    house.forwards.want([spec])
    house.aim()
    assert house.state().state == "holding"
    async with anyio.create_task_group() as tasks:
        await tasks.start(house.forwards.run)
        await until(lambda: house.state().state == "listening")
        client = house.connect(spec.local_port)
        await client.say(b"x")
        assert await client.hear() == b"x"
        tasks.cancel_scope.cancel()
    house.close()


async def test_inherited_sockets_serve_who_came_while_there_was_no_daemon(tmp_path: Path) -> None:
    sockets = free_doors()
    port = sockets[0].getsockname()[1]
    early = Client(socket.create_connection(("127.0.0.1", port)))
    async with built(tmp_path, inherited=sockets) as house:
        await house.open(BANNER, port=port)
        house.aim()
        assert await early.hear() == b"SSH-2.0-pod\r\n"
        assert len(house.forwards.doors()[SSH]) == 3
    early.socket.close()


async def test_an_inherited_unix_socket_serves_who_came_and_its_path_goes_with_the_forward(tmp_path: Path) -> None:
    path = str(tmp_path / "run" / socket_name(SSH))
    inherited = bind_unix(path)
    unix = socket.socket(socket.AF_UNIX)
    unix.connect(path)
    early = Client(unix)
    async with built(tmp_path, inherited_unix={path: inherited}) as house:
        await house.open(BANNER)
        house.aim()
        assert await early.hear() == b"SSH-2.0-pod\r\n"
        house.forwards.keep_path(SSH)
        house.forwards.want(())
        assert not os.path.exists(path), "closed, nobody goes on with it"
    early.socket.close()


async def test_a_kept_unix_socket_stays_when_the_daemon_ends(tmp_path: Path) -> None:
    async with built(tmp_path) as house:
        await house.open()
        path = house.state().socket
        house.forwards.keep_path(SSH)
    assert os.path.exists(path)
    os.unlink(path)


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async with built(tmp_path) as house:
        port = await house.open()
        house.aim()
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for number in range(200):
            client = house.connect(port)
            await client.say(b"x")
            assert await client.hear() == b"x"
            if number % 2:
                client.reset()
            else:
                client.socket.close()
        await until(lambda: house.state().connections == 0)
        house.pool.streams.clear()
        house.apps.clear()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before
        clients = house.forwards._forwards[SSH]._clients
        assert not clients._connections
        assert not clients._held
        assert len(asyncio.all_tasks()) < 10
