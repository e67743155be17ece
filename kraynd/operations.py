"""What the methods of the socket API do: declare, scale, delete, adopt, open and close.

The backend of `methods`; `showing` is its reading half. Every change of intent is on disk before its call returns; the
clusters themselves are left to the reconciler, whose next pass is awaited so that its outcome can be told at once.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from kraynd.core.adopt import config_of
from kraynd.core.images import ImageChoice, choose_image, ray_version_of
from kraynd.core.intent import ClusterMemory, Declared, asked_to_adopt, asked_to_create, asked_to_delete, asked_to_prune
from kraynd.core.manifest import build_manifest, recorded_image
from kraynd.core.model import EVERY_CLUSTER, ClusterKey, ForwardKey, Json, Service, extra_service
from kraynd.offers import services_of_manifest, with_ports, without_ports
from kraynd.showing import Showing
from krayne.config import ClusterConfig
from krayne.errors import (
    ClusterAlreadyExistsError,
    ClusterForeignError,
    ClusterNotFoundError,
    ClusterTimeoutError,
    ForbiddenError,
    PortTakenError,
    UsageError,
)
from krayne.messages import ClientVersions, ClusterView, ServiceView

SETTLE_SECONDS = 10.0  # what a create, scale or delete waits for its first write; the API server's own deadline
FOREIGN = ("foreign", "unowned")


class Operations(Showing):
    """`kraynd.methods.Backend` over the daemon's parts."""

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
        await self._parts.settings.look()
        self._parts.connection.reload()
        self._parts.reconciler.declare(await self._parts.desired.refresh())
        self._parts.connection.review()

    def stop(self) -> None:
        """Begin to stop; returns at once."""
        self._parts.stop()

    def restart(self) -> None:
        """Begin to restart in place; returns at once."""
        self._parts.restart()

    # Inner parts.

    async def _remember(self, key: ClusterKey, memory: ClusterMemory) -> None:
        await self._parts.memory.put_cluster(self._world(), key, memory)
        self._parts.refresh()
        self._parts.changes.publish(key)

    async def _settled(self, key: ClusterKey) -> ClusterView:
        parts = self._parts
        parts.reconciler.declare(parts.desired.snapshot)
        parts.connection.review()
        parts.refresh()
        await parts.connection.looked_into(key.namespace, SETTLE_SECONDS)
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
    return services_of_manifest(live) or EVERY_CLUSTER
