"""What the methods of the socket API do: declare, scale, delete, adopt, open and close, and what is shown.

The backend of `methods`. Every change of intent is on disk before its call returns; the clusters themselves are left to
the reconciler, whose next pass is awaited so that its outcome can be told at once.
"""

import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any, Protocol

import anyio
import msgspec

from kraynd.changes import Changes, Subscription
from kraynd.connection import Connection
from kraynd.core.adopt import config_of
from kraynd.core.bootstrap import BootstrapSettings, ServiceReport
from kraynd.core.images import ImageChoice, choose_image, ray_version_of, warnings
from kraynd.core.intent import ClusterMemory, Declared, asked_to_adopt, asked_to_create, asked_to_delete, asked_to_prune
from kraynd.core.manifest import Owner, build_manifest, recorded_image
from kraynd.core.model import ClusterKey, ForwardKey, Json, Service, extra_service, service_url
from kraynd.core.times import unix
from kraynd.forwards import ForwardState
from kraynd.local.desired import Desired
from kraynd.local.home import Home
from kraynd.local.memory import MemoryStore
from kraynd.offers import Offer, offers, with_ports, without_ports
from kraynd.reconciler import ClusterState, Reconciler
from kraynd.views import cluster_details, cluster_view, forward_view, service_view
from krayne import messages, paths
from krayne.config import ClusterConfig
from krayne.errors import (
    ClusterAlreadyExistsError,
    ClusterForeignError,
    ClusterNotFoundError,
    ClusterTimeoutError,
    ForbiddenError,
    KubeConnectionError,
    PortTakenError,
    UsageError,
)
from krayne.messages import ClientVersions, ClusterDetails, ClusterView, DaemonStatus, ForwardView, ServiceView

SETTLE_SECONDS = 10.0  # what a create, scale or delete waits for its first write; the API server's own deadline
CONTACT_SECONDS = 3.0  # what the first question to a new daemon may wait for its first contact
FOREIGN = ("foreign", "unowned")


class ForwardStates(Protocol):
    """What is shown of forwards."""

    def states(self) -> Mapping[ForwardKey, ForwardState]:
        """Every forward that is on."""


class Parts(msgspec.Struct, frozen=True):
    """What the operations work on; `refresh` makes the forwards follow a change of intent at once."""

    home: Home
    memory: MemoryStore
    desired: Desired
    reconciler: Reconciler
    connection: Connection
    forwards: ForwardStates
    changes: Changes
    reports: Mapping[ClusterKey, Mapping[str, ServiceReport]]
    owner: Owner
    bootstrap: BootstrapSettings
    beside: ClientVersions
    default_image: ImageChoice
    notes: tuple[str, ...]
    ports: tuple[int, int]
    refresh: Callable[[], None]
    stop: Callable[[], None]


class Operations:
    """`kraynd.methods.Backend` over the daemon's parts."""

    def __init__(self, parts: Parts, *, started: float) -> None:
        self._parts = parts
        self._started = started
        self._informed = False

    # What is shown.

    def clusters(self) -> tuple[ClusterView, ...]:
        """Everything known, declared or observed."""
        found = (self.cluster(key) for key in list(self._parts.reconciler.statuses))
        return tuple(view for view in found if view is not None)

    def cluster(self, key: ClusterKey) -> ClusterView | None:
        """One cluster; None when it is neither declared nor observed."""
        state = self._parts.reconciler.statuses.get(key)
        if state is None or _is_gone(state):
            return None
        return self._view(state)

    def cluster_details(self, key: ClusterKey) -> ClusterDetails:
        """Everything known of one cluster. Raises ClusterNotFoundError."""
        state = self._parts.reconciler.statuses.get(key)
        if state is None:
            raise ClusterNotFoundError(f"there is no cluster {key}", hint="krayne ls -A")
        forwards = [view for view in self.forwards() if (view.namespace, view.cluster) == key]
        return cluster_details(state, self._view(state), forwards, self._parts.reports.get(key, {}))

    def forwards(self) -> tuple[ForwardView, ...]:
        """Every forward that is on."""
        return tuple(self._forward(state) for state in self._parts.forwards.states().values())

    async def contacted(self) -> None:
        """Wait, bounded, for the outcome of the first contact with Kubernetes, and what it means for the clusters."""
        if self._informed:
            return
        with anyio.move_on_after(CONTACT_SECONDS):
            await self._parts.connection.contacted()
            with self._parts.changes.subscribe() as news:
                while self._uninformed():
                    await news.changes()
        self._informed = True

    def _uninformed(self) -> bool:
        """Whether a cluster was not looked at yet since Kubernetes answered."""
        link, statuses = self._parts.connection.link, self._parts.reconciler.statuses
        if link is None or link.world.state.condition != "ready":
            return False
        keys = {*link.world.clusters, *self._parts.desired.snapshot.clusters}
        return any(key not in statuses or statuses[key].status.phase == "unreachable" for key in keys)

    def default_namespace(self) -> str:
        """The context's own namespace."""
        link = self._parts.connection.link
        return (link.world.namespace if link is not None else "") or "default"

    def find(self, name: str, namespace: str | None) -> ClusterKey:
        """Which cluster is meant. Raises ClusterNotFoundError with the nearest names."""
        known = [view for view in self.clusters() if namespace in (None, view.namespace)]
        found = [ClusterKey(view.namespace, view.name) for view in known if view.name == name]
        own = [key for key in found if key.namespace == self.default_namespace()]
        if len(found) == 1 or own:
            return (own or found)[0]
        if found:
            places = ", ".join(key.namespace for key in found)
            raise UsageError(f"there are several clusters {name}, in {places}", hint="name one with -n NAMESPACE")
        near = difflib.get_close_matches(name, [view.name for view in known], n=3)
        where = f" in namespace {namespace}" if namespace else ""
        hint = f"did you mean {', '.join(near)}?" if near else "krayne ls -A shows all"
        raise ClusterNotFoundError(f"there is no cluster {name}{where}", hint=hint)

    def status(self) -> DaemonStatus:
        """The daemon about itself."""
        parts, state = self._parts, self._parts.connection.state
        link = parts.connection.link
        snapshot = parts.desired.snapshot
        problems = tuple(
            messages.FileProblemView(
                source=one.source,
                message=one.message,
                hint=one.hint,
                name=one.key.name if one.key else "",
                namespace=one.key.namespace if one.key else "",
            )
            for one in snapshot.problems
        )
        return DaemonStatus(
            pid=parts.home.pid,
            version=version("kraynd"),
            home=parts.home.path,
            socket=paths.socket_path(),
            world=messages.WorldView(
                context=link.world.context if link else "",
                server=link.world.server if link else "",
                condition=state.condition,
                reason=state.reason,
                hint=state.hint,
                since=state.since or None,
            ),
            kuberay=link.world.kuberay.version if link else "",
            clusters=len(self.clusters()),
            forwards=len(parts.forwards.states()),
            uptime_s=time.monotonic() - self._started,
            frozen=parts.reconciler.frozen,
            problems=problems,
            notes=(*parts.notes, *((parts.memory.problem,) if parts.memory.problem else ())),
        )

    def subscribe(self, since: int | None = None) -> AbstractContextManager[Subscription]:
        """Hear of changes."""
        return self._parts.changes.subscribe(since)

    # What changes.

    async def create(
        self, config: ClusterConfig, client: ClientVersions, *, exist_ok: bool, source: str | None
    ) -> ClusterView:
        """Declare a cluster; `exist_ok` replaces its declaration."""
        key = ClusterKey(config.namespace, config.name)
        self._world()
        state = self._parts.reconciler.statuses.get(key)
        if state is not None and state.ownership in FOREIGN and not self._memory(key).adopted:
            owner = f"kept by {state.owner}" if state.owner else "not made by krayne"
            raise ClusterAlreadyExistsError(
                f"cluster {key} exists and is {owner}", hint=f"krayne adopt {key.name} -n {key.namespace}"
            )
        memory = asked_to_create(self._memory(key))
        if memory.image is None and config.head.image is None:
            chosen = choose_image(ray=client.ray, python=client.python)
            memory = msgspec.structs.replace(memory, image=chosen)
        self._parts.desired.check_free(key, replace=exist_ok)
        # Memory first: a pass between the two would create it with an image of the daemon's choice.
        await self._remember(key, memory)
        await self._parts.desired.write(config, replace=exist_ok, text=source)
        return await self._settled(key)

    def preview(self, config: ClusterConfig, client: ClientVersions) -> dict[str, Any]:
        """The manifest `create` would lead to."""
        key = ClusterKey(config.namespace, config.name)
        memory = self._memory(key)
        if memory.image is None:
            chosen = choose_image(ray=client.ray, python=client.python)
            memory = msgspec.structs.replace(memory, image=chosen)
        return self.build(Declared(key, config, ""), memory, self._live(key))[0]

    def build(self, declared: Declared, memory: ClusterMemory, live: Json | None) -> tuple[Json, ImageChoice]:
        """The manifest of a declared cluster, and the image recorded with it.

        A file's own image first, then what was recorded, then what is installed beside the daemon, then the default.
        """
        parts = self._parts
        image = memory.image or (recorded_image(live) if live else None)
        if declared.config.head.image is not None:
            named = declared.config.head.image
            known = ray_version_of(named) or (image or parts.default_image).ray_version
            image = ImageChoice(named, known, "config")
        if image is None:
            image = choose_image(ray=parts.beside.ray, python=parts.beside.python, origin="daemon")
            image = image or parts.default_image
        manifest = build_manifest(declared.config, image=image, bootstrap=parts.bootstrap, owner=parts.owner)
        return manifest, image

    async def scale(
        self, key: ClusterKey, *, group: str | None, replicas: int | None, minimum: int | None, maximum: int | None
    ) -> ClusterView:
        """Change a worker group's counts."""
        declared = self._declared(key)
        changes = scaled(declared.config, group, replicas, minimum, maximum)
        await self._parts.desired.edit(key, changes)
        return await self._settled(key)

    async def delete(self, key: ClusterKey, *, force: bool) -> ClusterView:
        """Delete a cluster and its declaration."""
        state = self._parts.reconciler.statuses.get(key)
        if state is not None and state.ownership in FOREIGN:
            owner = f"kept by {state.owner}" if state.owner else "not made by krayne"
            raise ClusterForeignError(
                f"cluster {key} is {owner} and is not deleted", hint=f"krayne adopt {key.name} makes it yours first"
            )
        await self._remember(key, asked_to_delete(self._memory(key), force=force, uid=self._uid(key)))
        await self._parts.desired.remove(key)
        return await self._settled(key)

    async def adopt(self, key: ClusterKey) -> ClusterView:
        """Take over a cluster that is there, declaring it as it is unless a file does already."""
        live = self._live(key)
        if live is None:
            raise ClusterNotFoundError(f"cluster {key} does not exist in Kubernetes", hint="krayne ls -A")
        if key not in self._parts.desired.snapshot.clusters:
            await self._parts.desired.write(config_of(live), replace=False)
        await self._remember(key, asked_to_adopt(self._memory(key)))
        return await self._settled(key)

    async def confirm(self, key: ClusterKey) -> ClusterView:
        """Agree to a deletion that waits for a yes."""
        if key in self._parts.desired.snapshot.clusters:
            source = self._parts.desired.snapshot.clusters[key].source
            raise UsageError(
                f"cluster {key} is declared in clusters/{source}: nothing waits for a yes",
                hint=f"krayne delete {key.name}",
            )
        await self._remember(key, asked_to_prune(self._memory(key), uid=self._uid(key)))
        return await self._settled(key)

    async def open_forwards(self, key: ClusterKey, ports: Sequence[tuple[int, int]]) -> tuple[ServiceView, ...]:
        """Open (remote, local) ports, local 0 from the book; no ports: all services."""
        memory = self._memory(key)
        state = self._parts.reconciler.statuses.get(key)
        if not ports and state is not None and state.ownership in FOREIGN:
            live = self._live(key) or {}
            ports = [(one.remote_port, 0) for one in offered_by(live)]
        for remote, local in ports:
            self._choose_port(ForwardKey(key.namespace, key.name, extra_service(remote).name), local)
        await self._remember(key, with_ports(memory, ports))
        return self._services(key)

    async def close_forwards(self, key: ClusterKey, ports: Sequence[int]) -> tuple[ServiceView, ...]:
        """Close forwards to these remote ports; no ports: all."""
        offered = {offer.service.remote_port for offer in self.offers(key)}
        for port in ports:
            if port not in offered:
                raise UsageError(f"{key.name} has no forward to port {port}", hint=f"krayne describe {key.name}")
        await self._remember(key, without_ports(self._memory(key), ports))
        return self._services(key)

    async def reload(self) -> None:
        """Read files and settings again now."""
        self._parts.connection.reload()
        self._parts.reconciler.declare(await self._parts.desired.refresh())

    def stop(self) -> None:
        """Begin to stop; returns at once."""
        self._parts.stop()

    # Forwards that should be there.

    def offers(self, key: ClusterKey) -> tuple[Offer, ...]:
        """A cluster's ports."""
        state = self._parts.reconciler.statuses.get(key)
        return offers(
            key,
            declared=self._parts.desired.snapshot.clusters.get(key),
            ours=state is not None and state.ownership == "ours",
            live=self._live(key),
            memory=self._memory(key),
        )

    def local_port(self, key: ForwardKey) -> int:
        """Its place in the port book; 0 while no world is known."""
        world = self._parts.connection.world_id
        return self._parts.memory.port(world, key, *self._parts.ports) if world else 0

    # Inner parts.

    def _view(self, state: ClusterState) -> ClusterView:
        live = self._live(state.key)
        created = unix((live.get("metadata") or {}).get("creationTimestamp")) if live else None
        declared = self._parts.desired.snapshot.clusters.get(state.key)
        advice = warnings(declared.config) if declared is not None else ()
        return cluster_view(state, self._services(state.key), created=created, advice=advice)

    def _services(self, key: ClusterKey) -> tuple[ServiceView, ...]:
        states = self._parts.forwards.states()
        reports = self._parts.reports.get(key)
        return tuple(
            service_view(offer, self.local_port(offer.key), states.get(offer.key), reports)
            for offer in self.offers(key)
        )

    def _forward(self, state: ForwardState) -> ForwardView:
        service = extra_service(state.remote_port)
        shown = Service(state.key.service, state.remote_port, service.scheme)
        return forward_view(state, service_url(shown, state.key.cluster, state.local_port))

    def _live(self, key: ClusterKey) -> Json | None:
        link = self._parts.connection.link
        return link.world.clusters.get(key) if link is not None else None

    def _uid(self, key: ClusterKey) -> str:
        """The uid of the object the user sees now."""
        return str(((self._live(key) or {}).get("metadata") or {}).get("uid", ""))

    def _memory(self, key: ClusterKey) -> ClusterMemory:
        return self._parts.memory.cluster(self._parts.connection.world_id, key)

    def _world(self) -> str:
        """The world an intent belongs to; without one nothing is written. Raises KubeConnectionError."""
        world, state = self._parts.connection.world_id, self._parts.connection.state
        if not world:
            reason = f"no Kubernetes cluster is chosen: {state.reason}"
            raise KubeConnectionError(reason, hint=state.hint, kind="kubeconfig-invalid")
        return world

    async def _remember(self, key: ClusterKey, memory: ClusterMemory) -> None:
        await self._parts.memory.put_cluster(self._world(), key, memory)
        self._parts.refresh()
        self._parts.changes.publish(key)

    async def _settled(self, key: ClusterKey) -> ClusterView:
        parts = self._parts
        parts.reconciler.declare(parts.desired.snapshot)
        parts.refresh()
        try:
            state = await parts.reconciler.settle(key, SETTLE_SECONDS)
        except ClusterTimeoutError:
            state = parts.reconciler.statuses[key]
        link = parts.connection.link
        if link is not None and link.world.synced and not link.world.sees(key.namespace):
            raise ForbiddenError(
                state.status.reason, hint=f"ask for these rights; krayne delete {key.name} withdraws the declaration"
            )
        return self._view(state)

    def _declared(self, key: ClusterKey) -> Declared:
        declared = self._parts.desired.snapshot.clusters.get(key)
        if declared is None:
            raise ClusterForeignError(
                f"cluster {key} is not declared here, so it is not ours to change",
                hint=f"krayne adopt {key.name} -n {key.namespace}",
            )
        return declared

    def _choose_port(self, key: ForwardKey, local: int) -> None:
        world, memory = self._parts.connection.world_id, self._parts.memory
        if not local or not world:
            return
        holder = memory.holder_of(local, f"{world}/{key}")
        if holder is not None:
            raise PortTakenError(
                f"local port {local} belongs to the forward {holder.partition('/')[2]}", hint="krayne ports"
            )
        memory.set_port(world, key, local)


def scaled(
    config: ClusterConfig, group: str | None, replicas: int | None, minimum: int | None, maximum: int | None
) -> dict[tuple[str | int, ...], str | int]:
    """The changes to a cluster file that scale a group; a count past the maximum raises it. Raises UsageError."""
    names = [one.name for one in config.worker_groups]
    if group is None and len(names) != 1:
        raise UsageError(f"{config.name} has {len(names)} worker groups", hint=f"--group {' or '.join(names)}")
    if group is not None and group not in names:
        raise UsageError(f"{config.name} has no worker group {group}", hint=f"it has {', '.join(names)}")
    if replicas is None and minimum is None and maximum is None:
        raise UsageError("nothing to change", hint=f"krayne scale {config.name} 3")
    index = names.index(group) if group is not None else 0
    old = config.worker_groups[index]
    wanted = replicas if replicas is not None else old.replicas
    low = minimum if minimum is not None else min(old.min_replicas, wanted, *([] if maximum is None else [maximum]))
    high = maximum if maximum is not None else max(old.max_replicas, wanted, low)
    wanted = wanted if replicas is not None else min(max(wanted, low), high)
    new = {"replicas": wanted, "min_replicas": low, "max_replicas": high}
    return {("worker_groups", index, name): value for name, value in new.items() if value != getattr(old, name)}


def offered_by(live: Json) -> tuple[Service, ...]:
    """What a cluster that is not ours offers: the known ports its head names, Ray's own at least."""
    from kraynd.core.model import EVERY_CLUSTER
    from kraynd.offers import services_of_manifest

    return services_of_manifest(live) or EVERY_CLUSTER


def _is_gone(state: ClusterState) -> bool:
    return state.status.phase == "absent" and not state.declared
