"""What the failure tests share: facts awaited with a deadline, what the plane was asked, an echo for a pod's port."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster.conftest import Krayne
from tests.controlplane.plane import ControlPlane
from tests.controlplane.process import wait_until

LIMIT = 40.0  # seconds for anything that must happen by itself, on a busy machine
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
CHUNK = 65536

Json = dict[str, Any]


def until(what: str, holds: Callable[[], bool], limit: float = LIMIT) -> None:
    """Wait for a fact outside this process. Raises PlaneError."""
    wait_until(what, holds, limit)


def becomes(krayne: Krayne, name: str, holds: Callable[[Json], bool]) -> Json:
    """`krayne ls`'s row of a cluster, once it is so."""
    seen: list[Json] = []

    def looked() -> bool:
        seen[:] = [one for one in krayne.clusters("-A") if one["name"] == name]
        return bool(seen) and holds(seen[0])

    try:
        until(f"cluster {name}", looked)
    except Exception as error:
        error.add_note(f"last seen: {seen}\n{krayne.log()}")
        raise
    return seen[0]


def status(krayne: Krayne) -> Json:
    """`krayne status`."""
    found: Json = krayne("status", "-o", "json").json()
    return found


def condition(krayne: Krayne, wanted: str) -> Json:
    """The connection's view in `krayne status`, once it is in this condition."""
    until(f"condition {wanted}", lambda: bool(status(krayne)["world"]["condition"] == wanted))
    world: Json = status(krayne)["world"]
    return world


def problems(krayne: Krayne) -> dict[str, str]:
    """What `krayne status` says is wrong with files: source -> sentence."""
    return {one["source"]: one["message"] for one in status(krayne)["problems"]}


def service(row: Json, name: str) -> Json:
    """One service of a row."""
    found: Json = next(one for one in row["services"] if one["name"] == name)
    return found


def declare(krayne: Krayne, name: str, text: str) -> Path:
    """A file in the clusters folder, as an editor writes it."""
    path = krayne.folder / "clusters" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def live(plane: ControlPlane, namespace: str, name: str) -> Json | None:
    """The RayCluster as Kubernetes has it."""
    found = plane.api.get(f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters")["items"]
    return next((one for one in found if one["metadata"]["name"] == name), None)


def workers(plane: ControlPlane, namespace: str, name: str) -> int:
    """The replicas of a cluster's first worker group; -1 without one."""
    found = live(plane, namespace, name) or {"spec": {}}
    groups = found["spec"].get("workerGroupSpecs") or [{"replicas": -1}]
    return int(groups[0]["replicas"])


def writes(plane: ControlPlane, namespace: str, user: str = "admin") -> list[tuple[str, str]]:
    """What a user wrote to Ray objects of a namespace: (verb, name), refused requests too."""
    return [
        (one["verb"], one["objectRef"].get("name", ""))
        for one in plane.audit()
        if one["user"]["username"] == user
        and one["verb"] in WRITES
        and one.get("objectRef", {}).get("resource") == "rayclusters"
        and one["objectRef"].get("namespace") == namespace
    ]


class Echo:
    """A TCP server on loopback that sends back what comes, both halves of a connection on their own."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self._loop = asyncio.new_event_loop()

    @contextmanager
    def running(self) -> Iterator["Echo"]:
        """Serve in a thread."""
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._end(server), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()

    async def _start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._one, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        me = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not me]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
        writer.close()
