"""A small real daemon behind the methods: clusters in memory, changes announced, gates to hold calls open."""

# ruff: noqa: ARG002 - the Backend protocol names them

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from kraynd.changes import Changes, Subscription
from kraynd.core.metrics import Family, Sample
from kraynd.core.model import ClusterKey
from kraynd.methods import Methods
from kraynd.reaching import Reaching
from kraynd.server import Server
from kraynd.tendmethods import TendMethods
from krayne.config import ClusterConfig
from krayne.errors import ClusterAlreadyExistsError, ClusterNotFoundError
from krayne.messages import (
    OFF,
    READY,
    ClientVersions,
    ClusterDetails,
    ClusterView,
    DaemonStatus,
    ForwardView,
    GroupView,
    ServiceView,
    SshHost,
    SshHosts,
    Workers,
    WorldView,
)
from tests.daemon.tendbackend import TendedMemory

WALL = 1_800_000_000.0


def some_services(state: str = READY) -> tuple[ServiceView, ...]:
    return (
        ServiceView("dashboard", 8265, 15001, "http://dashboard.demo.localhost:15001", state),
        ServiceView("client", 10001, 15002, "ray://127.0.0.1:15002", state),
        ServiceView("ssh", 22, 15003, "ssh://ray@127.0.0.1:15003", state),
    )


def some_cluster(name: str = "demo", namespace: str = "default", phase: str = "ready", **more: Any) -> ClusterView:
    fields: dict[str, Any] = {
        "declared": True,
        "workers": Workers(ready=2, desired=2, min=0, max=4),
        "services": some_services(),
        "since": WALL - 200,
        "created": WALL - 90_000,
        "image": "rayproject/ray:2.52.0-py311",
        **more,
    }
    return ClusterView(name=name, namespace=namespace, phase=phase, **fields)


class MemoryBackend(TendedMemory):
    """Keeps views; `log` records what was done; a gate set for a method holds its calls until it is opened."""

    def __init__(self, *views: ClusterView) -> None:
        super().__init__()
        self.changes = Changes(start=1000)
        self.views = {ClusterKey(one.namespace, one.name): one for one in views}
        self.log: list[tuple[Any, ...]] = []
        self.gates: dict[str, anyio.Event] = {}
        self.entered: dict[str, anyio.Event] = {}
        self.left: dict[str, anyio.Event] = {}
        self.stopped = anyio.Event()
        self.world = WorldView(context="kind", server="https://127.0.0.1:6443", condition="ready")
        self.listed_forwards: tuple[ForwardView, ...] = ()

    def hold(self, method: str) -> anyio.Event:
        """Calls of `method` wait until the returned gate is set; `entered` and `left` say where they are."""
        self.gates[method] = anyio.Event()
        self.entered[method] = anyio.Event()
        self.left[method] = anyio.Event()
        return self.gates[method]

    async def _gate(self, method: str) -> None:
        if method in self.gates:
            self.entered[method].set()
            try:
                await self.gates[method].wait()
                await anyio.lowlevel.checkpoint()
            finally:
                self.left[method].set()

    def put(self, view: ClusterView) -> ClusterView:
        key = ClusterKey(view.namespace, view.name)
        self.views[key] = view
        self.changes.publish(key)
        return view

    def remove(self, key: ClusterKey) -> None:
        del self.views[key]
        self.changes.publish(key)

    # The Backend.

    def clusters(self) -> tuple[ClusterView, ...]:
        return tuple(self.views.values())

    def cluster(self, key: ClusterKey) -> ClusterView | None:
        return self.views.get(key)

    def cluster_details(self, key: ClusterKey) -> ClusterDetails:
        view = self.views[key]
        fields = {name: getattr(view, name) for name in view.__struct_fields__}
        return ClusterDetails(**fields, groups=(GroupView(name="worker", ready=2, desired=2, max=4),))

    def forwards(self) -> tuple[ForwardView, ...]:
        return self.listed_forwards

    async def contacted(self) -> None:
        pass

    def show(self, name: str | None, namespace: str | None) -> SshHosts:
        keys = [self.find(name, namespace)] if name else list(self.views)
        hosts = tuple(
            SshHost(name=key.name, namespace=key.namespace, aliases=(f"krayne-{key.name}",), local_port=15003)
            for key in keys
        )
        return SshHosts(config="/none/config", known_hosts="/none/known_hosts", text="Host\n", hosts=hosts)

    def default_namespace(self) -> str:
        return "default"

    def find(self, name: str, namespace: str | None) -> ClusterKey:
        for key in self.views:
            if key.name == name and namespace in (None, key.namespace):
                return key
        raise ClusterNotFoundError(f"there is no cluster {name}", hint="krayne ls -A")

    async def create(
        self, config: ClusterConfig, client: ClientVersions, *, exist_ok: bool, source: str | None
    ) -> ClusterView:
        key = ClusterKey(config.namespace, config.name)
        if key in self.views and not exist_ok:
            raise ClusterAlreadyExistsError(
                f"the cluster {key} is declared already", hint=f"krayne describe {key.name}"
            )
        await self._gate("create")
        self.log.append(("create", str(key), config, client))
        workers = Workers(desired=config.worker_groups[0].replicas)
        return self.put(some_cluster(key.name, key.namespace, "pending", reason="not sent yet", workers=workers))

    def preview(self, config: ClusterConfig, client: ClientVersions) -> dict[str, Any]:
        return {"kind": "RayCluster", "metadata": {"name": config.name, "namespace": config.namespace}}

    async def scale(
        self, key: ClusterKey, *, group: str | None, replicas: int | None, minimum: int | None, maximum: int | None
    ) -> ClusterView:
        await self._gate("scale")
        self.log.append(("scale", str(key), group, replicas, minimum, maximum))
        workers = Workers(ready=0, desired=replicas or 0)
        return self.put(msgspec.structs.replace(self.views[key], workers=workers))

    async def delete(self, key: ClusterKey, *, force: bool) -> ClusterView:
        self.log.append(("delete", str(key), force))
        return self.put(msgspec.structs.replace(self.views[key], phase="deleting", declared=False))

    async def adopt(self, key: ClusterKey) -> ClusterView:
        return self.put(msgspec.structs.replace(self.views[key], owner="", declared=True))

    async def confirm(self, key: ClusterKey) -> ClusterView:
        return self.put(msgspec.structs.replace(self.views[key], phase="deleting"))

    async def open_forwards(self, key: ClusterKey, ports: Sequence[tuple[int, int]]) -> tuple[ServiceView, ...]:
        self.log.append(("open", str(key), tuple(ports)))
        extra = tuple(
            ServiceView(f"port-{remote}", remote, local or 15_009, f"tcp://127.0.0.1:{local or 15_009}", READY)
            for remote, local in ports
        )
        return self.put(msgspec.structs.replace(self.views[key], services=self.views[key].services + extra)).services

    async def close_forwards(self, key: ClusterKey, ports: Sequence[int]) -> tuple[ServiceView, ...]:
        self.log.append(("close", str(key), tuple(ports)))
        closed = tuple(
            msgspec.structs.replace(one, state=OFF, url="") if not ports or one.remote_port in ports else one
            for one in self.views[key].services
        )
        return self.put(msgspec.structs.replace(self.views[key], services=closed)).services

    def status(self) -> DaemonStatus:
        return DaemonStatus(
            pid=os.getpid(),
            version="0.1.0",
            home="/home/me/.krayne",
            socket="/run/s",
            world=self.world,
            kuberay="1.6.2",
        )

    def metrics(self) -> tuple[Family, ...]:
        return (Family("krayne_clusters", "gauge", "Clusters known.", (Sample(len(self.views)),)),)

    async def reload(self) -> None:
        await self._gate("reload")
        self.log.append(("reload",))

    def stop(self) -> None:
        self.stopped.set()

    def restart(self) -> None:
        self.stopped.set()

    def subscribe(self, since: int | None = None) -> AbstractContextManager[Subscription]:
        return self.changes.subscribe(since)


def methods(backend: MemoryBackend) -> Methods:
    """The handlers over `backend`, with every group the daemon has."""
    reaching = Reaching(backend, lambda: None, backend)
    return Methods(backend, TendMethods(backend), backend.setup, reaching, wall=lambda: WALL)


@asynccontextmanager
async def serving(backend: MemoryBackend, path: Path) -> AsyncIterator[Server]:
    """The real server over `backend`, on a socket at `path` in a private folder."""
    server = Server(methods(backend).table(), path=str(path))
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: server.run(task_status=task_status))
        try:
            yield server
        finally:
            tasks.cancel_scope.cancel()


class Client:
    """A test's end of a control connection: lines of JSON out and in."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self.data = b""

    async def send(self, *requests: Any) -> None:
        for request in requests:
            body = request if isinstance(request, bytes) else msgspec.json.encode(request)
            await self.stream.send(body + b"\n")

    async def line(self) -> Any:
        """The next line decoded; None at the end."""
        while b"\n" not in self.data:
            try:
                self.data += await self.stream.receive(1 << 20)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return None
        line, _, self.data = self.data.partition(b"\n")
        return msgspec.json.decode(line)

    async def line_or_end(self) -> bytes | None:
        """The next whole line undecoded; None at the end, which may come in the middle of one."""
        while b"\n" not in self.data:
            try:
                self.data += await self.stream.receive(1 << 20)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return None
        line, _, self.data = self.data.partition(b"\n")
        return line

    async def call(self, method: str, params: Any = None, call_id: int | str = 1) -> Any:
        """The answer's result; an error's fields for an error."""
        await self.send({"jsonrpc": "2.0", "id": call_id, "method": method, "params": params or {}})
        answer = await self.line()
        return answer.get("result", answer.get("error")) if answer else None


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[Client]:
    async with await anyio.connect_unix(path) as stream:
        yield Client(stream)
