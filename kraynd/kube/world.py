"""One Kubernetes cluster as one kubeconfig context names it: its RayClusters, their pods, and our writes to them.

Owns the watches and says how the connection stands, in words. Trouble is a state here and never an exception; only the
writes raise.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import anyio
import msgspec

from kraynd.core.backoff import Backoff
from kraynd.core.model import ClusterKey, Json
from kraynd.kube.auth import ApiEndpoint, load_endpoint
from kraynd.kube.client import AbsentError, KubeClient
from kraynd.kube.watch import Reflector
from krayne.config import KrayneSettings
from krayne.errors import (
    ClusterNotFoundError,
    ForbiddenError,
    KrayneError,
    KubeConfigError,
    KubeRayNotInstalledError,
    LoginNeededError,
)

RAY = "/apis/ray.io/v1"
CLUSTER_LABEL = "ray.io/cluster"
KUBERAY_ANNOTATION = "ray.io/kuberay-version"
FIRST_CONTACT = Backoff(base=0.5, cap=30.0)
EVENT_PAGES = 200  # events asked for at most: the newest are what matters
CONDITIONS = {
    "api-unreachable": "unreachable",
    "login-needed": "login-needed",
    "forbidden": "forbidden",
    "kuberay-missing": "kuberay-missing",
    "kubeconfig-invalid": "misconfigured",
}


class WorldState(msgspec.Struct, frozen=True):
    """How the connection stands. `since`: wall seconds."""

    condition: str
    reason: str
    since: float
    hint: str


class KubeRay(msgspec.Struct, frozen=True):
    """What is known of the operator. `version` is a hint, empty when none was seen."""

    installed: bool = False
    version: str = ""


class World:
    """Reads are plain look-ups. `on_change(key)` follows a change of a cluster, `on_change(None)` one of the state."""

    def __init__(
        self,
        settings: KrayneSettings,
        *,
        namespaces: tuple[str, ...] = (),
        on_change: Callable[[ClusterKey | None], None],
        known_worlds: Mapping[str, str] | None = None,
        endpoint: ApiEndpoint | None = None,
    ) -> None:
        self.transport = endpoint or load_endpoint(settings)
        access = self.transport.access
        self.context, self.server, self.namespace = access.context, access.server, access.namespace
        self.fingerprint = self.transport.fingerprint
        self.id: str | None = (known_worlds or {}).get(self.fingerprint)
        self.kuberay = KubeRay()
        self.state = WorldState("connecting", f"connecting to {self.server}", time.time(), "")
        self.limited_to: tuple[str, ...] = ()
        self.clusters: dict[ClusterKey, Json] = {}
        self._pods: dict[ClusterKey, dict[str, Json]] = defaultdict(dict)
        self._client = KubeClient(self.transport)
        self._namespaces = namespaces
        self._on_change = on_change
        self._reflectors: list[Reflector] = []
        self._woken = anyio.Event()

    @property
    def synced(self) -> bool:
        """Whether every watch is up and its cache whole."""
        return bool(self._reflectors) and all(one.health.synced for one in self._reflectors)

    @property
    def watch_restarts(self) -> int:
        """How often a watch was opened again."""
        return sum(one.restarts for one in self._reflectors)

    def pods_of(self, key: ClusterKey) -> tuple[Json, ...]:
        """The pods labelled as this cluster's."""
        return tuple(self._pods.get(key, {}).values())

    def stale(self) -> bool:
        """Whether the kubeconfig changed since this world was built from it."""
        return self.transport.stale()

    def wake(self) -> None:
        """After sleep: check everything at once."""
        self._woken.set()
        for one in self._reflectors:
            one.wake()

    async def run(self) -> None:
        """Contact, watch, and go on through any trouble, until cancelled."""
        try:
            failures = 0
            while True:
                try:
                    await self._contact()
                    async with anyio.create_task_group() as tasks:
                        for one in self._watches(await self._scopes()):
                            self._reflectors.append(one)
                        for one in self._reflectors:
                            tasks.start_soon(one.run)
                except KrayneError as error:
                    self._say(error)
                failures += 1
                with anyio.move_on_after(FIRST_CONTACT.delay(failures, 0.0)):
                    await self._woken.wait()
                    failures = 0
                self._woken = anyio.Event()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
                await self._client.close()

    # Contact.

    async def _contact(self) -> None:
        """Which world this is, and whether KubeRay serves RayClusters. Raises KrayneError."""
        if self.id is None:
            self.id = await self._identify()
            self._on_change(None)
        try:
            served = await self._client.get(RAY)
        except AbsentError:
            raise KubeRayNotInstalledError(
                f"{self.server} serves no RayClusters: KubeRay is not installed",
                hint="install the KubeRay operator: https://docs.ray.io/en/latest/cluster/kubernetes/getting-started.html",
            ) from None
        if not any(one.get("name") == "rayclusters" for one in served.get("resources") or ()):
            raise KubeRayNotInstalledError(f"{self.server} serves ray.io/v1 without RayClusters")
        self.kuberay = KubeRay(True, self.kuberay.version)

    async def _identify(self) -> str:
        try:
            found = await self._client.get("/api/v1/namespaces/kube-system")
            return str(found["metadata"]["uid"])
        except (ForbiddenError, AbsentError):
            return hashlib.sha256(self.fingerprint.encode()).hexdigest()[:32]

    async def _scopes(self) -> tuple[str, ...]:
        """Empty for the whole cluster; the namespaces when RBAC allows no more."""
        if self._namespaces:
            return self._namespaces
        try:
            await self._client.get(f"{RAY}/rayclusters", limit="1")
            await self._client.get("/api/v1/pods", limit="1", labelSelector=CLUSTER_LABEL)
        except ForbiddenError:
            await self._client.get(f"{RAY}/namespaces/{self.namespace}/rayclusters", limit="1")
            return (self.namespace,)
        return ()

    def _watches(self, namespaces: tuple[str, ...]) -> list[Reflector]:
        self.limited_to = namespaces
        made = []
        for part in [f"/namespaces/{one}" for one in namespaces] or [""]:
            made.append(
                Reflector(self._client, f"{RAY}{part}/rayclusters", on_event=self._cluster_seen, on_health=self._health)
            )
            made.append(
                Reflector(
                    self._client, f"/api/v1{part}/pods", selector=CLUSTER_LABEL, on_event=self._pod_seen,
                    on_health=self._health,
                )
            )  # fmt: skip
        return made

    # What the watches say.

    def _cluster_seen(self, item: Json) -> None:
        key = _cluster_key(item, item["metadata"]["name"])
        live = next((one.objects[key] for one in self._reflectors[::2] if key in one.objects), None)
        if live is None:
            self.clusters.pop(key, None)
        else:
            self.clusters[key] = live
        self._on_change(key)

    def _pod_seen(self, item: Json) -> None:
        metadata = item["metadata"]
        key = _cluster_key(item, (metadata.get("labels") or {}).get(CLUSTER_LABEL, ""))
        place = (metadata.get("namespace") or "", metadata["name"])
        live = next((one.objects[place] for one in self._reflectors[1::2] if place in one.objects), None)
        if live is None:
            self._pods[key].pop(metadata["name"], None)
            if not self._pods[key]:
                del self._pods[key]
        else:
            self._pods[key][metadata["name"]] = live
            version = (metadata.get("annotations") or {}).get(KUBERAY_ANNOTATION)
            if version:
                self.kuberay = KubeRay(True, str(version))
        self._on_change(key)

    def _health(self) -> None:
        errors = [one.health.error for one in self._reflectors if one.health.error is not None]
        if errors:
            self._say(errors[0])
        elif self.synced:
            where = f" (namespaces {', '.join(self.limited_to)})" if self.limited_to else ""
            self._set("ready", f"connected to {self.server}{where}", "")

    def _say(self, error: KrayneError) -> None:
        self._set(CONDITIONS.get(error.kind, "unreachable"), error.message, error.hint)

    def _set(self, condition: str, reason: str, hint: str) -> None:
        if (self.state.condition, self.state.reason) != (condition, reason):
            self.state = WorldState(condition, reason, time.time(), hint)
            self._on_change(None)

    # What is asked and written.

    async def events_for(self, namespace: str, uids: Collection[str]) -> tuple[Json, ...]:
        """The events of these objects. Raises KrayneError."""
        found = await self._client.get(f"/api/v1/namespaces/{namespace}/events", limit=str(EVENT_PAGES))
        return tuple(one for one in found.get("items") or () if (one.get("involvedObject") or {}).get("uid") in uids)

    async def create(self, manifest: Json) -> Json:
        """Create a RayCluster."""
        namespace = manifest["metadata"]["namespace"]
        return await self._client.create(f"{RAY}/namespaces/{namespace}/rayclusters", manifest)

    async def patch(self, key: ClusterKey, ops: Sequence[Json]) -> Json:
        """Change a RayCluster by a JSON patch."""
        try:
            return await self._client.patch(_path(key), ops)
        except AbsentError as error:
            raise ClusterNotFoundError(f"cluster {key} is gone") from error

    async def delete(self, key: ClusterKey, *, uid: str, resource_version: str | None) -> None:
        """Delete exactly this RayCluster; one that is gone already is fine."""
        try:
            await self._client.delete(_path(key), uid=uid, resource_version=resource_version)
        except AbsentError:
            return


def _path(key: ClusterKey) -> str:
    return f"{RAY}/namespaces/{key.namespace}/rayclusters/{key.name}"


def _cluster_key(item: Json, name: str) -> ClusterKey:
    return ClusterKey(str(item["metadata"].get("namespace") or "default"), str(name))


__all__ = ["KubeConfigError", "KubeRay", "LoginNeededError", "World", "WorldState"]
