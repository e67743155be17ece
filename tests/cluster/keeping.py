"""The reconciler with the real World and the real memory against the plane; what tests do to it, and how they wait."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from anyio import to_thread

from kraynd.core.bootstrap import BootstrapSettings
from kraynd.core.manifest import DEFAULT_IMAGE, ImageChoice, Owner, build_manifest
from kraynd.core.model import ClusterKey, Json
from kraynd.core.plan import ClusterMemory, Declared, Snapshot
from kraynd.kube.world import World
from kraynd.local.memory import Memory, MemoryStore
from kraynd.reconciler import ClusterState, Reconciler, ReconcileSettings
from krayne.config import ClusterConfig, KrayneSettings
from tests.controlplane.plane import ControlPlane

LIMIT = 120.0  # seconds for anything to happen; nearly all of it happens within one
TLS_GOODBYE = 0.25  # seconds until closed TLS connections are gone and the loop may close
ME = Owner("home-of-this-test", "laptop", "ann")


class Keeper:
    """One home's reconciler. `namespace` is the test's own."""

    def __init__(self, plane: ControlPlane, namespace: str, owner: Owner) -> None:
        self.plane, self.namespace, self.owner = plane, namespace, owner
        self.key = ClusterKey(namespace, "demo")
        self.memory = MemoryStore(Memory())
        self.declared: dict[ClusterKey, ClusterConfig] = {}
        self._changed = anyio.Event()
        self.reconciler = Reconciler(
            memory=self.memory,
            build=self._build,
            settings=ReconcileSettings(owner=owner),
            on_change=self._shown,
        )
        self.reasons: list[str] = []  # every reason that was shown of `demo`, however short it lasted
        self.world = World(KrayneSettings(kubeconfig=str(plane.kubeconfig)), on_change=self._seen)

    def _build(self, declared: Declared, *_: Any) -> tuple[Json, ImageChoice]:
        return self.manifest(declared.config), DEFAULT_IMAGE

    def _shown(self, key: ClusterKey) -> None:
        if key == self.key and key in self.reconciler.statuses:
            self.reasons.append(self.state.status.reason)
        self._changed.set()

    def _seen(self, key: ClusterKey | None) -> None:
        self.reconciler.wake(key)
        self._changed.set()

    # The files

    def config(self, **fields: Any) -> ClusterConfig:
        return ClusterConfig.model_validate({"name": "demo", "namespace": self.namespace, **fields})

    def manifest(self, config: ClusterConfig) -> Json:
        return build_manifest(config, image=DEFAULT_IMAGE, bootstrap=BootstrapSettings(), owner=self.owner)

    def declare(self, *configs: ClusterConfig) -> None:
        self.declared = {ClusterKey(one.namespace, one.name): one for one in configs}
        clusters = {key: Declared(key, one, f"{one.name}.yaml") for key, one in self.declared.items()}
        self.reconciler.declare(Snapshot(clusters=clusters, problems=(), healthy=True, marker=True, missing={}))

    async def keep(self, **fields: Any) -> ClusterState:
        """Declare `demo` like this, and have it dealt with."""
        self.declare(self.config(**fields))
        return await self.reconciler.settle(self.key, LIMIT)

    async def ask(self, change: Callable[[ClusterMemory], ClusterMemory]) -> ClusterState:
        world = self.world.id or ""
        await self.memory.put_cluster(world, self.key, change(self.memory.cluster(world, self.key)))
        return await self.reconciler.settle(self.key, LIMIT)

    # What is seen

    @property
    def state(self) -> ClusterState:
        return self.reconciler.statuses[self.key]

    async def until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait for something the reconciler or the watches show."""
        with anyio.move_on_after(LIMIT):
            while not reached():
                self._changed = anyio.Event()
                await self._changed.wait()
        state = self.reconciler.statuses.get(self.key)
        assert reached(), f"{what}; the last state is {state and msgspec.structs.asdict(state)}"

    async def status(self, phase: str, reason: str) -> ClusterState:
        """Wait for this phase with a reason that contains this."""

        def reached() -> bool:
            state = self.reconciler.statuses.get(self.key)
            return state is not None and state.status.phase == phase and reason in state.status.reason

        await self.until(reached, f"waited for {phase}: {reason}")
        return self.state

    # What others do

    async def api(self, method: str, path: str, body: Any = None) -> Json:
        def call() -> Json:
            found: Json = self.plane.api.request(method, path, body)
            return found

        return await to_thread.run_sync(call)

    @property
    def path(self) -> str:
        return f"/apis/ray.io/v1/namespaces/{self.namespace}/rayclusters/demo"

    async def live(self) -> Json:
        return await self.api("GET", self.path)

    async def meddle(self, ops: Sequence[Json]) -> None:
        """A JSON patch without any version, as the autoscaler writes."""
        await self.kubectl("patch", "raycluster", "demo", "--type=json", "-p", json.dumps(list(ops)))

    async def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return await to_thread.run_sync(lambda: self.plane.kubectl("-n", self.namespace, *args, stdin=stdin))

    async def hold(self, which: Any) -> None:
        await to_thread.run_sync(lambda: self.plane.hold_new_pods(self.namespace, which))

    async def pod_status(self, pod: str, status: Json) -> None:
        await to_thread.run_sync(lambda: self.plane.patch_pod_status(self.namespace, pod, status))

    def pods(self, kind: str) -> list[Json]:
        """The pods of a kind that the watch shows."""
        return [
            pod for pod in self.world.pods_of(self.key) if pod["metadata"]["labels"].get("ray.io/node-type") == kind
        ]

    async def head(self) -> str:
        """The name of the head pod, once there is one."""
        await self.until(lambda: bool(self.pods("head")), "waited for a head pod")
        return str(self.pods("head")[0]["metadata"]["name"])


@asynccontextmanager
async def keeping(plane: ControlPlane, namespace: str, owner: Owner = ME) -> AsyncIterator[Keeper]:
    """A reconciler at work, connected and in sync."""
    keeper = Keeper(plane, namespace, owner)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.world.run)
        tasks.start_soon(keeper.reconciler.run)
        keeper.reconciler.attach(keeper.world)
        await keeper.until(lambda: keeper.world.state.condition == "ready", "waited for the world")
        yield keeper
        tasks.cancel_scope.cancel()
    await anyio.sleep(TLS_GOODBYE)
