"""What is asked and written of RayClusters one request at a time. Keeps nothing; every failure is a KrayneError."""

from collections.abc import Collection, Sequence
from urllib.parse import quote

from kraynd.core.model import ClusterKey, Json
from kraynd.kube.client import KubeClient
from kraynd.kube.refusals import AbsentError
from kraynd.kube.watch import PAGE
from krayne.errors import ClusterNotFoundError, KubeRayNotInstalledError, NamespaceNotFoundError

RAY = "/apis/ray.io/v1"
EVENT_PAGES = 10  # of a busy namespace's events; the API cannot ask for the newest
FEW_UIDS = 10  # objects whose events are asked for one by one; for more, the namespace is paged through once


def no_kuberay(server: str) -> KubeRayNotInstalledError:
    """The server knows no RayClusters."""
    return KubeRayNotInstalledError(
        f"{server} serves no RayClusters: KubeRay is not installed",
        hint="install the KubeRay operator: https://docs.ray.io/en/latest/cluster/kubernetes/getting-started.html",
    )


class RayObjects:
    """The requests, over the client of one API server."""

    def __init__(self, client: KubeClient, server: str) -> None:
        self._client, self._server = client, server

    async def events_for(self, namespace: str, uids: Collection[str]) -> tuple[Json, ...]:
        """The events of these objects. Raises KrayneError."""
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/events"
        if len(uids) > FEW_UIDS:
            found = await self._pages(path, EVENT_PAGES)
            return tuple(one for one in found if (one.get("involvedObject") or {}).get("uid") in uids)
        mine: list[Json] = []
        for uid in uids:
            mine += await self._pages(path, 1, fieldSelector=f"involvedObject.uid={uid}")
        return tuple(mine)

    async def _pages(self, path: str, most: int, **query: str) -> list[Json]:
        found: list[Json] = []
        query["limit"] = str(PAGE)
        for _ in range(most):
            page = await self._client.page(path, **query)
            found += page.get("items") or ()
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                break
            query["continue"] = str(token)
        return found

    async def create(self, manifest: Json) -> Json:
        """Create a RayCluster."""
        namespace = quote(str(manifest["metadata"]["namespace"]), safe="")
        try:
            return await self._client.create(f"{RAY}/namespaces/{namespace}/rayclusters", manifest)
        except AbsentError:
            raise no_kuberay(self._server) from None

    async def patch(self, key: ClusterKey, ops: Sequence[Json]) -> Json:
        """Change a RayCluster by a JSON patch."""
        try:
            return await self._client.patch(_path(key), ops)
        except AbsentError as error:
            if not error.named:
                raise no_kuberay(self._server) from None
            raise ClusterNotFoundError(f"cluster {key} is gone") from error

    async def delete(self, key: ClusterKey, *, uid: str, resource_version: str | None) -> None:
        """Delete exactly this RayCluster; one that is gone already is fine."""
        try:
            await self._client.delete(_path(key), uid=uid, resource_version=resource_version)
        except NamespaceNotFoundError:
            return
        except AbsentError as error:
            if not error.named:
                raise no_kuberay(self._server) from None


def _path(key: ClusterKey) -> str:
    return f"{RAY}/namespaces/{quote(key.namespace, safe='')}/rayclusters/{quote(key.name, safe='')}"
