"""One Kubernetes cluster as one kubeconfig context names it: its RayClusters, their pods, and our writes to them.

Owns the watches and says how the connection stands, in words. Trouble is a state here and never an exception; only the
writes raise.
"""

import hashlib
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

import anyio
import msgspec

from kraynd.core.backoff import Backoff
from kraynd.core.model import ClusterKey, Json
from kraynd.core.pods import is_head
from kraynd.kube.auth import ApiEndpoint, load_endpoint
from kraynd.kube.cache import Change
from kraynd.kube.client import KubeClient
from kraynd.kube.rayobjects import RAY, RayObjects, no_kuberay
from kraynd.kube.refusals import AbsentError, UnreachedError
from kraynd.kube.watch import DEFAULTS as WATCH_DEFAULTS
from kraynd.kube.watch import Reflector, WatchSettings
from krayne.config import KrayneSettings
from krayne.errors import (
    ForbiddenError,
    KrayneError,
    KubeConfigError,
    KubeRayNotInstalledError,
    LoginNeededError,
)

CLUSTER_LABEL = "ray.io/cluster"
KUBERAY_ANNOTATION = "ray.io/kuberay-version"
CONTACT = Backoff(base=0.5, cap=4.0)  # nobody answers: asking costs the server nothing
REFUSED = Backoff(base=1.0, cap=15.0)  # KubeRay may be installed, a right granted, a login done at any time
MOST_DEPARTED = 64  # heads of all clusters, until somebody asks for them
EVERYWHERE = ""  # the scope of a watch over all namespaces
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


class _Scope(NamedTuple):
    """The watches of one namespace, or of all."""

    clusters: Reflector
    pods: Reflector

    @property
    def barred(self) -> bool:
        """Whether RBAC forbids one of them."""
        return any(isinstance(one.health.error, ForbiddenError) for one in self)


class World:
    """Reads are plain look-ups. `on_change(key)` follows a change of a cluster, `on_change(None)` one of the state."""

    def __init__(
        self,
        settings: KrayneSettings,
        *,
        namespaces: tuple[str, ...] = (),
        wanted: Callable[[], Collection[str]] = tuple,
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
        self._pods: dict[ClusterKey, dict[str, Json]] = {}
        self._departed: deque[tuple[ClusterKey, Json]] = deque(maxlen=MOST_DEPARTED)
        self._client = KubeClient(self.transport)
        self._objects = RayObjects(self._client, self.server)
        self._watching, self._backoffs, self._rand = watching, (contact, refused), rand
        self._namespaces = namespaces
        self._wanted = wanted
        self._on_change = on_change
        self._scopes: dict[str, _Scope] = {}
        self._wide_refused = False
        self._woken, self._rescope, self._recovered = anyio.Event(), anyio.Event(), anyio.Event()
        self._doubted = False
        self._was_synced = False

    @property
    def synced(self) -> bool:
        """Whether every watch is up, its cache whole, and this known to be the same world since the last outage."""
        watched = self._watched()
        return bool(watched) and not self._doubted and all(one.health.synced for one in watched)

    @property
    def watch_restarts(self) -> int:
        """How often a watch was opened again."""
        return sum(one.restarts for scope in self._scopes.values() for one in scope)

    def sees(self, namespace: str) -> bool:
        """Whether what is not in the caches is not there. False where RBAC or the settings keep us out."""
        scope = self._scopes.get(EVERYWHERE) or self._scopes.get(namespace)
        return scope is not None and not scope.barred

    def pods_of(self, key: ClusterKey) -> tuple[Json, ...]:
        """The pods labelled as this cluster's."""
        return tuple(self._pods.get(key, {}).values())

    def departed(self, key: ClusterKey) -> tuple[Json, ...]:
        """Its heads that went since this was last asked, as last seen: one can live and die between two looks."""
        found = tuple(pod for home, pod in self._departed if home == key)
        if found:
            self._departed = deque((one for one in self._departed if one[0] != key), MOST_DEPARTED)
        return found

    def stale(self) -> bool:
        """Whether the kubeconfig leads elsewhere by now. New credentials of the same user are taken over and tried."""
        before = self.transport.access
        if self.transport.stale():
            return True
        if self.transport.access is not before:
            self.wake()
        return False

    def wake(self) -> None:
        """After sleep: check everything at once, over new connections."""
        self.transport.retry()
        self._client.renew()
        self._woken.set()
        self._wide_refused = False
        for scope in self._scopes.values():
            for one in scope:
                one.wake()
        if self._narrowed:
            self._rescope.set()  # rights may have been granted meanwhile

    def review(self) -> None:
        """The namespaces wanted may have changed."""
        if self._narrowed and not set(self._wanted()) <= set(self.limited_to):
            self._rescope.set()

    @property
    def _narrowed(self) -> bool:
        """Whether it is RBAC that limits us, and so what is declared says which namespaces are looked into."""
        return bool(self.limited_to) and not self._namespaces

    def looks_into(self, namespace: str) -> bool:
        """Whether a wanted namespace is watched, or known to be barred; any other is none of this question's."""
        if not self._narrowed or namespace not in self._wanted():
            return True
        watches = [one for scope in self._scopes.values() for one in scope]
        return namespace in self._scopes and all(one.health.synced or one.health.error is not None for one in watches)

    async def run(self) -> None:
        """Contact, watch, and go on through any trouble, until cancelled."""
        try:
            while True:
                self._install(await self._first_contact())
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._recognise)
                    for scope in self._scopes.values():
                        for one in scope:
                            tasks.start_soon(one.run)
                    await self._rescope.wait()
                    tasks.cancel_scope.cancel()
                self._rescope = anyio.Event()
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
                return await self._allowed()
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
        self._call_it(await self._identify())
        try:
            served = await self._client.get(RAY)
        except AbsentError:
            raise no_kuberay(self.server) from None
        if not any(one.get("name") == "rayclusters" for one in served.get("resources") or ()):
            raise no_kuberay(self.server)
        self.kuberay = KubeRay(True, self.kuberay.version)

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

    def _call_it(self, identity: str) -> bool:
        """Whether this is another world than we took it for."""
        if identity == self.id:
            return False
        self.id = identity
        self._on_change(None)
        return True

    async def _recognise(self) -> None:
        """After each outage, before the caches count again: another cluster may stand at the same address."""
        while True:
            await self._recovered.wait()
            self._recovered = anyio.Event()
            try:
                replaced = self._call_it(await self._identify())
            except KrayneError as error:
                self._say(error)
                await anyio.sleep(self._backoffs[0].delay(1, self._rand()))
                self._recovered.set()
                continue
            self._doubted = any(one.health.error for one in self._watched())
            if replaced:
                for one in self._watched():
                    one.wake()
            self._health()

    async def _allowed(self) -> tuple[str, ...]:
        """Empty for the whole cluster; the namespaces when RBAC allows no more."""
        if self._namespaces:
            return self._namespaces
        if not self._wide_refused:
            try:
                await self._client.get(f"{RAY}/rayclusters", limit="1")
                await self._client.get("/api/v1/pods", limit="1", labelSelector=CLUSTER_LABEL)
            except ForbiddenError:
                pass
            else:
                return ()
        await self._client.get(f"{RAY}/namespaces/{quote(self.namespace, safe='')}/rayclusters", limit="1")
        # Clusters are declared in these too; one that RBAC forbids does not spoil the others.
        return tuple(dict.fromkeys((self.namespace, *sorted(self._wanted()))))

    # Watches.

    def _install(self, namespaces: tuple[str, ...]) -> None:
        """New watches, which start from what the old ones know."""
        clusters = [item for scope in self._scopes.values() for item in scope.clusters.objects.values()]
        pods = [item for scope in self._scopes.values() for item in scope.pods.objects.values()]
        self.limited_to = namespaces
        self._scopes = {one: self._scope(one, clusters, pods) for one in namespaces or (EVERYWHERE,)}
        # What is out of sight now is neither known to be there nor known to be gone.
        hidden = {key for key in (*self.clusters, *self._pods) if not self._covered(key.namespace)}
        for key in hidden:
            self.clusters.pop(key, None)
            self._pods.pop(key, None)
            self._on_change(key)
        self._note_synced()

    def _scope(self, namespace: str, clusters: Iterable[Json], pods: Iterable[Json]) -> _Scope:
        part = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""

        def reflector(
            path: str, selector: str, known: Iterable[Json], on_changes: Callable[[Sequence[Change]], None]
        ) -> Reflector:
            seed = [one for one in known if namespace in (EVERYWHERE, one["metadata"].get("namespace"))]
            return Reflector(
                self._client, path, selector=selector, seed=seed, on_changes=on_changes, on_health=self._health,
                rand=self._rand, settings=self._watching,
            )  # fmt: skip

        return _Scope(
            reflector(f"{RAY}{part}/rayclusters", "", clusters, self._clusters_changed),
            reflector(f"/api/v1{part}/pods", CLUSTER_LABEL, pods, self._pods_changed),
        )

    def _covered(self, namespace: str) -> bool:
        return EVERYWHERE in self._scopes or namespace in self._scopes

    def _watched(self) -> list[Reflector]:
        """Those that count: all, but the forbidden namespaces' only if every one is."""
        open_ones = [one for scope in self._scopes.values() if not scope.barred for one in scope]
        return open_ones or [one for scope in self._scopes.values() for one in scope]

    # What the watches say.

    def _clusters_changed(self, changes: Sequence[Change]) -> None:
        touched: dict[ClusterKey, None] = {}
        for before, after in changes:
            item = after or before or {}
            key = ClusterKey(str(item["metadata"].get("namespace") or ""), str(item["metadata"]["name"]))
            touched[key] = None
            if after is None:
                self.clusters.pop(key, None)
            else:
                self.clusters[key] = after
        for key in touched:
            self._on_change(key)

    def _pods_changed(self, changes: Sequence[Change]) -> None:
        touched: dict[ClusterKey, None] = {}
        for before, after in changes:
            if before is not None:
                key, name = _home(before)
                touched[key] = None
                pods = self._pods.get(key, {})
                pods.pop(name, None)
                if not pods:
                    self._pods.pop(key, None)
                if after is None and is_head(before):
                    self._departed.append((key, before))
            if after is not None:
                key, name = _home(after)
                touched[key] = None
                self._pods.setdefault(key, {})[name] = after
                if version := (after["metadata"].get("annotations") or {}).get(KUBERAY_ANNOTATION):
                    self.kuberay = KubeRay(True, str(version))
        for key in touched:
            self._on_change(key)

    def _health(self) -> None:
        wide = self._scopes.get(EVERYWHERE)
        if wide is not None and wide.barred:
            self._wide_refused = True
            self._rescope.set()
        errors = [one.health.error for one in self._watched() if one.health.error is not None]
        if errors:
            self._doubted = True
            self._say(errors[0])
        elif self._doubted and all(one.health.synced for one in self._watched()):
            self._recovered.set()
        elif self.synced:
            self.kuberay = KubeRay(True, self.kuberay.version)
            self._set("ready", f"connected to {self.server}{self._limits()}", "")
        self._note_synced()

    def _note_synced(self) -> None:
        """What was held back while the caches were doubted goes on, also when the state's words stay the same."""
        if self.synced != self._was_synced:
            self._was_synced = self.synced
            self._on_change(None)

    def _limits(self) -> str:
        if not self.limited_to:
            return ""
        barred = [one for one in self.limited_to if not self.sees(one)]
        seen = [one for one in self.limited_to if self.sees(one)]
        forbidden = f"; forbidden: {', '.join(barred)}" if barred else ""
        return f" (only namespace{'s' if len(seen) > 1 else ''} {', '.join(seen)}{forbidden})"

    def _say(self, error: KrayneError) -> None:
        if isinstance(error, AbsentError):
            error = no_kuberay(self.server)
        if isinstance(error, KubeRayNotInstalledError):
            self.kuberay = KubeRay()
        self._set(CONDITIONS.get(error.kind, "unreachable"), error.message, error.hint)

    def _set(self, condition: str, reason: str, hint: str) -> None:
        if (self.state.condition, self.state.reason) != (condition, reason):
            self.state = WorldState(condition, reason, time.time(), hint)
            self._on_change(None)

    # What is asked and written.

    @property
    def client(self) -> KubeClient:
        """For what is asked of single pods (`kube.podapi`)."""
        return self._client

    async def events_for(self, namespace: str, uids: Collection[str]) -> tuple[Json, ...]:
        """The events of these objects. Raises KrayneError."""
        return await self._objects.events_for(namespace, uids)

    async def create(self, manifest: Json) -> Json:
        """Create a RayCluster."""
        return await self._objects.create(manifest)

    async def patch(self, key: ClusterKey, ops: Sequence[Json]) -> Json:
        """Change a RayCluster by a JSON patch."""
        return await self._objects.patch(key, ops)

    async def delete(self, key: ClusterKey, *, uid: str, resource_version: str | None) -> None:
        """Delete exactly this RayCluster; one that is gone already is fine."""
        await self._objects.delete(key, uid=uid, resource_version=resource_version)


def _home(pod: Json) -> tuple[ClusterKey, str]:
    """The cluster a pod is labelled with, and its own name."""
    metadata = pod["metadata"]
    cluster = str((metadata.get("labels") or {}).get(CLUSTER_LABEL) or "")
    return ClusterKey(str(metadata.get("namespace") or ""), cluster), str(metadata["name"])


__all__ = ["KubeConfigError", "KubeRay", "LoginNeededError", "World", "WorldState"]
