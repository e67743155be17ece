"""A reconciler with its small world, its memory and its files."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec

from kraynd.core.backoff import Backoff
from kraynd.core.manifest import ImageChoice
from kraynd.core.model import ClusterKey, Json
from kraynd.core.plan import (
    ClusterMemory,
    Declared,
    Snapshot,
)
from kraynd.reconciler import ClusterState, Reconciler, ReconcileSettings
from krayne.config import ClusterConfig
from tests.core.rays import IMAGE, KEY, ME, WALL, config, manifest
from tests.daemon.small_world import Records, SmallWorld


def snapshot(*configs: ClusterConfig, **more: Any) -> Snapshot:
    clusters = {}
    for one in configs:
        key = ClusterKey(one.namespace, one.name)
        clusters[key] = Declared(key, one, f"{one.name}.yaml")
    found = Snapshot(clusters=clusters, problems=(), healthy=True, marker=True, missing={})
    return msgspec.structs.replace(found, **more)


def build(declared: Declared, memory: ClusterMemory, now: Json | None) -> tuple[Json, ImageChoice]:
    return manifest(declared.config), IMAGE


class Daemon:
    """A reconciler, its world and its memory."""

    def __init__(self, **settings: Any) -> None:
        self.world = SmallWorld()
        self.records = Records()
        self.changes: list[ClusterKey] = []
        self.build: Callable[[Declared, ClusterMemory, Json | None], tuple[Json, ImageChoice]] = build
        self.it = Reconciler(
            memory=self.records,
            build=lambda declared, memory, now: self.build(declared, memory, now),
            settings=ReconcileSettings(owner=ME, backoff=Backoff(base=1.0, cap=60.0, jitter=0.0), **settings),
            on_change=self.changes.append,
            wall=lambda: WALL + anyio.current_time() - 1000,
            rand=lambda: 0.0,
        )
        self.world.on_change = self.it.wake

    @property
    def memory(self) -> ClusterMemory:
        return self.records.cluster(self.world.id or "", KEY)

    @property
    def state(self) -> ClusterState:
        return self.it.statuses[KEY]

    def ask(self, change: Callable[[ClusterMemory], ClusterMemory]) -> None:
        self.records.kept[(self.world.id or "", KEY)] = change(self.memory)

    async def quiet(self, seconds: float = 0.5) -> None:
        await anyio.sleep(seconds)


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Daemon]:
    daemon = Daemon(**settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.it.run)
        daemon.it.attach(daemon.world)
        yield daemon
        tasks.cancel_scope.cancel()


async def created(daemon: Daemon, made_of: ClusterConfig | None = None) -> None:
    daemon.it.declare(snapshot(made_of or config()))
    await daemon.it.settle(KEY, 5)
    daemon.world.writes.clear()


def scaled(replicas: int) -> Callable[[Json], None]:
    return lambda thing: thing["spec"]["workerGroupSpecs"][0].update(replicas=replicas)
