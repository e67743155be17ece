"""A disk that takes nothing under the node and the operator: nothing is lost, and all goes on when there is room."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from krayne_sandbox.core.raystatus import is_ready
from krayne_sandbox.core.statuses import StatusError
from krayne_sandbox.kinds import CONFIGMAPS, PODS, RAYCLUSTERS
from krayne_sandbox.node import ray, telling
from krayne_sandbox.node.pods import LocalNode
from krayne_sandbox.operator import loop
from krayne_sandbox.operator.loop import operate
from krayne_sandbox.store import Store
from tests.sandbox import fake_ray
from tests.sandbox.test_node import LIMIT, pod, state_of
from tests.sandbox.test_rayplan import cluster

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(telling, "AGAIN", 0.05)
    monkeypatch.setattr(loop, "AGAIN", 0.05)
    made = Store.open(str(tmp_path / "state.db"), clock=time.time)
    yield made
    made.close()


def fill(store: Store) -> None:
    """Until nothing goes in any more."""
    store._journal.limit_pages(1)
    thing: dict[str, Any] = {"metadata": {"generateName": "filling-", "namespace": "default"}}
    refused: StatusError | None = None
    while refused is None:
        try:
            store.create(CONFIGMAPS, thing)
        except StatusError as error:
            refused = error
    assert (refused.code, refused.reason) == (500, "InternalError")


def make_room(store: Store) -> None:
    store._journal.limit_pages(1_000_000)


async def test_the_operator_makes_the_pods_once_there_is_room(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.create(RAYCLUSTERS, cluster(replicas=1))
    fill(store)
    async with asyncio.timeout(LIMIT), anyio.create_task_group() as tasks:
        tasks.start_soon(operate, store)
        while "cannot be written" not in caplog.text:
            await asyncio.sleep(0.02)
        assert store.list(PODS) == []
        make_room(store)
        with store.subscribe(PODS) as subscription:
            while len(store.list(PODS)) < 2:
                await subscription.changes()
        tasks.cancel_scope.cancel()


async def test_the_node_tells_a_death_once_there_is_room(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ray.PYTHON, str(fake_ray.install(tmp_path / "bin")))
    store.create(PODS, pod())
    node = LocalNode(store, tmp_path)
    async with asyncio.timeout(LIMIT), anyio.create_task_group() as tasks:
        tasks.start_soon(node.run)
        while not is_ready(store.get(PODS, "default", "demo-head")):
            await asyncio.sleep(0.02)
        fill(store)
        (run,) = node._runs.values()
        assert run.process is not None
        os.kill(run.process.pid, signal.SIGKILL)
        while "cannot be written" not in caplog.text:
            await asyncio.sleep(0.02)
        assert store.get(PODS, "default", "demo-head")["status"]["phase"] == "Running"
        make_room(store)
        assert (await state_of(store, "terminated"))["phase"] == "Failed"
        tasks.cancel_scope.cancel()
