"""The control socket: whatever a client sends, it hurts itself at most."""

import gc
import os
import socket
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kraynd.core.model import ClusterKey
from kraynd.local.control import bind_control_socket, identity
from kraynd.server import Server
from kraynd.session import FOLLOWERS
from krayne import rpc
from krayne.errors import StateError
from tests.daemon.backend import Client, MemoryBackend, client, methods, serving, some_cluster

pytestmark = pytest.mark.anyio

HELLO = {"jsonrpc": "2.0", "id": 1, "method": "daemon.hello"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return folder / "s.sock"


@pytest.fixture
async def backend() -> MemoryBackend:
    return MemoryBackend(some_cluster())


@pytest.fixture
async def server(path: Path, backend: MemoryBackend) -> AsyncIterator[Server]:
    async with serving(backend, path) as running:
        yield running


# The socket as a file.


async def test_socket_is_private_and_gone_afterwards(path: Path, backend: MemoryBackend) -> None:
    async with serving(backend, path):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert os.listdir(path.parent) == [path.name]
    assert not path.exists()


async def test_stale_socket_is_taken_over(path: Path, backend: MemoryBackend) -> None:
    dead = bind_control_socket(str(path))
    dead.close()
    async with serving(backend, path), client(path) as one:
        assert (await one.call("daemon.hello"))["pid"] == os.getpid()


def test_live_socket_and_other_files_are_left_alone(path: Path) -> None:
    live = bind_control_socket(str(path))
    before = identity(str(path))
    with pytest.raises(StateError, match="another daemon serves"):
        bind_control_socket(str(path))
    assert identity(str(path)) == before
    live.close()
    path.unlink()
    path.write_text("mine")
    with pytest.raises(StateError, match="not a socket"):
        bind_control_socket(str(path))
    assert path.read_text() == "mine"


def test_folder_must_be_private(path: Path) -> None:
    path.parent.chmod(0o755)
    with pytest.raises(StateError, match="not a private folder"):
        bind_control_socket(str(path))


def test_long_path_is_refused_with_a_remedy(path: Path) -> None:
    with pytest.raises(StateError, match="longer than") as caught:
        bind_control_socket(str(path.parent / ("x" * 120)))
    assert "KRAYNE_SOCKET" in caught.value.hint


async def test_inherited_socket_is_served_and_its_path_kept(path: Path, backend: MemoryBackend) -> None:
    inherited = bind_control_socket(str(path))
    server = Server(methods(backend).table(), path=str(path), inherited=inherited)
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: server.run(task_status=task_status))
        async with client(path) as one:
            assert "pid" in await one.call("daemon.hello")
        tasks.cancel_scope.cancel()
    assert path.exists()


async def test_replaced_path_is_not_removed_at_the_end(path: Path, backend: MemoryBackend) -> None:
    async with serving(backend, path):
        path.unlink()
        other = bind_control_socket(str(path))
        theirs = identity(str(path))
    assert identity(str(path)) == theirs
    other.close()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
async def test_other_users_are_refused_before_a_byte(path: Path, server: Server) -> None:
    for folder in (path.parent, *path.parents):
        if folder == Path("/tmp"):
            break
        folder.chmod(0o711)
    path.chmod(0o666)
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s.connect(sys.argv[1])\n"
        "try:\n"
        "    s.sendall(sys.argv[2].encode() + b'\\n')\n"
        "    print(repr(s.recv(100)))\n"
        "except OSError:\n"
        "    print(repr(b''))\n"
    )
    line = msgspec.json.encode(HELLO).decode()
    done = await anyio.run_process([sys.executable, "-c", script, str(path), line], stderr=subprocess.PIPE)
    assert done.stdout.strip() == b"b''", done.stderr
    assert server.refused == 1
    assert server.sessions == 0


# Bad input.


async def answers(path: Path, data: bytes) -> list[dict[str, object]]:
    """What comes back for these bytes, until the end or the answer to the hello behind them."""
    found = []
    async with client(path) as one:
        try:
            await one.stream.send(data)
            await one.stream.send(b"\n" + msgspec.json.encode({**HELLO, "id": "last"}) + b"\n")
        except anyio.BrokenResourceError:
            pass
        while (answer := await one.line()) is not None:
            found.append(answer)
            if answer.get("id") == "last":
                break
    return found


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", rpc.PARSE_ERROR),
        (b"\xff\xfe", rpc.PARSE_ERROR),
        (b"[" * 200_000, rpc.INVALID_REQUEST),
        (b'{"method":"daemon.hello","jsonrpc":"2.0","id":1,"params":' + b"[" * 200_000, rpc.PARSE_ERROR),
        (b'{"a":' * 100_000, rpc.PARSE_ERROR),
        (b"[]", rpc.INVALID_REQUEST),
        (b"1", rpc.INVALID_REQUEST),
        (b"null", rpc.INVALID_REQUEST),
        (b'{"id":1,"method":"daemon.hello"}', rpc.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', rpc.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":{},"method":"daemon.hello"}', rpc.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"daemon.sing"}', rpc.METHOD_NOT_FOUND),
        (b'{"jsonrpc":"2.0","id":1,"method":"__class__"}', rpc.METHOD_NOT_FOUND),
        (b'{"jsonrpc":"2.0","id":1,"method":"cluster.get","params":[]}', rpc.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"cluster.get","params":{}}', rpc.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"cluster.get","params":{"name":"\\ud800"}}', None),
        (b'{"jsonrpc":"2.0","id":1,"method":"cluster.list","meta":{"api":99}}', rpc.INVALID_REQUEST),
    ],
)
async def test_bad_line_gets_an_error_and_the_next_is_served(
    path: Path, server: Server, data: bytes, code: int | None
) -> None:
    bad, good = await answers(path, data)
    assert "error" in bad
    if code is not None:
        assert bad["error"]["code"] == code  # type: ignore[index]
    assert good["result"]["pid"] == os.getpid()  # type: ignore[index]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300), st.text(alphabet='{}[]":,0\\u"eE-.\n idmethodjsonrpc2', max_size=300).map(str.encode)
    )
)
async def test_any_bytes_give_answers_or_a_close(path: Path, server: Server, data: bytes) -> None:
    found = await answers(path, data)
    assert found[-1]["id"] == "last"
    assert all("result" in one or "error" in one for one in found)


async def test_single_bytes_are_a_request_too(path: Path, server: Server) -> None:
    async with client(path) as one:
        for byte in msgspec.json.encode(HELLO) + b"\n":
            await one.stream.send(bytes([byte]))
        assert (await one.line())["result"]["pid"] == os.getpid()


async def test_oversized_line_is_answered_and_closed_without_growth(path: Path, server: Server) -> None:
    flood = b"x" * (3 * rpc.LINE_LIMIT)
    gc.collect()
    tracemalloc.start()
    try:
        async with client(path) as one:
            with pytest.raises(anyio.BrokenResourceError):
                await one.stream.send(flood)
            answer = await one.line()
            assert answer["error"]["code"] == rpc.PARSE_ERROR
            assert await one.line() is None
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()
    async with client(path) as other:
        assert "pid" in await other.call("daemon.hello")


async def test_unfinished_lines_of_all_clients_are_bounded_together(path: Path, server: Server) -> None:
    piece = b"x" * (rpc.LINE_LIMIT - 1)
    count = rpc.BUFFERED_LIMIT // len(piece) + 1
    streams = [await anyio.connect_unix(path) for _ in range(count)]
    try:
        for stream in streams[:-1]:
            await stream.send(piece)
        with pytest.raises(anyio.BrokenResourceError):
            await streams[-1].send(piece)
        assert (await Client(streams[-1]).line())["error"]["data"]["kind"] == "busy"
        async with client(path) as other:
            assert "pid" in await other.call("daemon.hello")
    finally:
        for stream in streams:
            await stream.aclose()


async def test_silent_client_is_sent_away(path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "FIRST_LINE_SECONDS", 0.01)
    async with client(path) as one:
        assert "no whole line" in (await one.line())["error"]["message"]
        assert await one.line() is None


async def test_too_many_clients_are_told(path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "SESSIONS", 2)
    async with client(path) as first, client(path) as second:
        assert "pid" in await first.call("daemon.hello")
        assert "pid" in await second.call("daemon.hello")
        async with client(path) as third:
            answer = await third.line()
            assert answer["error"]["data"]["kind"] == "busy"
            assert answer["error"]["data"]["retryable"] is True
        assert "pid" in await first.call("daemon.hello")
    assert server.turned_away == 1


# Calls.


async def test_calls_run_side_by_side_and_ids_are_unique(path: Path, server: Server, backend: MemoryBackend) -> None:
    gate = backend.hold("create")
    async with client(path) as one:
        await one.send({"jsonrpc": "2.0", "id": "slow", "method": "cluster.create", "params": {"name": "a"}})
        await backend.entered["create"].wait()
        assert "pid" in await one.call("daemon.hello", call_id="quick")
        again = await one.call("daemon.hello", call_id="slow")
        assert "is running" in again["message"]
        gate.set()
        assert (await one.line())["result"]["cluster"]["name"] == "a"


async def test_calls_in_flight_are_bounded_and_can_be_cancelled(path: Path, server: Server) -> None:
    wait = {"jsonrpc": "2.0", "method": "cluster.wait", "params": {"name": "demo", "condition": "deleted"}}
    async with client(path) as one:
        await one.send(*({**wait, "id": number} for number in range(rpc.CALLS_PER_SESSION + 1)))
        lines = [await one.line() for _ in range(rpc.CALLS_PER_SESSION + 1)]
        (refused,) = [line for line in lines if "error" in line]
        assert (refused["id"], refused["error"]["data"]["kind"]) == (rpc.CALLS_PER_SESSION, "busy")
        await one.send({"jsonrpc": "2.0", "id": "c", "method": "rpc.cancel", "params": {"id": 3}})
        found = {answer["id"]: answer for answer in (await one.line(), await one.line())}
        assert found["c"]["result"] == {"cancelled": True}
        assert found[3]["error"]["data"]["kind"] == "call-cancelled"


async def test_changing_calls_cannot_be_cancelled(path: Path, server: Server, backend: MemoryBackend) -> None:
    gate = backend.hold("create")
    async with client(path) as one:
        await one.send({"jsonrpc": "2.0", "id": 7, "method": "cluster.create", "params": {"name": "a"}})
        await backend.entered["create"].wait()
        assert await one.call("rpc.cancel", {"id": 7}) == {"cancelled": False}
        gate.set()
        assert (await one.line())["result"]["cluster"]["name"] == "a"


async def test_client_that_dies_lets_a_change_finish(path: Path, server: Server, backend: MemoryBackend) -> None:
    gate = backend.hold("create")
    async with client(path) as one:
        await one.send({"jsonrpc": "2.0", "id": 1, "method": "cluster.create", "params": {"name": "a"}})
        await backend.entered["create"].wait()
    async with client(path) as other:
        await other.call("daemon.hello")
        gate.set()
        assert (await other.call("cluster.wait", {"name": "demo"}))["met"]
        await backend.left["create"].wait()
        assert "pid" in await other.call("daemon.hello")
    assert [entry[:2] for entry in backend.log] == [("create", "default/a")]


async def test_client_that_dies_ends_its_reading_calls(path: Path, server: Server, backend: MemoryBackend) -> None:
    async with client(path) as one:
        await one.send(
            {"jsonrpc": "2.0", "id": 1, "method": "cluster.wait", "params": {"name": "demo", "condition": "deleted"}}
        )
        assert (await one.line())["method"] == "call.progress"
        assert backend.changes.listeners == 1
    async with client(path) as other:
        while backend.changes.listeners:
            await other.call("daemon.hello")
    assert server.sessions <= 1


async def test_half_close_still_gets_the_answers(path: Path, server: Server, backend: MemoryBackend) -> None:
    gate = backend.hold("create")
    async with client(path) as one:
        await one.send({"jsonrpc": "2.0", "id": 1, "method": "cluster.create", "params": {"name": "a"}})
        await one.stream.send_eof()
        await backend.entered["create"].wait()
        gate.set()
        assert (await one.line())["result"]["cluster"]["name"] == "a"
        assert await one.line() is None


async def test_stopping_gives_changes_a_moment(path: Path, backend: MemoryBackend) -> None:
    gate = backend.hold("create")
    async with anyio.create_task_group() as tasks:
        async with serving(backend, path), client(path) as one:
            await one.send({"jsonrpc": "2.0", "id": 1, "method": "cluster.create", "params": {"name": "a"}})
            await backend.entered["create"].wait()
            tasks.start_soon(_open_soon, gate)
    assert [entry[:2] for entry in backend.log] == [("create", "default/a")]


async def test_a_change_that_the_end_cuts_off_says_so(
    path: Path, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kraynd.server.GRACE_SECONDS", 0.01)
    backend.hold("create")
    async with serving(backend, path):
        one = Client(await anyio.connect_unix(path))
        await one.send({"jsonrpc": "2.0", "id": 1, "method": "cluster.create", "params": {"name": "a"}})
        await backend.entered["create"].wait()
    error = (await one.line())["error"]
    assert error["data"]["kind"] == "daemon-unreachable"
    assert error["message"] == "the daemon stopped before cluster.create had ended"
    await one.stream.aclose()


async def test_draining_lets_nobody_in_and_answers_who_changed_something(path: Path, backend: MemoryBackend) -> None:
    gate = backend.hold("create")
    async with anyio.create_task_group() as tasks, serving(backend, path) as server, client(path) as one:
        await one.send({"jsonrpc": "2.0", "id": 1, "method": "cluster.create", "params": {"name": "a"}})
        await backend.entered["create"].wait()
        tasks.start_soon(server.drain)
        while path.exists():
            await anyio.lowlevel.checkpoint()
        with pytest.raises(OSError, match="No such file"):
            await anyio.connect_unix(path)
        gate.set()
        assert (await one.line())["result"]["cluster"]["name"] == "a"


async def test_an_answer_to_a_change_survives_the_end_of_the_server(path: Path, backend: MemoryBackend) -> None:
    gate = backend.hold("create")
    async with anyio.create_task_group() as tasks:
        async with serving(backend, path):
            one = Client(await anyio.connect_unix(path))
            await one.send({"jsonrpc": "2.0", "id": 1, "method": "cluster.create", "params": {"name": "a"}})
            await backend.entered["create"].wait()
            tasks.start_soon(_open_soon, gate)
        async with one.stream:
            assert (await one.line())["result"]["cluster"]["name"] == "a"


async def _open_soon(gate: anyio.Event) -> None:
    await anyio.lowlevel.checkpoint()
    gate.set()


async def test_a_fault_of_ours_is_an_answer(
    path: Path, server: Server, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.views[ClusterKey("default", "demo")] = None  # type: ignore[assignment]
    async with client(path) as one:
        fault = await one.call("cluster.get", {"name": "demo"})
        assert fault["data"]["kind"] == "internal"
        assert "krayne daemon logs" in fault["data"]["hint"]
        assert "pid" in await one.call("daemon.hello")
    assert "AttributeError" in caplog.text


async def test_stop_answers_before_it_stops(path: Path, server: Server, backend: MemoryBackend) -> None:
    async with client(path) as one:
        assert (await one.call("daemon.stop"))["pid"] == os.getpid()
    await backend.stopped.wait()


async def test_notifications_get_no_answer(path: Path, server: Server) -> None:
    async with client(path) as one:
        await one.send({"jsonrpc": "2.0", "method": "daemon.hello"}, {"jsonrpc": "2.0", "method": "no.such"})
        # An unknown method is refused even so: its sender is mistaken, and silence would hide it.
        assert (await one.line())["error"]["code"] == rpc.METHOD_NOT_FOUND
        assert (await one.call("daemon.hello", call_id=5))["pid"] == os.getpid()


# Slow readers.


async def test_subscriber_that_never_reads_is_bounded_and_dropped(
    path: Path, server: Server, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "WRITE_SECONDS", 0.05)
    names = [f"c{number}" for number in range(200)]
    for name in names:
        backend.put(some_cluster(name))
    async with client(path) as slow, client(path) as other:
        await slow.send({"jsonrpc": "2.0", "id": 1, "method": "cluster.watch"})
        while not backend.changes.listeners:
            await other.call("daemon.hello")
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(100_000):
                backend.changes.publish(ClusterKey("default", names[number % len(names)]))
                if number % 1000 == 0:
                    assert "pid" in await other.call("daemon.hello")
            assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
        finally:
            tracemalloc.stop()
        while backend.changes.listeners:
            await other.call("daemon.hello")
        seen = 0
        while await slow.line_or_end() is not None:
            seen += 1
        assert seen > 1, "what was sent before it was dropped is still there, and then comes the end"


async def test_overflow_says_resync(path: Path, backend: MemoryBackend) -> None:
    backend.changes = type(backend.changes)(start=1, pending_limit=3)
    async with serving(backend, path), client(path) as one:
        await one.call("cluster.watch")
        for number in range(10):
            backend.put(some_cluster(f"c{number}"))
        assert (await one.line())["params"]["kind"] == "resync"
        assert "pid" in await one.call("daemon.hello")
    assert backend.changes.listeners == 0


async def test_watches_of_a_connection_are_bounded(path: Path, server: Server, backend: MemoryBackend) -> None:
    async with client(path) as one:
        for _ in range(FOLLOWERS):
            assert "watch" in await one.call("cluster.watch")
        assert (await one.call("cluster.watch"))["data"]["kind"] == "busy"
        assert backend.changes.listeners == FOLLOWERS
    async with client(path) as other:
        while backend.changes.listeners:
            await other.call("daemon.hello")


def test_peer_uid_is_ours_for_a_pair() -> None:
    from kraynd.local.control import is_hung_up, peer_uid

    one, two = socket.socketpair()
    with one, two:
        assert peer_uid(one) == os.getuid()
        assert not is_hung_up(one)
        two.shutdown(socket.SHUT_WR)
        assert not is_hung_up(one), "a half-close is not the end"
        two.close()
        assert is_hung_up(one)
