"""Ray clusters from Python. Every function asks the daemon over its socket, and starts it when there is none.

    from krayne.api import create_cluster, open_tunnel
    from krayne.config import ClusterConfig

    create_cluster(ClusterConfig(name="demo"), wait=True)
    with open_tunnel("demo") as tunnel:
        ray.init(tunnel.client_url)

Times are seconds, as floats. Errors are those of `krayne.errors`: each has `message`, `hint` and a stable `kind`. The
same functions for async programs are in `krayne.api.aio`, with `watch` besides. Nothing is kept between calls: threads
and forked processes may call at once.
"""

from krayne.api.clusters import (
    create_cluster,
    delete_cluster,
    describe_cluster,
    get_cluster,
    get_cluster_services,
    list_clusters,
    scale_cluster,
    wait_until_ready,
)
from krayne.api.tunnels import managed_cluster, open_tunnel
from krayne.api.types import (
    ClusterDetails,
    ClusterEvent,
    ClusterInfo,
    Clusters,
    HeadNodeInfo,
    ManagedClusterResult,
    ServiceInfo,
    TunnelInfo,
    TunnelSession,
    WorkerGroupInfo,
)

__all__ = [
    "ClusterDetails",
    "ClusterEvent",
    "ClusterInfo",
    "Clusters",
    "HeadNodeInfo",
    "ManagedClusterResult",
    "ServiceInfo",
    "TunnelInfo",
    "TunnelSession",
    "WorkerGroupInfo",
    "create_cluster",
    "delete_cluster",
    "describe_cluster",
    "get_cluster",
    "get_cluster_services",
    "list_clusters",
    "managed_cluster",
    "open_tunnel",
    "scale_cluster",
    "wait_until_ready",
]
