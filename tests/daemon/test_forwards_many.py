"""Many forwards of one daemon, and forwards for a long time: nothing is opened unused, and nothing grows."""

import asyncio
import gc
import os
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from kraynd.core.model import ClusterKey, ForwardKey
from kraynd.forwards import Forwards, ForwardSpec
from kraynd.kube.tunnel import TunnelPool, TunnelSettings
from tests.daemon.fakepod import head
from tests.daemon.localhost import LOOPS, Client, free_port, until
from tests.daemon.test_forwards_tunnel import Lane, lane
from tests.kube.fake_node import Echo, Node
from tests.kube.test_tunnel import Endpoint

pytestmark = pytest.mark.anyio
CLUSTERS, SERVICES = 50, 5
WARM_UP, ROUNDS, STRETCH = 4, 12, 4
MORE_BYTES = 130_000  # of Python's memory, in a stretch of rounds: caches may settle late


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@asynccontextmanager
async def fifty(tmp_path: Path) -> AsyncIterator[tuple[Forwards, dict[ForwardKey, int], Node]]:
    node = Node(programs={80 + service: Echo for service in range(SERVICES)})
    forwards = Forwards(socket_dir=str(tmp_path / "run"), on_change=lambda _: None)
    keys = [
        ForwardKey("default", f"c{cluster}", f"s{service}")
        for cluster in range(CLUSTERS)
        for service in range(SERVICES)
    ]
    ports: dict[ForwardKey, int] = {}
    while len(set(ports.values())) < len(keys):
        ports = {key: free_port() for key in keys}
    pool = TunnelPool(Endpoint(await node.start()), settings=TunnelSettings())
    forwards.want([ForwardSpec(key, 80 + int(key.service[1:]), ports[key], "tcp") for key in keys])
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(pool.run)
            await tasks.start(forwards.run)
            for cluster in range(CLUSTERS):
                forwards.aim(ClusterKey("default", f"c{cluster}"), pool, head(f"uid-{cluster}"), "")
            await until(lambda: all(one.socket for one in forwards.states().values()))
            yield forwards, ports, node
            tasks.cancel_scope.cancel()
    finally:
        await node.stop()


async def test_fifty_clusters_with_five_services_each(tmp_path: Path) -> None:
    async with fifty(tmp_path) as (forwards, ports, node):
        assert len(forwards.states()) == CLUSTERS * SERVICES
        assert node.requests == []  # a forward that nobody uses costs no connection

        async def talk(port: int) -> None:
            client = Client.to(port)
            await client.say(b"hello")
            client.finish()
            assert await client.hear_all() == b"hello"
            client.socket.close()

        async with anyio.create_task_group() as tasks:
            for port in ports.values():
                tasks.start_soon(talk, port)
        assert {one.total for one in forwards.states().values()} == {1}
        assert node.opened <= CLUSTERS * 3  # by pod, not by service
        forwards.want([one.spec for one in list(forwards._forwards.values())[:SERVICES]])
        await until(lambda: len(forwards.states()) == SERVICES)


async def _busy(forward: Lane) -> None:
    """What a day is made of: short connections, aborted ones, a half-close, a cut, an outage."""
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(forward.talk, b"%d" % number * 500)
    for _ in range(5):
        client = Client.to(forward.port)
        await client.say(b"and gone")
        client.socket.close()
    forward.node.cut()
    await until(lambda: not forward.pool.stats or not forward.pool.stats["uid-1"].tunnels)
    await forward.talk()
    await until(lambda: forward.state.connections == 0)


async def test_use_and_cuts_leave_nothing_behind(tmp_path: Path) -> None:
    async with lane(tmp_path, "spdy") as forward:
        for _ in range(WARM_UP):
            await _busy(forward)
        before = await _measured(forward)
        tracemalloc.start()
        try:
            sizes = []
            for _ in range(ROUNDS + 1):
                await _busy(forward)
                assert await _measured(forward) == before
                sizes.append(tracemalloc.get_traced_memory()[0])
            # A leak shows in every stretch; the interpreter's table of names doubles, by 2 MB, in one.
            stretches = sizes[::STRETCH]
            assert min(later - earlier for earlier, later in pairwise(stretches)) < MORE_BYTES
        finally:
            tracemalloc.stop()


async def _measured(forward: Lane) -> tuple[int, int]:
    """Tasks and descriptors once all is quiet: the one tunnel in use and its spare, on both sides."""
    forward.forwards._forwards[next(iter(forward.forwards.states()))].wake()
    await until(lambda: "uid-1" in forward.pool.stats and len(forward.node.tunnels) == 2)
    gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
