"""Ray clusters from async Python: the functions of `krayne.api`, awaited, on asyncio or trio; and `watch`.

from krayne.api.aio import watch

async for event in watch():
    print(event.kind, event.name)
"""

from krayne.api.aio.clusters import (
    create_cluster,
    delete_cluster,
    describe_cluster,
    get_cluster,
    get_cluster_services,
    list_clusters,
    scale_cluster,
    wait_until_ready,
)
from krayne.api.aio.tunnels import managed_cluster, open_tunnel
from krayne.api.aio.watching import watch

__all__ = [
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
    "watch",
]
