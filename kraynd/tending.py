"""Tending declared clusters: suspend and resume, their events, their differences, their files under an editor.

More of `operations`, by the same rules: an intent is on disk before its call returns, and the reconciler carries it
out. Never deletes.
"""

import os
from http import HTTPStatus
from typing import Any

import anyio
import msgspec

from kraynd.core.diff import Change
from kraynd.core.eventlist import event_list
from kraynd.core.guards import OURS
from kraynd.core.model import DASHBOARD, ClusterKey, Json
from kraynd.core.plan import Declared, Inputs, pending_changes
from kraynd.core.pods import head_target, uid_of
from kraynd.core.render import as_data
from kraynd.idling import any_runs
from kraynd.operations import Operations
from kraynd.parts import Parts
from kraynd.podhttp import ask
from kraynd.reconciler import ClusterState
from krayne.config import ClusterConfig, parse_cluster_yaml
from krayne.errors import ConfigValidationError, ConflictError, KrayneError, KubeConnectionError
from krayne.messages import ClientVersions, ClusterSource, ClusterView, Difference, EventList, FieldChange

EVENTS_EVERY = 2.0  # seconds between two looks at the events while somebody waits for new ones
WORKED_THROUGH = frozenset({"client", "ssh", "notebook", "code-server"})  # a dashboard left open is no use
EVENTS_LONGEST = 25.0  # seconds one call waits for news, below every deadline of a reading call


class Tending(Operations):
    """`kraynd.tendmethods.Tended` and `kraynd.idling.Idled` over the daemon's parts."""

    def __init__(self, parts: Parts, *, started: float) -> None:
        super().__init__(parts, started=started)
        self._idle_notes: dict[ClusterKey, str] = {}

    async def suspend(self, key: ClusterKey, why: str) -> ClusterView:
        """Stop a cluster's pods and keep everything else: its file, its ports, its place in the lists."""
        return await self._set_suspended(key, True, why)

    async def resume(self, key: ClusterKey) -> ClusterView:
        """Let a suspended cluster run again."""
        return await self._set_suspended(key, False, "")

    async def _set_suspended(self, key: ClusterKey, suspended: bool, why: str) -> ClusterView:
        self._declared(key)
        memory = msgspec.structs.replace(self._memory(key), suspended=suspended, suspended_why=why)
        await self._remember(key, memory)
        return await self._settled(key)

    async def keep_idle_limit(self, key: ClusterKey, seconds: int) -> ClusterView:
        """Remember after how long without use a cluster is suspended; 0: never."""
        self._declared(key)
        await self._remember(key, msgspec.structs.replace(self._memory(key), idle_seconds=seconds))
        return await self._settled(key)

    # What suspends idle clusters asks for.

    def idle_limits(self) -> dict[ClusterKey, float]:
        """The clusters that run and are to be suspended when idle."""
        states = self._parts.reconciler.statuses
        found = {key: self._memory(key) for key in self._parts.desired.snapshot.clusters}
        return {
            key: float(memory.idle_seconds)
            for key, memory in found.items()
            if memory.idle_seconds and not memory.suspended
            if key in states and states[key].ownership == OURS and states[key].status.phase in ("ready", "degraded")
        }

    def traffic(self, key: ClusterKey) -> tuple[int, int]:
        """Open connections and bytes of the forwards people work through."""
        states = [
            one
            for one in self._parts.forwards.states().values()
            if one.key.cluster_key == key and (one.key.service in WORKED_THROUGH or one.key.service.startswith("port-"))
        ]
        return sum(one.connections + one.held for one in states), sum(one.bytes_in + one.bytes_out for one in states)

    async def jobs_run(self, key: ClusterKey) -> bool | None:
        """Ray's own word, through the tunnel."""
        link = self._parts.connection.link
        target = head_target(link.world.pods_of(key), key) if link is not None else None
        if link is None or target is None or not target.ready:
            return None
        try:
            status, body = await ask(link.pool, target, "/api/jobs/", port=DASHBOARD.remote_port)
        except (KrayneError, TimeoutError):
            return None
        return any_runs(body) if status == HTTPStatus.OK else None

    def note_idle(self, key: ClusterKey, note: str) -> None:
        """Show it in the lists."""
        if self._idle_notes.get(key, "") != note:
            self._idle_notes[key] = note
            self._parts.changes.publish(key)

    def _view(self, state: ClusterState) -> ClusterView:
        view, note = super()._view(state), self._idle_notes.get(state.key)
        return msgspec.structs.replace(view, notes=(*view.notes, note)) if note else view

    async def events(self, key: ClusterKey, known: str, seconds: float) -> EventList:
        """A cluster's events and its pods'; waits while they are still those of the state `known`."""
        found = await self._events(key)
        with anyio.move_on_after(min(seconds, EVENTS_LONGEST)):
            while found.state == known:
                # The daemon watches no events: they are many, and only asked for when somebody looks.
                await anyio.sleep(EVENTS_EVERY)
                found = await self._events(key)
        return found

    async def _events(self, key: ClusterKey) -> EventList:
        link = self._parts.connection.link
        if link is None:
            state = self._parts.connection.state
            raise KubeConnectionError(f"no connection to Kubernetes: {state.reason}", hint=state.hint)
        live = self._live(key)
        pods = link.world.pods_of(key)
        uids = {uid_of(one) for one in (*([live] if live else []), *pods)} | {self._memory(key).uid} - {""}
        return event_list(await link.world.events_for(key.namespace, uids))

    def difference(self, config: ClusterConfig, client: ClientVersions) -> Difference:
        """What declaring this would change in Kubernetes."""
        key = ClusterKey(config.namespace, config.name)
        live = self._live(key)
        if live is None:
            manifest = self.preview(config, client)
            return Difference(name=key.name, namespace=key.namespace, exists=False, manifest=as_data(manifest, "yaml"))
        memory = self._memory(key)
        declared = Declared(key, config, "")
        manifest, image = self.build(declared, memory, live)
        link = self._parts.connection.link
        inputs = Inputs(
            key=key, owner=self._parts.owner, memory=memory, live=live, declared=declared, manifest=manifest,
            image=image, pods=link.world.pods_of(key) if link is not None else (), synced=True,
            world=self._parts.connection.world_id, memory_world=self._parts.connection.world_id,
        )  # fmt: skip
        changes = tuple(_shown(change, live) for change in pending_changes(inputs))
        return Difference(name=key.name, namespace=key.namespace, exists=True, changes=changes)

    def declared_config(self, key: ClusterKey) -> ClusterConfig:
        """What a cluster's file declares. Raises ClusterForeignError, ConfigValidationError for a broken file."""
        declared = self._declared(key)
        if declared.problem:
            raise ConfigValidationError(declared.problem, hint=f"krayne edit {key.name}")
        return declared.config

    async def source(self, key: ClusterKey) -> ClusterSource:
        """The file that declares a cluster."""
        declared = self._declared(key)
        text = await self._parts.desired.read(key)
        path = os.path.join(self._parts.home.clusters, declared.source)
        return ClusterSource(name=key.name, namespace=key.namespace, source=declared.source, path=path, text=text)

    async def edit(self, key: ClusterKey, text: str, was: str) -> ClusterView:
        """Replace the file's text, unless it is wrong, names another cluster, or somebody else changed the file."""
        declared = self._declared(key)
        config = parse_cluster_yaml(text.encode(), source=declared.source)
        if ClusterKey(config.namespace, config.name) != key:
            raise ConfigValidationError(
                f"{declared.source} would declare {config.namespace}/{config.name} instead of {key}",
                hint="a cluster keeps its name and namespace; krayne create makes another one",
            )
        if await self._parts.desired.read(key) != was:
            raise ConflictError(f"clusters/{declared.source} was changed meanwhile", hint=f"krayne edit {key.name}")
        await self._parts.desired.write(config, replace=True, text=text)
        return await self._settled(key)


def _shown(change: Change, live: Json) -> FieldChange:
    was = "" if change.op == "add" else _text(_at(live, change.path))
    return FieldChange(
        field=change.field, op=change.op, live=was, declared="" if change.op == "remove" else _text(change.value)
    )


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _at(thing: Any, path: str) -> Any:
    """The value at a JSON pointer."""
    for step in path.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        thing = thing[int(name)] if isinstance(thing, list) else thing[name]
    return thing
