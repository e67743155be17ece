"""Tending clusters in memory: what the tests' backend answers to `kraynd.tendmethods`."""

# ruff: noqa: ARG002 - the protocol names them

from typing import Any

import anyio
import msgspec

from kraynd.calls import Call
from kraynd.core.model import ClusterKey
from krayne import messages
from krayne.config import ClusterConfig, dump_cluster_yaml, parse_cluster_yaml
from krayne.errors import ConflictError, KubeConfigError
from krayne.messages import (
    ClientVersions,
    ClusterSource,
    ClusterView,
    Difference,
    EventList,
    EventView,
    FieldChange,
)

NAMES = ("one", "two")


class SetupMemory:
    """`kraynd.setupmethods.SetupMethods` over two contexts in memory."""

    def __init__(self) -> None:
        self.used = "one"
        self.condition = "ready"

    async def daemon_path(self, call: Call, params: messages.PathParams) -> messages.PathTaken:
        return messages.PathTaken(taken=False)

    async def setup_contexts(self, call: Call, params: messages.ContextsParams) -> messages.ContextList:
        found = [messages.ContextView(name=one, server=f"https://{one}", used=one == self.used) for one in NAMES]
        return messages.ContextList(files=(params.kubeconfig or "/k",), contexts=tuple(found))

    async def setup_use(self, call: Call, params: messages.UseParams) -> messages.UseResult:
        if params.context not in NAMES:
            raise KubeConfigError(f"there is no context {params.context} in /k")
        self.used = params.context
        world = messages.WorldView(condition=self.condition, reason="as it is", hint="log in")
        return messages.UseResult(
            kubeconfig=params.kubeconfig, context=params.context, settings="/s/config.yaml", world=world
        )


class TendedMemory:
    """Mixed into MemoryBackend, whose views and log it uses."""

    views: dict[ClusterKey, ClusterView]
    log: list[tuple[Any, ...]]

    def __init__(self) -> None:
        self.setup = SetupMemory()
        self.files: dict[ClusterKey, str] = {}
        self.told: tuple[EventView, ...] = ()
        self.more_told = anyio.Event()
        self.differences: tuple[FieldChange, ...] = ()

    def put(self, view: ClusterView) -> ClusterView:
        raise NotImplementedError

    async def suspend(self, key: ClusterKey, why: str) -> ClusterView:
        self.log.append(("suspend", str(key), why))
        return self.put(msgspec.structs.replace(self.views[key], phase="suspended"))

    async def resume(self, key: ClusterKey) -> ClusterView:
        self.log.append(("resume", str(key)))
        return self.put(msgspec.structs.replace(self.views[key], phase="ready"))

    async def keep_idle_limit(self, key: ClusterKey, seconds: int) -> ClusterView:
        self.log.append(("idle", str(key), seconds))
        return self.views[key]

    async def events(self, key: ClusterKey, known: str, seconds: float) -> EventList:
        if known == str(len(self.told)):
            await self.more_told.wait()
        return EventList(events=self.told, state=str(len(self.told)))

    def difference(self, config: ClusterConfig, client: ClientVersions) -> Difference:
        key = ClusterKey(config.namespace, config.name)
        exists = key in self.views
        manifest = "" if exists else "kind: RayCluster\n"
        return Difference(
            name=key.name, namespace=key.namespace, exists=exists, changes=self.differences, manifest=manifest
        )

    def declared_config(self, key: ClusterKey) -> ClusterConfig:
        return parse_cluster_yaml(self._text(key).encode(), source="file")

    async def source(self, key: ClusterKey) -> ClusterSource:
        return ClusterSource(
            name=key.name, namespace=key.namespace, source="demo.yaml", path="/c/demo.yaml", text=self._text(key)
        )

    async def edit(self, key: ClusterKey, text: str, was: str) -> ClusterView:
        parse_cluster_yaml(text.encode(), source="demo.yaml")
        if was != self._text(key):
            raise ConflictError("clusters/demo.yaml was changed meanwhile")
        self.files[key] = text
        return self.put(self.views[key])

    def _text(self, key: ClusterKey) -> str:
        bare = ClusterConfig(name=key.name, namespace=key.namespace)
        return self.files.setdefault(key, dump_cluster_yaml(bare))
