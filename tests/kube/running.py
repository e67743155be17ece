"""A World that runs during a test, and a way to await what it shows: by events, within a deadline."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from kraynd.core.model import ClusterKey
from kraynd.kube.auth import load_endpoint
from kraynd.kube.world import World
from krayne.config import KrayneSettings

LIMIT = 90.0  # seconds for a real server on a busy machine to do anything, far above what it takes

SYSTEM = {"PATH": "/usr/bin:/bin"}


class Running:
    """The world, the conditions it went through, and `until`."""

    def __init__(self, kubeconfig: Path | None, *, environ: Mapping[str, str] = SYSTEM, **options: Any) -> None:
        self.conditions: list[str] = []
        self.reasons: list[str] = []
        self.changed: list[ClusterKey] = []
        self._event = anyio.Event()
        endpoint = load_endpoint(KrayneSettings(kubeconfig=str(kubeconfig) if kubeconfig else None), environ)
        self.world = World(KrayneSettings(), endpoint=endpoint, on_change=self._on_change, **options)

    def _on_change(self, key: ClusterKey | None) -> None:
        if key is not None:
            self.changed.append(key)
        elif self.world.state.condition not in self.conditions[-1:]:
            self.conditions.append(self.world.state.condition)
            self.reasons.append(self.world.state.reason)
        self._event.set()

    async def until(self, reached: Callable[[], bool], limit: float = LIMIT) -> None:
        """Wait for a change after which it holds."""
        try:
            with anyio.fail_after(limit):
                while not reached():
                    self._event = anyio.Event()
                    await self._event.wait()
        except TimeoutError:
            raise AssertionError(f"never: {self.world.state}, synced {self.world.synced}, {self.conditions}") from None

    async def condition(self, name: str, limit: float = LIMIT) -> None:
        """Wait for a condition; `ready` includes whole caches."""
        await self.until(lambda: self.world.state.condition == name and (name != "ready" or self.world.synced), limit)


@asynccontextmanager
async def running(kubeconfig: Path | None, **options: Any) -> AsyncIterator[Running]:
    """Run a world for the block; nothing of it is left after."""
    made = Running(kubeconfig, **options)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.world.run)
        try:
            yield made
        finally:
            tasks.cancel_scope.cancel()
