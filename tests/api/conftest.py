"""The SDK against the real server over clusters in memory, where a small operator makes what is declared ready."""

import fcntl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup, TaskStatus

from kraynd.core.model import ClusterKey
from krayne import paths
from krayne.messages import OFF, READY, ServiceView, WorldView
from tests.daemon.backend import MemoryBackend, serving, some_cluster, some_services

SERVER = "https://127.0.0.1:6443"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class House:
    """A daemon in this process that can be restarted; its clusters stay."""

    tasks: TaskGroup

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "run" / "s"
        self.socket.parent.mkdir(mode=0o700)
        self.backend = MemoryBackend(some_cluster())
        self.operates = True
        self._end = anyio.Event()
        self._ended = anyio.Event()

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Be the daemon until `stop`."""
        self._end, self._ended = anyio.Event(), anyio.Event()
        async with serving(self.backend, self.socket):
            task_status.started()
            await self._end.wait()
        self._ended.set()

    async def stop(self) -> None:
        """Be gone."""
        self._end.set()
        await self._ended.wait()

    async def restart(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Stop, and start again; clients that come in between wait, as for `krayne daemon restart`."""
        Path(paths.home()).mkdir(mode=0o700, exist_ok=True)
        with open(paths.start_lock_file(), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            await self.stop()
            meanwhile()
            await self.tasks.start(self.serve)

    async def operate(self) -> None:
        """Make pending clusters ready, and end deleted ones."""
        with self.backend.subscribe() as news:
            while True:
                for key, _ in await news.changes():
                    if self.operates:
                        self.step(key)

    def step(self, key: ClusterKey) -> None:
        view = self.backend.cluster(key)
        if view is not None and view.phase == "pending":
            self.backend.put(msgspec.structs.replace(view, phase="ready", reason=""))
        elif view is not None and view.phase == "deleting":
            self.backend.remove(key)

    def put(self, name: str, namespace: str = "default", phase: str = "ready", **more: Any) -> None:
        self.backend.put(some_cluster(name, namespace, phase, **more))

    def closed(self, *names: str) -> tuple[ServiceView, ...]:
        """Services of which these are closed."""
        return tuple(msgspec.structs.replace(one, state=OFF if one.name in names else READY) for one in some_services())

    def disconnect(self, condition: str, reason: str) -> None:
        self.backend.world = WorldView(condition=condition, reason=reason, hint="look there")


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    made = House(tmp_path)
    monkeypatch.setenv("KRAYNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KRAYNE_SOCKET", str(made.socket))
    async with anyio.create_task_group() as made.tasks:
        await made.tasks.start(made.serve)
        made.tasks.start_soon(made.operate)
        yield made
        made.tasks.cancel_scope.cancel()


def outside(work: Callable[[], Any]) -> Any:
    """Run blocking code in a thread while the daemon of this process serves it."""
    return anyio.to_thread.run_sync(work)
