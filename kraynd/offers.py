"""Which ports a cluster offers, and which of them its user wants: the set of forwards that should be on. Pure."""

from collections.abc import Iterable

import msgspec

from kraynd.core.intent import ClusterMemory, Declared
from kraynd.core.model import KNOWN_SERVICES, ClusterKey, ForwardKey, Json, Service, extra_service, services_of


class Offer(msgspec.Struct, frozen=True):
    """One port of a cluster's head. `on`: whether its forward should be there."""

    key: ForwardKey
    service: Service
    on: bool


def offers(
    key: ClusterKey, *, declared: Declared | None, ours: bool, live: Json | None, memory: ClusterMemory
) -> tuple[Offer, ...]:
    """The cluster's ports, in the order they are shown.

    Ours are on unless their user closed them; another's cluster offers only what was opened by name.
    """
    if declared is not None:
        services = services_of(declared.config)
    elif ours:
        services = services_of_manifest(live or memory.last_applied)
    else:
        services = ()
    extra = [extra_service(remote) for remote, _ in memory.extra_ports]
    chosen = [*services, *(one for one in extra if one not in services)]
    return tuple(
        Offer(
            ForwardKey(key.namespace, key.name, one.name),
            one,
            not memory.forwards_off and one.name not in memory.off_services,
        )
        for one in chosen
    )


def services_of_manifest(manifest: Json) -> tuple[Service, ...]:
    """The known services whose ports a RayCluster's head names."""
    spec = manifest.get("spec") or {}
    template = (spec.get("headGroupSpec") or {}).get("template") or {}
    containers = (template.get("spec") or {}).get("containers") or ()
    ports = {port.get("containerPort") for container in containers for port in container.get("ports") or ()}
    return tuple(one for one in KNOWN_SERVICES if one.remote_port in ports)


def with_ports(memory: ClusterMemory, ports: Iterable[tuple[int, int]]) -> ClusterMemory:
    """The user's `tun-open`: everything on again, and these (remote, local) ports too."""
    extra = dict(memory.extra_ports)
    extra.update(ports)
    return msgspec.structs.replace(
        memory, forwards_off=False, off_services=(), extra_ports=tuple(sorted(extra.items()))
    )


def without_ports(memory: ClusterMemory, ports: Iterable[int]) -> ClusterMemory:
    """The user's `tun-close`: these remote ports, or with none all of them."""
    closed = set(ports)
    if not closed:
        return msgspec.structs.replace(memory, forwards_off=True)
    names = {extra_service(port).name for port in closed}
    return msgspec.structs.replace(memory, off_services=tuple(sorted({*memory.off_services, *names})))
