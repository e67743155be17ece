"""Forwards of one cluster over a pool whose pods are in this process, and the user's programs that connect."""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio

from kraynd.core.model import ClusterKey, ForwardKey
from kraynd.forwards import Forwards, ForwardSpec, ForwardState
from tests.daemon.fakepod import App, Banner, Closed, Echo, Flood, LastWord, Pool, head
from tests.daemon.localhost import Client, free_port, until

CLUSTER = ClusterKey("default", "demo")
SSH = ForwardKey("default", "demo", "ssh")
ECHO, BANNER, LAST_WORD, FLOOD, SILENT, NOBODY = 7, 22, 8265, 9, 10, 11
FLOOD_BYTES = 32 << 20


class House:
    """Forwards over a pool whose pods have one application a port."""

    def __init__(self, tmp_path: Path, **more: Any) -> None:
        self.apps: list[App] = []
        self.pool = Pool({port: self._maker(make) for port, make in self._menu().items()})
        self.changes: list[tuple[ForwardKey, str, str]] = []
        self.run_dir = str(tmp_path / "run")
        self.forwards = Forwards(socket_dir=self.run_dir, on_change=self._changed, **more)
        self._clients: list[Client] = []

    def _menu(self) -> dict[int, Callable[[], App]]:
        return {
            ECHO: Echo,
            BANNER: Banner,
            LAST_WORD: LastWord,
            FLOOD: lambda: Flood(FLOOD_BYTES),
            SILENT: App,
            NOBODY: Closed,
        }

    def _maker(self, make: Callable[[], App]) -> Callable[[], App]:
        def made() -> App:
            self.apps.append(make())
            return self.apps[-1]

        return made

    def _changed(self, key: ForwardKey) -> None:
        state = self.forwards.states().get(key)
        if state is not None:
            self.changes.append((key, state.state, state.reason))

    def state(self, key: ForwardKey = SSH) -> ForwardState:
        return self.forwards.states()[key]

    async def open(self, remote: int = ECHO, key: ForwardKey = SSH, port: int = 0, scheme: str = "tcp") -> int:
        """A forward, wanted beside those there are and listening; its local port."""
        spec = ForwardSpec(key, remote, port or free_port(), scheme)
        others = [one.spec for one in self.forwards._forwards.values() if one.spec.key != key]
        self.forwards.want([*others, spec])
        await until(lambda: self.state(key).socket != "")
        return spec.local_port

    def aim(self, uid: str = "uid-1", *, ready: bool = True) -> None:
        self.forwards.aim(CLUSTER, self.pool, head(uid, ready=ready), "")

    def nowhere(self, why: str = "the head pod is being replaced") -> None:
        self.forwards.aim(CLUSTER, None, None, why)

    def connect(self, port: int, host: str = "127.0.0.1") -> Client:
        self._clients.append(Client(socket.create_connection((host, port))))
        return self._clients[-1]

    def connect_unix(self, path: str) -> Client:
        unix = socket.socket(socket.AF_UNIX)
        unix.connect(path)
        self._clients.append(Client(unix))
        return self._clients[-1]

    def close(self) -> None:
        for client in self._clients:
            client.socket.close()


@contextlib.asynccontextmanager
async def built(tmp_path: Path, **more: Any) -> AsyncIterator[House]:
    house = House(tmp_path, **more)
    async with anyio.create_task_group() as tasks:
        await tasks.start(house.forwards.run)
        yield house
        tasks.cancel_scope.cancel()
    house.close()
