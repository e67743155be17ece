"""Who gets through a forward: the user's own processes and nobody else."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from kraynd.core.model import ForwardKey
from kraynd.forwards import socket_name
from krayne import paths
from tests.daemon.house import BANNER, SILENT, SSH, House, built
from tests.daemon.localhost import LOOPS, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with built(tmp_path) as house:
        yield house


# Who may come in.

STRANGER = """
import encodings.idna, os, socket, struct, sys
port, uid, act = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if uid >= 0:
    os.setgid(uid); os.setuid(uid)
try:
    s = socket.create_connection((sys.argv[4], port))
    s.sendall(b"rm -rf /")
    if act == "leave":
        s.close()
    elif act == "linger":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1)); s.close()
    else:
        print(s.recv(100))
except (ConnectionResetError, BrokenPipeError):
    print("reset")
"""


@pytest.mark.parametrize("act", ["stay", "leave", "linger"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_no_byte_of_a_stranger_passes(house: House, act: str, host: str) -> None:
    """As root the stranger is another user; else one who left, whom nobody can name. Both are refused."""
    as_root = os.getuid() == 0
    if not as_root and act == "stay":
        act = "leave"
    port = await house.open(SILENT)
    house.aim()
    command = [sys.executable, "-c", STRANGER, str(port), "65534" if as_root else "-1", act, host]
    if act == "stay":
        result = await anyio.run_process(command)
        assert result.stdout == b"reset\n"
        assert house.state().last_error == "a connection of another user (uid 65534) was refused"
    else:
        # The loop stands still meanwhile: the client is gone before the accept.
        subprocess.run(command, check=True)
        await until(lambda: house.state().foreign == 1)
        assert house.state().last_error == "a connection of an unknown user was refused"
    state = house.state()
    assert (state.foreign, state.total, state.bytes_out) == (1, 0, 0)
    assert house.pool.opens == 0
    own = house.connect(port)
    await own.say(b"x")
    await until(lambda: bool(house.apps) and house.apps[0].heard == b"x")


async def test_an_unknown_user_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    port = await house.open()
    house.aim()
    monkeypatch.setattr(house.forwards._peers, "uid_of", lambda _: None)
    for client in (house.connect(port), house.connect(port, "::1")):
        with pytest.raises(ConnectionResetError):
            await client.hear()
    assert await house.connect_unix(house.state().socket).hear() == b""
    assert (house.state().foreign, house.pool.opens) == (3, 0)


async def test_the_check_can_be_switched_off_and_widened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with built(tmp_path, check_peer=False) as house:
        monkeypatch.setattr(house.forwards._peers, "uid_of", lambda _: None)
        port = await house.open(BANNER)
        house.aim()
        assert await house.connect(port).hear() == b"SSH-2.0-pod\r\n"
    async with built(tmp_path, allowed=[4242]) as house:
        monkeypatch.setattr(house.forwards._peers, "uid_of", lambda _: 4242)
        port = await house.open(BANNER)
        house.aim()
        assert await house.connect(port).hear() == b"SSH-2.0-pod\r\n"


async def test_five_hundred_checked_connections_a_burst(house: House) -> None:
    port = await house.open(BANNER)
    house.aim()
    for _ in range(2):
        clients = [house.connect(port) for _ in range(250)]
        for client in clients:
            assert await client.hear() == b"SSH-2.0-pod\r\n"
            client.reset()
    assert house.state().foreign == 0


def test_a_sockets_name_is_readable_where_it_fits_and_never_too_long() -> None:
    assert socket_name(SSH) == "default.demo.ssh.sock"
    long = [ForwardKey("n" * 63, "c" * 53, service) for service in ("dashboard", "port-65535")]
    names = [socket_name(key) for key in long]
    assert len(set(names)) == 2
    longest = "r" * (paths.SOCKET_PATH_LIMIT - 40)
    assert all(len(f"{longest}/{name}") <= paths.SOCKET_PATH_LIMIT for name in [*names, "x" * 39])
