"""Local ports, and whole clusters, that last as long as a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from krayne.api import plans
from krayne.api.calling import carry_out
from krayne.api.clusters import create_cluster, delete_cluster, wait_until_ready
from krayne.api.types import ClusterInfo, ManagedClusterResult, TunnelSession
from krayne.errors import ClusterNotFoundError

if TYPE_CHECKING:
    from krayne.config import ClusterConfig


@contextmanager
def open_tunnel(
    name: str,
    namespace: str | None = "default",
    *,
    ports: Iterable[int | str] = (),
    timeout: float = 30.0,
    client: None = None,
    kubeconfig: str | None = None,
) -> Iterator[TunnelSession]:
    """Local ports that lead to a cluster's services while the block lasts.

    The ports of your own clusters are always open, so nothing is made; what this call had to open (another's cluster, a
    port of your own, a service that was closed) is closed at the end. A connection made before the cluster is there is
    held by the daemon until it is.

    Args:
        name: the cluster.
        namespace: its Kubernetes namespace; None finds it by its name in any.
        ports: remote ports, or services by their names; all services where none are given.
        timeout: how long the local ports may take to open, in seconds.
        client, kubeconfig: as for `get_cluster`.

    Raises:
        ClusterNotFoundError: no such cluster in the namespace.
        ClusterTimeoutError: the ports did not open in time.
        PortTakenError: on reading the URL of a service whose local port another program holds.
        UsageError: the cluster has no such service.

    Example:
        >>> from krayne.api import open_tunnel
        >>> with open_tunnel("demo") as tunnel:
        ...    print(tunnel.client_url)
        ray://127.0.0.1:15002
    """
    session, ours = carry_out(plans.open_ports(name, namespace, ports, timeout, client, kubeconfig))
    try:
        yield session
    finally:
        carry_out(plans.close_ports(session, ours))


@contextmanager
def managed_cluster(
    config: ClusterConfig,
    *,
    client: None = None,
    kubeconfig: str | None = None,
    timeout: float = 300.0,
    tunnel: bool = True,
    progress: Callable[[ClusterInfo], None] | None = None,
) -> Iterator[ManagedClusterResult]:
    """A cluster that is there, ready, while the block lasts, and is deleted at its end.

    Args:
        config: the cluster.
        client, kubeconfig: as for `get_cluster`.
        timeout: how long it may take to become ready, in seconds; it is deleted when that is over.
        tunnel: open its local ports too.
        progress: as for `create_cluster`.

    Raises:
        What `create_cluster` and `open_tunnel` raise. A cluster that was there before is never deleted.

    Example:
        >>> from krayne.api import managed_cluster
        >>> from krayne.config import ClusterConfig
        >>> with managed_cluster(ClusterConfig(name="brief")) as managed:
        ...    print(managed.cluster.status)
        ready
    """
    info = create_cluster(config, client=client, kubeconfig=kubeconfig)
    try:
        info = wait_until_ready(info.name, info.namespace, timeout=timeout, progress=progress)
        if tunnel:
            with open_tunnel(info.name, info.namespace) as session:
                yield ManagedClusterResult(info, session)
        else:
            yield ManagedClusterResult(info, None)
    finally:
        with suppress(ClusterNotFoundError):
            delete_cluster(info.name, info.namespace)
