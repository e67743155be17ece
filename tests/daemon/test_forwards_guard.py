"""HTTP forwards keep other web pages out: real sockets, a pod in this process that must not hear a byte of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

import kraynd.clients
from kraynd.core.forwarding import Wait
from kraynd.core.model import ForwardKey
from kraynd.forwards import HoldSettings
from tests.daemon.house import ECHO, NOBODY, SILENT, SSH, House, built
from tests.daemon.localhost import LOOPS, until

pytestmark = pytest.mark.anyio
WEB = ForwardKey("default", "demo", "dashboard")


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with built(tmp_path) as house:
        yield house


def get(port: int, *lines: str, host: str = "127.0.0.1") -> bytes:
    return "\r\n".join(["GET / HTTP/1.1", f"Host: {host}:{port}", *lines, "", ""]).encode()


async def test_own_requests_pass_and_others_are_answered_with_the_reason(house: House) -> None:
    port = await house.open(ECHO, WEB, scheme="http")
    house.aim()
    own = house.connect(port)
    for _ in range(2):  # a connection that stays open
        await own.say(get(port))
        assert await own.hear_exactly(len(get(port))) == get(port)
    other = house.connect(port)
    await other.say(get(port, host="evil.example"))
    answer = await other.hear_all()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"evil.example" in answer
    assert f"http://dashboard.demo.localhost:{port}".encode() in answer
    assert house.pool.opens == 1
    assert bytes(house.apps[0].heard) == 2 * get(port)
    state = house.state(WEB)
    assert (state.blocked, state.refused) == (1, 0)
    assert "evil.example" in state.last_error


async def test_a_foreign_form_on_an_open_connection_ends_it_unheard(house: House) -> None:
    port = await house.open(ECHO, WEB, scheme="http")
    house.aim()
    client = house.connect(port)
    await client.say(get(port))
    await client.hear_exactly(len(get(port)))
    await client.say(get(port, "Origin: http://evil.example"))
    with pytest.raises(ConnectionResetError):
        await client.hear()
    await until(lambda: house.apps[0].aborted.is_set())
    assert bytes(house.apps[0].heard) == get(port)
    assert house.state(WEB).blocked == 1


async def test_no_byte_leaves_before_the_head_is_whole(house: House) -> None:
    port = await house.open(ECHO, WEB, scheme="http")
    house.aim()
    client = house.connect(port)
    head = get(port)
    await client.say(head[:20])
    await until(lambda: bool(house.forwards._forwards[WEB]._clients._unheard))
    assert (house.pool.opens, house.state(WEB).connections, house.state(WEB).held) == (0, 0, 0)
    await client.say(head[20:])
    assert await client.hear_exactly(len(head)) == head


async def test_a_held_request_is_judged_before_it_is_held(house: House) -> None:
    port = await house.open(ECHO, WEB, scheme="http")
    house.nowhere()
    own, other = house.connect(port), house.connect(port)
    await own.say(get(port))
    await other.say(get(port, "Origin: null"))
    assert (await other.hear_all()).startswith(b"HTTP/1.1 403 ")
    await until(lambda: house.state(WEB).held == 1)
    house.aim()
    assert await own.hear_exactly(len(get(port))) == get(port)
    assert house.pool.opens == 1


async def test_a_connection_opened_ahead_of_need_is_held_as_long_as_any(house: House) -> None:
    """Browsers open connections early: the wait for a stream begins with the request."""
    port = await house.open(ECHO, WEB, scheme="http")
    house.nowhere()
    client = house.connect(port)
    clients = house.forwards._forwards[WEB]._clients
    await until(lambda: bool(clients._unheard))
    (early,) = clients._unheard
    clients._connections[early] = Wait(anyio.current_time() - 2 * HoldSettings().seconds)
    await client.say(get(port))
    await until(lambda: house.state(WEB).held == 1)
    house.aim()
    assert await client.hear_exactly(len(get(port))) == get(port)
    assert house.state(WEB).refused == 0


async def test_the_rest_of_a_request_that_is_held_waits_with_it(house: House) -> None:
    port = await house.open(ECHO, WEB, scheme="http")
    house.nowhere()
    client = house.connect(port)
    data = get(port, "Content-Length: 200000") + bytes(200_000) + get(port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.say, data)
        await until(lambda: house.state(WEB).held == 1)
        house.aim()
        assert await client.hear_exactly(len(data)) == data


async def test_a_refused_port_is_tried_again_with_the_judged_request(house: House) -> None:
    port = await house.open(NOBODY, WEB, scheme="http")
    house.aim()
    client = house.connect(port)
    await client.say(get(port))
    await until(lambda: house.state(WEB).reconnects > 1)
    assert house.state(WEB).held == 1


async def test_a_connection_without_a_request_ends(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kraynd.clients, "HEAD_SECONDS", 0.01)
    port = await house.open(ECHO, WEB, scheme="http")
    house.aim()
    slow, gone = house.connect(port), house.connect(port)
    gone.finish()
    for client in (slow, gone):
        with pytest.raises(ConnectionResetError):
            await client.hear()
    await until(lambda: not house.forwards._forwards[WEB]._clients._connections)
    assert house.pool.opens == 0


async def test_what_a_program_of_another_protocol_is_told(house: House) -> None:
    port = await house.open(ECHO, WEB, scheme="http")
    house.aim()
    client = house.connect(port)
    await client.say(b"\x16\x03\x01\x02\x00\x01")
    assert b"speaks http, not https" in await client.hear_all()


async def test_unix_sockets_and_other_services_are_not_http(house: House) -> None:
    port = await house.open(SILENT, WEB, scheme="http")
    ssh = await house.open(ECHO, SSH)
    house.aim()
    unix = house.connect_unix(house.state(WEB).socket)
    await unix.say(get(port, host="any.name"))
    await until(lambda: bool(house.apps) and bytes(house.apps[0].heard) == get(port, host="any.name"))
    plain = house.connect(ssh)
    await plain.say(b"SSH-2.0-x\r\n")
    assert await plain.hear() == b"SSH-2.0-x\r\n"


async def test_it_can_be_switched_off(tmp_path: Path) -> None:
    async with built(tmp_path, guard_web=False, hold=HoldSettings()) as house:
        port = await house.open(ECHO, WEB, scheme="http")
        house.aim()
        client = house.connect(port)
        await client.say(b"anything")
        assert await client.hear() == b"anything"
