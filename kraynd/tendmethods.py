"""The handlers of tending clusters, as a group of `methods.Methods`. Reads parameters, decides nothing."""

# ruff: noqa: ARG002 - handlers have one signature, whether they need all of it or not

from typing import Protocol

from kraynd.calls import Call
from kraynd.core.model import ClusterKey
from krayne import messages
from krayne.config import ClusterConfig, parse_cluster_yaml
from krayne.errors import UsageError
from krayne.messages import ClientVersions, ClusterSource, ClusterView, Difference, EventList

BY_HAND = "suspended by krayne suspend"
SHORTEST_IDLE = 60  # seconds; less would suspend a cluster between two looks at it


class Tended(Protocol):
    """What tending needs of the daemon."""

    def find(self, name: str, namespace: str | None) -> ClusterKey:
        """Which cluster is meant."""

    async def suspend(self, key: ClusterKey, why: str) -> ClusterView:
        """Stop its pods."""

    async def resume(self, key: ClusterKey) -> ClusterView:
        """Let it run again."""

    async def keep_idle_limit(self, key: ClusterKey, seconds: int) -> ClusterView:
        """Remember after how long without use it is suspended."""

    async def events(self, key: ClusterKey, known: str, seconds: float) -> EventList:
        """Its events."""

    def difference(self, config: ClusterConfig, client: ClientVersions) -> Difference:
        """What declaring this would change."""

    def declared_config(self, key: ClusterKey) -> ClusterConfig:
        """What its file declares."""

    async def source(self, key: ClusterKey) -> ClusterSource:
        """Its file."""

    async def edit(self, key: ClusterKey, text: str, was: str) -> ClusterView:
        """Replace its file's text."""


class TendMethods:
    """`cluster.suspend` and the like."""

    def __init__(self, backend: Tended) -> None:
        self._backend = backend

    async def cluster_suspend(self, call: Call, params: messages.ClusterParams) -> ClusterView:
        """Stop its pods."""
        return await self._backend.suspend(self._key(params), BY_HAND)

    async def cluster_resume(self, call: Call, params: messages.ClusterParams) -> ClusterView:
        """Let it run again."""
        return await self._backend.resume(self._key(params))

    async def cluster_idle(self, call: Call, params: messages.IdleParams) -> ClusterView:
        """Suspend it when it is idle for so long."""
        if params.seconds and params.seconds < SHORTEST_IDLE:
            raise UsageError(f"{params.seconds} seconds are too short", hint=f"at least {SHORTEST_IDLE}s, or off")
        return await self._backend.keep_idle_limit(self._key(params), params.seconds)

    async def cluster_events(self, call: Call, params: messages.EventsParams) -> EventList:
        """Its events."""
        return await self._backend.events(self._key(params), params.known, params.wait_ms / 1000)

    async def cluster_diff(self, call: Call, params: messages.DiffParams) -> Difference:
        """Declared against live."""
        if not params.text:
            if not params.name:
                raise UsageError("a name or a file is needed", hint="krayne diff demo, or krayne diff -f demo.yaml")
            key = self._backend.find(params.name, params.namespace)
            return self._backend.difference(self._backend.declared_config(key), params.client)
        overrides = {"namespace": params.namespace} if params.namespace else None
        config = parse_cluster_yaml(params.text.encode(), source=params.source or "the file", overrides=overrides)
        return self._backend.difference(config, params.client)

    async def cluster_source(self, call: Call, params: messages.GetParams) -> ClusterSource:
        """Its file."""
        return await self._backend.source(self._key(params))

    async def cluster_edit(self, call: Call, params: messages.EditParams) -> ClusterView:
        """Replace its file's text."""
        return await self._backend.edit(self._key(params), params.text, params.was)

    def _key(self, params: messages.GetParams) -> ClusterKey:
        return self._backend.find(params.name, params.namespace)
