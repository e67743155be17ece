"""What the SDK's functions return: frozen dataclasses, made from the socket API's views.

Dataclasses, not msgspec structs, so that `dataclasses.asdict` and `replace` work on them. Each shows itself as a table
in a notebook. Times are UTC text (ISO 8601) or unix seconds where the name says so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from krayne.api.tables import facts_table, table
from krayne.errors import PortTakenError

PORT_TAKEN = "port-taken"  # a service's state; connecting would reach another program


@dataclass(frozen=True)
class ServiceInfo:
    """One port of the head. `local_port` is 0 while there is none; `state` is ready, holding, installing, off, ..."""

    name: str
    remote_port: int
    local_port: int
    url: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class ClusterInfo:
    """A cluster at a glance. The URLs are local addresses that stay the same; None for a service that is off.

    `status` is the phase (pending, starting, ready, degraded, suspended, deleting, absent, invalid, unreachable) and
    `reason` says why. `head_ip` is always None: nothing is reached by an address inside Kubernetes.
    """

    name: str
    namespace: str
    status: str
    head_ip: str | None
    dashboard_url: str | None
    client_url: str | None
    notebook_url: str | None
    code_server_url: str | None
    ssh_url: str | None
    num_workers: int
    created_at: str
    reason: str = ""
    workers_ready: int = 0
    declared: bool = False
    owner: str = ""
    image: str = ""
    ray_version: str = ""
    services: tuple[ServiceInfo, ...] = ()
    restart_needed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        rows = [(one.name, one.url, one.state, one.reason) for one in self.services]
        return facts_table(_facts(self)) + table(("SERVICE", "URL", "STATE", ""), rows)


class Clusters(list[ClusterInfo]):
    """A list of clusters that is a table in a notebook."""

    def _repr_html_(self) -> str:
        rows = [
            (one.name, one.namespace, one.status, f"{one.workers_ready}/{one.num_workers}", one.client_url, one.reason)
            for one in self
        ]
        return table(("NAME", "NAMESPACE", "STATUS", "WORKERS", "CLIENT", "REASON"), rows)


@dataclass(frozen=True)
class HeadNodeInfo:
    """What the head asks for, as declared; `pod` and `node` are empty while there is no head pod."""

    cpus: str
    memory: str
    gpus: int
    image: str
    pod: str = ""
    node: str = ""
    ready: bool = False


@dataclass(frozen=True)
class WorkerGroupInfo:
    """One worker group; `cpus`, `memory` and `gpus` are of one worker. `gpu_type` is always None."""

    name: str
    replicas: int
    cpus: str
    memory: str
    gpus: int
    gpu_type: str | None = None
    min_replicas: int = 0
    max_replicas: int = 0
    ready: int = 0
    image: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ClusterDetails:
    """A cluster with its parts. `python_version` is empty when the image's name does not tell it."""

    info: ClusterInfo
    head: HeadNodeInfo
    worker_groups: tuple[WorkerGroupInfo, ...]
    ray_version: str
    python_version: str
    events: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        head = self.head
        rows = [("head", int(head.ready), 1, head.cpus, head.memory, head.gpus, head.image, "")]
        rows += [
            (one.name, one.ready, one.replicas, one.cpus, one.memory, one.gpus, one.image, one.reason)
            for one in self.worker_groups
        ]
        names = ("GROUP", "READY", "WANTED", "CPUS", "MEMORY", "GPUS", "IMAGE", "")
        return self.info._repr_html_() + table(names, rows)


@dataclass(frozen=True)
class TunnelInfo:
    """One local port that leads to a port of the head."""

    service: str
    remote_port: int
    local_port: int
    url: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class TunnelSession:
    """The local ports of one cluster. A URL is None for a service that is not among them."""

    cluster_name: str
    namespace: str
    tunnels: tuple[TunnelInfo, ...]

    def url(self, service: str) -> str | None:
        """The local URL of `service`, for example "dashboard" or "port-9000".

        Raises PortTakenError when another program holds its local port.
        """
        for one in self.tunnels:
            if one.service == service:
                if one.state == PORT_TAKEN:
                    raise PortTakenError(one.reason, hint="end that program; krayne ports shows when the port is back")
                return one.url or None
        return None

    @property
    def dashboard_url(self) -> str | None:
        """Ray's dashboard."""
        return self.url("dashboard")

    @property
    def client_url(self) -> str | None:
        """What `ray.init` takes."""
        return self.url("client")

    @property
    def notebook_url(self) -> str | None:
        """Jupyter."""
        return self.url("notebook")

    @property
    def code_server_url(self) -> str | None:
        """code-server."""
        return self.url("code-server")

    @property
    def ssh_url(self) -> str | None:
        """ssh, as a URL."""
        return self.url("ssh")

    def _repr_html_(self) -> str:
        rows = [(one.service, one.url, one.remote_port, one.state, one.reason) for one in self.tunnels]
        return table(("SERVICE", "URL", "REMOTE", "STATE", ""), rows)


@dataclass(frozen=True)
class ManagedClusterResult:
    """What `managed_cluster` gives: the cluster, and its local ports (None with tunnel=False)."""

    cluster: ClusterInfo
    tunnel: TunnelSession | None


@dataclass(frozen=True)
class ClusterEvent:
    """One change seen by `watch`. `kind` is changed, removed (`cluster` is None), or synced: all that is
    there has been told. `revision` is what `since` takes.
    """

    kind: str
    revision: int
    name: str = ""
    namespace: str = ""
    cluster: ClusterInfo | None = None


# From the socket API's views. Unknown fields of a newer daemon are ignored.


def cluster_info(view: Mapping[str, Any]) -> ClusterInfo:
    """A `ClusterView` as a ClusterInfo."""
    services = tuple(service_info(one) for one in view["services"])
    urls = {one.name: one.url or None for one in services}
    workers = view["workers"]
    return ClusterInfo(
        name=view["name"],
        namespace=view["namespace"],
        status=view["phase"],
        head_ip=None,
        dashboard_url=urls.get("dashboard"),
        client_url=urls.get("client"),
        notebook_url=urls.get("notebook"),
        code_server_url=urls.get("code-server"),
        ssh_url=urls.get("ssh"),
        num_workers=workers["desired"],
        created_at=_utc(view.get("created")),
        reason=view["reason"],
        workers_ready=workers["ready"],
        declared=view["declared"],
        owner=view["owner"],
        image=view["image"],
        ray_version=view["ray_version"],
        services=services,
        restart_needed=tuple(view["restart_needed"]),
        notes=tuple(view["notes"]),
    )


def service_info(view: Mapping[str, Any]) -> ServiceInfo:
    """A `ServiceView` as a ServiceInfo."""
    names = ("name", "remote_port", "local_port", "url", "state", "reason")
    return ServiceInfo(*(view[name] for name in names))


def cluster_details(view: Mapping[str, Any]) -> ClusterDetails:
    """The API's `ClusterDetails` as ours."""
    info, head = cluster_info(view), view.get("head") or {}
    asks = view.get("head_asks") or {}
    return ClusterDetails(
        info=info,
        head=HeadNodeInfo(
            **_resources(asks, info.image),
            pod=head.get("pod", ""),
            node=head.get("node", ""),
            ready=head.get("ready", False),
        ),
        worker_groups=tuple(_group(one, info.image) for one in view["groups"]),
        ray_version=info.ray_version,
        python_version=_python_of(asks.get("image") or info.image),
        events=tuple(view["events"]),
    )


def tunnel_session(view: Mapping[str, Any], ports: Iterable[int] = ()) -> TunnelSession:
    """A cluster's open ports as a session; of `ports` alone where some are given."""
    chosen = set(ports)
    return TunnelSession(
        view["name"],
        view["namespace"],
        tuple(
            TunnelInfo(one.name, one.remote_port, one.local_port, one.url, one.state, one.reason)
            for one in map(service_info, view["services"])
            if one.state != "off" and (not chosen or one.remote_port in chosen)
        ),
    )


def _group(view: Mapping[str, Any], image: str) -> WorkerGroupInfo:
    return WorkerGroupInfo(
        name=view["name"],
        replicas=view["desired"],
        **_resources(view.get("each") or {}, image),
        min_replicas=view["min"],
        max_replicas=view["max"],
        ready=view["ready"],
        reason=view["reason"],
    )


def _resources(view: Mapping[str, Any], image: str) -> dict[str, Any]:
    return {
        "cpus": view.get("cpus", ""),
        "memory": view.get("memory", ""),
        "gpus": view.get("gpus", 0),
        "image": view.get("image") or image,
    }


def _facts(info: ClusterInfo) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [
        ("name", f"{info.name} in {info.namespace}"),
        ("status", f"{info.status}: {info.reason}" if info.reason else info.status),
        ("workers", f"{info.workers_ready}/{info.num_workers}"),
        ("image", info.image),
        ("created", info.created_at),
    ]
    return [fact for fact in found if fact[1]]


def _utc(seconds: float | None) -> str:
    if seconds is None:
        return ""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _python_of(image: str) -> str:
    """rayproject/ray:2.60.0-py311-gpu -> 3.11."""
    import re

    found = re.search(r"-py(3)(\d{1,2})(?:-|$)", image.rpartition(":")[2])
    return ".".join(found.groups()) if found else ""
