"""Connections that wait for a stream, and those that get a second one."""

# ruff: noqa: ARG002 - small applications hear more than they use

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from kraynd.core.backoff import Backoff
from kraynd.core.forwarding import KEEP_LIMIT
from kraynd.core.model import PodTarget
from kraynd.core.pipe import End
from kraynd.forwards import HoldSettings
from krayne.errors import ForbiddenError, KubeConnectionError
from tests.daemon.fakepod import App, Banner, Echo, LastWord, PodStream, Pool, head
from tests.daemon.house import BANNER, CLUSTER, LAST_WORD, NOBODY, SILENT, House, built
from tests.daemon.localhost import LOOPS, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with built(tmp_path) as house:
        yield house


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only news can end a pause: a retry by time would come after the test's deadline."""
    monkeypatch.setattr("kraynd.core.forwarding.DIAL", Backoff(base=1000, cap=1000, free=1))
    monkeypatch.setattr("kraynd.core.forwarding.REFUSED", Backoff(base=1000, cap=1000))


# Waiting.


async def test_a_connection_during_an_outage_is_held_and_served(house: House) -> None:
    port = await house.open(LAST_WORD)
    house.nowhere("the head pod is being replaced")
    client = house.connect(port)
    await client.say(b"POST")
    client.finish()
    await until(lambda: house.state().held == 1)
    assert (house.state().state, house.state().reason) == ("holding", "the head pod is being replaced")
    house.aim("uid-2")
    assert await client.hear_all() == b"heard 4"
    assert house.state().reason == ""
    assert house.pool.opens == 1


async def test_before_any_news_a_forward_holds(house: House) -> None:
    port = await house.open()
    client = house.connect(port)
    await until(lambda: house.state().held == 1)
    assert house.state().state == "holding"
    assert house.state().reason
    house.aim()
    await client.say(b"x")
    assert await client.hear() == b"x"


async def test_a_held_client_is_read_to_the_bound_and_served_in_full(house: House) -> None:
    port = await house.open()
    house.nowhere()
    client = house.connect(port)
    data = os.urandom(300_000)
    await client.say(data[: KEEP_LIMIT + 1000])
    await until(lambda: house.state().bytes_out == KEEP_LIMIT)
    await anyio.wait_all_tasks_blocked()
    assert house.state().bytes_out == KEEP_LIMIT
    house.aim()
    await client.say(data[KEEP_LIMIT + 1000 :])
    assert await client.hear_exactly(len(data)) == data


async def test_more_than_may_be_held_are_reset_and_counted(tmp_path: Path) -> None:
    async with built(tmp_path, hold=HoldSettings(connections=3)) as house:
        port = await house.open()
        house.nowhere("kaput")
        kept = [house.connect(port) for _ in range(3)]
        await until(lambda: house.state().held == 3)
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await house.connect(port).hear()
        assert (house.state().held, house.state().refused) == (3, 2)
        assert house.state().last_error == "more than 3 connections wait: kaput"
        house.aim()
        for client in kept:
            await client.say(b"x")
            assert await client.hear() == b"x"


async def test_a_wait_that_is_too_long_ends_with_a_reset(tmp_path: Path) -> None:
    async with built(tmp_path, hold=HoldSettings(seconds=0.05)) as house:
        port = await house.open()
        house.nowhere("the API does not answer")
        with pytest.raises(ConnectionResetError):
            await house.connect(port).hear()
        assert house.state().refused == 1
        assert house.state().last_error == "waited 0.05 s: the API does not answer"
        assert house.state().held == 0


async def test_a_dial_that_hangs_ends_with_the_wait(tmp_path: Path) -> None:
    async with built(tmp_path, hold=HoldSettings(seconds=0.05)) as house:
        port = await house.open()
        house.pool.warm, house.pool.gate = False, anyio.Event()
        house.aim()
        with pytest.raises(ConnectionResetError):
            await house.connect(port).hear()
        assert house.state().refused == 1


async def test_a_dial_that_fails_is_tried_again(house: House) -> None:
    port = await house.open()
    house.pool.warm, house.pool.failing = False, KubeConnectionError("the API does not answer", retryable=True)
    house.aim()
    client = house.connect(port)
    await client.say(b"x")
    await until(lambda: house.pool.dials >= 3)
    state = house.state()
    assert (state.state, state.reason, state.held) == ("holding", "the API does not answer", 1)
    house.pool.failing = None
    assert await client.hear() == b"x"
    assert house.state().state == "connected"
    assert house.state().last_error == "the API does not answer"


async def test_a_refusal_that_no_retry_mends_ends_at_once_and_is_shown(house: House) -> None:
    port = await house.open()
    house.pool.warm, house.pool.failing = False, ForbiddenError("you may not create pods/portforward")
    house.aim()
    with pytest.raises(ConnectionResetError):
        await house.connect(port).hear()
    state = house.state()
    assert (state.state, state.reason, state.refused) == ("refused", "you may not create pods/portforward", 1)
    house.pool.failing = None
    client = house.connect(port)
    await client.say(b"x")
    assert await client.hear() == b"x"
    assert house.state().state == "connected"


async def test_a_pod_found_gone_by_the_dial_is_waited_for(house: House, no_retries: None) -> None:
    port = await house.open()
    house.pool.warm, house.pool.failing = False, KubeConnectionError("pod demo-head is gone", kind="pod-gone")
    house.aim()
    client = house.connect(port)
    await client.say(b"x")
    await until(lambda: house.pool.failures == 2)
    assert house.state().held == 1
    house.pool.failing = None
    house.aim("uid-2")
    assert await client.hear() == b"x"


@pytest.mark.parametrize("news", ["wake", "ready", "replaced"])
async def test_news_are_acted_on_at_once(house: House, news: str, no_retries: None) -> None:
    port = await house.open()
    house.pool.warm, house.pool.failing = False, KubeConnectionError("asleep", retryable=True)
    house.aim(ready=False)
    client = house.connect(port)
    await until(lambda: house.pool.failures == 2)
    house.pool.failing = None
    if news == "wake":
        house.forwards.wake()
    else:
        house.aim("uid-1" if news == "ready" else "uid-2")
    await client.say(b"x")
    assert await client.hear() == b"x"
    assert house.pool.dials == 3


async def test_a_client_that_leaves_is_no_longer_held(house: House) -> None:
    port = await house.open()
    house.nowhere()
    for path in ("tcp", "unix"):
        client = house.connect(port) if path == "tcp" else house.connect_unix(house.state().socket)
        await until(lambda: house.state().held == 1)
        client.socket.close()
        await until(lambda: house.state().held == 0)
    resetting = house.connect(port)
    await until(lambda: house.state().held == 1)
    resetting.reset()
    await until(lambda: house.state().held == 0)
    assert house.state().refused == 0


async def test_a_client_whose_fin_comes_before_the_kernel_lets_go_of_it_is_no_longer_held(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await house.open()
    house.nowhere()
    client = house.connect(port)
    await until(lambda: house.state().held == 1)
    monkeypatch.setattr("kraynd.clients.GONE_SECONDS", 0.0)
    answers, asked = [os.getuid()], house.forwards._peers.uid_of
    monkeypatch.setattr(house.forwards._peers, "uid_of", lambda one: answers.pop() if answers else asked(one))
    client.socket.close()
    await until(lambda: house.state().held == 0)
    assert answers == []


async def test_a_client_that_only_closed_its_half_is_still_held(house: House) -> None:
    port = await house.open(BANNER)
    house.nowhere()
    client = house.connect(port)
    client.finish()
    left = house.connect(port)
    await until(lambda: house.state().held == 2)
    left.socket.close()
    await until(lambda: house.state().held == 1)
    house.aim()
    assert await client.hear_all() == b"SSH-2.0-pod\r\n"


async def test_bytes_of_a_client_that_left_are_delivered(house: House) -> None:
    port = await house.open(SILENT)
    house.nowhere()
    client = house.connect(port)
    await until(lambda: house.state().held == 1)
    await client.say(b"a metric, sent and forgotten")
    client.socket.close()
    await until(lambda: house.state().bytes_out == 28)
    await anyio.wait_all_tasks_blocked()
    house.aim()
    await until(lambda: bool(house.apps) and house.apps[0].heard == b"a metric, sent and forgotten")
    assert house.apps[0].heard_eof.is_set()


# Replaying.


async def test_a_refused_port_is_tried_until_it_listens_and_the_request_arrives_once(house: House) -> None:
    port = await house.open(NOBODY)
    house.aim()
    client = house.connect(port)
    await client.say(b"POST")
    await until(lambda: len(house.pool.streams) >= 2)
    await client.say(b" body")
    assert house.state().state == "refused"
    assert house.state().reason == "nothing listens on the port in the pod"
    house.pool.apps[NOBODY] = house.pool.apps[LAST_WORD]
    client.finish()
    assert await client.hear_all() == b"heard 9"
    assert [bytes(app.heard) for app in house.apps if isinstance(app, LastWord)] == [b"POST body"]
    assert house.state().reconnects == len(house.pool.streams) - 1
    await until(lambda: house.state().state == "listening")


async def test_what_goes_wrong_is_in_the_log_and_does_not_fill_it(
    house: House, caplog: pytest.LogCaptureFixture, no_retries: None
) -> None:
    caplog.set_level("INFO", logger="kraynd.forwards")
    port = await house.open(NOBODY)
    house.aim()
    clients = [house.connect(port) for _ in range(20)]
    await until(lambda: house.state().held == len(clients) and house.state().state == "refused")
    lines = [one.getMessage() for one in caplog.records]
    assert lines == ["forward default/demo/ssh: nothing listens on the port in the pod"]
    house.pool.apps[NOBODY] = Banner
    house.forwards.wake()
    await until(lambda: house.state().state == "connected")
    assert [one.getMessage() for one in caplog.records][1:] == ["forward default/demo/ssh works again"]


async def test_a_port_that_stays_refused_resets_when_the_wait_is_over(tmp_path: Path) -> None:
    async with built(tmp_path, hold=HoldSettings(seconds=0.05)) as house:
        port = await house.open(NOBODY)
        house.aim()
        with pytest.raises(ConnectionResetError):
            await house.connect(port).hear()
        assert house.state().refused == 1
        assert "nothing listens on the port in the pod" in house.state().last_error


async def test_a_new_pod_is_tried_at_once_after_a_refusal(house: House, no_retries: None) -> None:
    port = await house.open(NOBODY)
    house.aim()
    client = house.connect(port)
    await client.say(b"x")
    await until(lambda: house.state().state == "refused")
    house.pool.apps[NOBODY] = Echo
    house.aim("uid-2")
    assert house.state().state != "refused"
    assert await client.hear() == b"x"
    assert len(house.pool.streams) == 2


async def test_a_refusal_past_the_bytes_that_are_kept_is_a_reset(house: House) -> None:
    port = await house.open(SILENT)
    house.aim()
    client = house.connect(port)
    await client.say(bytes(KEEP_LIMIT + 1))
    await until(lambda: bool(house.apps) and len(house.apps[0].heard) == KEEP_LIMIT + 1)
    house.pool.streams[0].end("refused", "too late")
    with pytest.raises(ConnectionResetError):
        await client.hear()


async def test_a_lost_tunnel_with_nothing_said_is_replaced_unseen(house: House) -> None:
    port = await house.open(SILENT)
    house.aim()
    client = house.connect(port)
    await until(lambda: len(house.pool.streams) == 1)
    house.pool.apps[SILENT] = Echo
    house.pool.streams[0].end("tunnel-lost", "the connection to the API server was cut")
    await client.say(b"x")
    assert await client.hear() == b"x"
    assert (house.state().reconnects, house.state().refused) == (1, 0)


@pytest.mark.parametrize("remote", [SILENT, BANNER])
async def test_a_lost_tunnel_with_something_said_is_a_reset(house: House, remote: int) -> None:
    """Said by the client: an application may have acted on it. Said by the pod: half a talk cannot go on elsewhere."""
    port = await house.open(remote)
    house.aim()
    client = house.connect(port)
    if remote == SILENT:
        await client.say(b"x")
        await until(lambda: bool(house.apps) and house.apps[0].heard == b"x")
    else:
        await client.hear_exactly(len(b"SSH-2.0-pod\r\n"))
    house.pool.streams[0].end("tunnel-lost", "the connection to the API server was cut")
    with pytest.raises(ConnectionResetError):
        await client.hear()
    assert len(house.pool.streams) == 1


GET = b"GET /api HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(("scheme", "said"), [("tcp", b"SSH-2.0-client\r\n"), ("tcp", GET), ("http", GET)])
async def test_a_lost_tunnel_is_replaced_unseen_where_saying_it_twice_does_nothing(
    house: House, scheme: str, said: bytes
) -> None:
    port = await house.open(SILENT, scheme=scheme)
    house.aim()
    client = house.connect(port)
    await client.say(said)
    await until(lambda: bool(house.apps) and house.apps[0].heard == said)
    house.pool.apps[SILENT] = Echo
    house.pool.streams[0].end("tunnel-lost", "the connection to the API server was cut")
    assert await client.hear_exactly(len(said)) == said
    await client.say(b"SSH goes on" if scheme == "tcp" else GET)
    await client.hear()
    assert (house.state().reconnects, house.state().refused, len(house.pool.streams)) == (1, 0, 2)


async def test_a_post_is_not_said_twice(house: House) -> None:
    port = await house.open(SILENT, scheme="http")
    house.aim()
    client = house.connect(port)
    said = b"POST /api/jobs/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
    await client.say(said)
    await until(lambda: bool(house.apps) and house.apps[0].heard == said)
    house.pool.streams[0].end("tunnel-lost", "the connection to the API server was cut")
    with pytest.raises(ConnectionResetError):
        await client.hear()
    assert len(house.pool.streams) == 1


async def test_a_pod_that_is_gone_before_it_saw_a_byte_is_replaced(house: House) -> None:
    port = await house.open(SILENT)
    house.aim()
    client = house.connect(port)
    await client.say(b"x")
    await until(lambda: bool(house.apps) and house.apps[0].heard == b"x")
    house.pool.warm = False
    house.nowhere("the head pod is being replaced")
    house.pool.streams[0].end("pod-gone", "failed to find sandbox")
    await until(lambda: house.state().held == 1)
    house.pool.apps[SILENT] = Echo
    house.aim("uid-2")
    assert await client.hear() == b"x"


async def test_open_streams_outlive_a_new_aim(house: House) -> None:
    port = await house.open()
    house.aim()
    client = house.connect(port)
    await client.say(b"one")
    assert await client.hear() == b"one"
    house.nowhere()
    assert house.state().state == "holding"
    await client.say(b"two")
    assert await client.hear() == b"two"
    house.aim("uid-2")
    await client.say(b"three")
    assert await client.hear() == b"three"
    assert len(house.pool.streams) == 1


async def test_a_stream_that_ended_while_it_was_opened_is_noticed(house: House) -> None:
    class EndsAtOnce(Pool):
        async def open(
            self, target: PodTarget, port: int, local: End, first: bytes = b"", *, aside: bool = False
        ) -> PodStream:
            stream = PodStream(App())
            stream.end("refused", "gone before it began")
            self.streams.append(stream)
            self.warm = True
            await anyio.lowlevel.checkpoint()
            return stream

    port = await house.open()
    pool = EndsAtOnce(house.pool.apps, warm=False)
    house.forwards.aim(CLUSTER, pool, head(), "")
    client = house.connect(port)
    await client.say(b"x")
    await until(lambda: house.state().reconnects == 1)
    assert house.state().state == "refused"
    # The pool is warm now, but a held connection goes through `open`: make that one work.
    pool.open = house.pool.open  # type: ignore[method-assign]
    assert await client.hear() == b"x"
