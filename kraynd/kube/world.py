"""One Kubernetes cluster as one kubeconfig context names it: its RayClusters, their pods, and our writes to them.

Owns the watches and says how the connection stands, in words. Trouble is a state here and never an exception; only the
writes raise.
"""

import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import anyio
import msgspec

from kraynd.core.backoff import Backoff
from kraynd.core.model import ClusterKey, Json
from kraynd.kube.auth import ApiEndpoint, load_endpoint
from kraynd.kube.client import AbsentError, KubeClient, UnreachedError
from kraynd.kube.watch import DEFAULTS as WATCH_DEFAULTS
from kraynd.kube.watch import PAGE, ObjectKey, Reflector, WatchSettings
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
CONTACT = Backoff(base=0.5, cap=4.0)  # nobody answers: asking costs the server nothing
REFUSED = Backoff(base=1.0, cap=15.0)  # KubeRay may be installed, a right granted, a login done at any time
EVENT_PAGES = 10  # of a busy namespace's events; the API cannot ask for the newest
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
        watching: WatchSettings = WATCH_DEFAULTS,
        contact: Backoff = CONTACT,
        refused: Backoff = REFUSED,
        rand: Callable[[], float] = random.random,
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
        self._homes: dict[ObjectKey, ClusterKey] = {}
        self._client = KubeClient(self.transport)
        self._watching, self._backoffs, self._rand = watching, (contact, refused), rand
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
            self._reflectors = self._watches(await self._first_contact())
            async with anyio.create_task_group() as tasks:
                for one in self._reflectors:
                    tasks.start_soon(one.run)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
                await self._client.close()

    # Contact.

    async def _first_contact(self) -> tuple[str, ...]:
        """Try until it succeeds; returns the namespaces to watch, none for all."""
        failures = 0
        while True:
            try:
                await self._contact()
                return await self._scopes()
            except KrayneError as error:
                self._say(error)
                unreached, refused = self._backoffs
                curve = unreached if isinstance(error, UnreachedError) else refused
            failures += 1
            with anyio.move_on_after(curve.delay(failures, self._rand())):
                await self._woken.wait()
                failures = 0
            self._woken = anyio.Event()

    async def _contact(self) -> None:
        """Which world this is, and whether KubeRay serves RayClusters. Raises KrayneError."""
        found = await self._identify()
        if found != self.id:
            self.id = found
            self._on_change(None)
        try:
            served = await self._client.get(RAY)
        except AbsentError:
            raise self._no_kuberay() from None
        if not any(one.get("name") == "rayclusters" for one in served.get("resources") or ()):
            raise self._no_kuberay()
        self.kuberay = KubeRay(True, self.kuberay.version)

    def _no_kuberay(self) -> KubeRayNotInstalledError:
        return KubeRayNotInstalledError(
            f"{self.server} serves no RayClusters: KubeRay is not installed",
            hint="install the KubeRay operator: https://docs.ray.io/en/latest/cluster/kubernetes/getting-started.html",
        )

    async def _identify(self) -> str:
        """The known id is asked for again: another cluster may stand at the same address with the same CA."""
        makeshift = hashlib.sha256(self.fingerprint.encode()).hexdigest()[:32]
        try:
            found = await self._client.get("/api/v1/namespaces/kube-system")
            uid = str((found.get("metadata") or {}).get("uid") or "")
        except (ForbiddenError, AbsentError):
            uid = ""
        # What memory knows under the makeshift id stays there, though the right to read the real one has come.
        return makeshift if self.id == makeshift else uid or self.id or makeshift

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
        """Two for each namespace, of RayClusters and of pods, in this order."""
        self.limited_to = namespaces
        made = []
        for part in [f"/namespaces/{one}" for one in namespaces] or [""]:
            for path, selector, seen in (
                (f"{RAY}{part}/rayclusters", "", self._cluster_seen),
                (f"/api/v1{part}/pods", CLUSTER_LABEL, self._pod_seen),
            ):
                made.append(
                    Reflector(
                        self._client, path, selector=selector, on_event=seen, on_health=self._health, rand=self._rand,
                        settings=self._watching,
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
        place = (str(metadata.get("namespace") or ""), str(metadata["name"]))
        live = next((one.objects[place] for one in self._reflectors[1::2] if place in one.objects), None)
        key = (
            None if live is None else _cluster_key(live, (live["metadata"].get("labels") or {}).get(CLUSTER_LABEL, ""))
        )
        was = self._homes.pop(place, None)
        if was is not None and was != key:
            self._pods[was].pop(place[1], None)
            if not self._pods[was]:
                del self._pods[was]
            self._on_change(was)
        if key is not None and live is not None:
            self._homes[place] = key
            self._pods[key][place[1]] = live
            version = (live["metadata"].get("annotations") or {}).get(KUBERAY_ANNOTATION)
            if version:
                self.kuberay = KubeRay(True, str(version))
            self._on_change(key)

    def _health(self) -> None:
        errors = [one.health.error for one in self._reflectors if one.health.error is not None]
        if errors:
            self._say(errors[0])
        elif self.synced:
            where = f" (namespaces {', '.join(self.limited_to)})" if self.limited_to else ""
            self.kuberay = KubeRay(True, self.kuberay.version)
            self._set("ready", f"connected to {self.server}{where}", "")

    def _say(self, error: KrayneError) -> None:
        if isinstance(error, AbsentError):
            error = self._no_kuberay()
        if isinstance(error, KubeRayNotInstalledError):
            self.kuberay = KubeRay()
        self._set(CONDITIONS.get(error.kind, "unreachable"), error.message, error.hint)

    def _set(self, condition: str, reason: str, hint: str) -> None:
        if (self.state.condition, self.state.reason) != (condition, reason):
            self.state = WorldState(condition, reason, time.time(), hint)
            self._on_change(None)

    # What is asked and written.

    async def events_for(self, namespace: str, uids: Collection[str]) -> tuple[Json, ...]:
        """The events of these objects. Raises KrayneError."""
        path, query, found = f"/api/v1/namespaces/{namespace}/events", {"limit": str(PAGE)}, list[Json]()
        for _ in range(EVENT_PAGES):
            page = await self._client.get(path, **query)
            items = page.get("items") or ()
            found += [one for one in items if (one.get("involvedObject") or {}).get("uid") in uids]
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                break
            query["continue"] = str(token)
        return tuple(found)

    async def create(self, manifest: Json) -> Json:
        """Create a RayCluster."""
        namespace = manifest["metadata"]["namespace"]
        try:
            return await self._client.create(f"{RAY}/namespaces/{namespace}/rayclusters", manifest)
        except AbsentError:
            raise self._no_kuberay() from None

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
