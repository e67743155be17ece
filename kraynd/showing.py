"""What is shown of the daemon: clusters, forwards, itself; and which cluster a user means.

Reads the parts, changes nothing but the port book (a port is given when it is first shown or opened).
"""

import difflib
import time
from contextlib import AbstractContextManager
from importlib.metadata import version

import anyio

from kraynd.changes import Subscription
from kraynd.core.adopt import config_of
from kraynd.core.images import warnings
from kraynd.core.intent import ClusterMemory, remarks
from kraynd.core.metrics import Family
from kraynd.core.model import ClusterKey, ForwardKey, Json, Service, extra_service, service_url
from kraynd.core.times import unix
from kraynd.forwards import ForwardState
from kraynd.metering import measured
from kraynd.offers import Offer, offers
from kraynd.parts import Parts
from kraynd.reconciler import ClusterState
from kraynd.views import cluster_details, cluster_view, forward_view, service_view, ssh_user
from krayne import messages, paths
from krayne.config import ClusterConfig
from krayne.errors import (
    ClusterNotFoundError,
    ConfigValidationError,
    KubeConnectionError,
    UsageError,
)
from krayne.messages import ClusterDetails, ClusterView, DaemonStatus, ForwardView, ServiceView

CONTACT_SECONDS = 3.0  # what the first question to a new daemon may wait for its first contact


class Showing:
    """The reading half of `kraynd.methods.Backend`."""

    def __init__(self, parts: Parts, *, started: float) -> None:
        self._parts = parts
        self._started = started
        self._informed = False

    def clusters(self) -> tuple[ClusterView, ...]:
        """Everything known, declared or observed."""
        found = (self.cluster(key) for key in list(self._parts.reconciler.statuses))
        return tuple(view for view in found if view is not None)

    def cluster(self, key: ClusterKey) -> ClusterView | None:
        """One cluster; None when it is neither declared nor observed."""
        state = self._parts.reconciler.statuses.get(key)
        if state is None or _is_gone(state):
            return None
        return self._view(state)

    def cluster_details(self, key: ClusterKey) -> ClusterDetails:
        """Everything known of one cluster. Raises ClusterNotFoundError."""
        state = self._parts.reconciler.statuses.get(key)
        if state is None:
            raise ClusterNotFoundError(f"there is no cluster {key}", hint="krayne ls -A")
        forwards = [view for view in self.forwards() if (view.namespace, view.cluster) == key]
        return cluster_details(state, self._view(state), forwards, self._parts.reports.get(key, {}), self._config(key))

    def forwards(self) -> tuple[ForwardView, ...]:
        """Every forward that is on."""
        return tuple(self._forward(state) for state in self._parts.forwards.states().values())

    async def contacted(self) -> None:
        """Wait, bounded, for the outcome of the first contact with Kubernetes, and what it means for the clusters."""
        with anyio.move_on_after(CONTACT_SECONDS):
            if await self._parts.connection.caught_up():
                self._informed = False
            if self._informed:
                return
            await self._parts.connection.contacted()
            with self._parts.changes.subscribe() as news:
                while self._uninformed():
                    await news.changes()
        self._informed = True

    def _uninformed(self) -> bool:
        """Whether a cluster was not looked at yet since Kubernetes answered."""
        link, statuses = self._parts.connection.link, self._parts.reconciler.statuses
        if link is None or link.world.state.condition != "ready":
            return False
        keys = {*link.world.clusters, *self._parts.desired.snapshot.clusters}
        return any(key not in statuses or statuses[key].status.phase == "unreachable" for key in keys)

    def default_namespace(self) -> str:
        """The context's own namespace."""
        link = self._parts.connection.link
        return (link.world.namespace if link is not None else "") or "default"

    def find(self, name: str, namespace: str | None) -> ClusterKey:
        """Which cluster is meant. Raises ClusterNotFoundError with the nearest names."""
        known = [view for view in self.clusters() if namespace in (None, view.namespace)]
        found = [ClusterKey(view.namespace, view.name) for view in known if view.name == name]
        own = [key for key in found if key.namespace == self.default_namespace()]
        if len(found) == 1 or own:
            return (own or found)[0]
        if found:
            places = ", ".join(key.namespace for key in found)
            raise UsageError(f"there are several clusters {name}, in {places}", hint="name one with -n NAMESPACE")
        near = difflib.get_close_matches(name, [view.name for view in known], n=3)
        where = f" in namespace {namespace}" if namespace else ""
        hint = f"did you mean {', '.join(near)}?" if near else "krayne ls -A shows all"
        elsewhere = ", ".join(view.namespace for view in self.clusters() if view.name == name)
        hint = f"there is one in namespace {elsewhere}" if elsewhere else hint
        raise ClusterNotFoundError(f"there is no cluster {name}{where}", hint=hint)

    def status(self) -> DaemonStatus:
        """The daemon about itself."""
        parts, state = self._parts, self._parts.connection.state
        link = parts.connection.link
        snapshot = parts.desired.snapshot
        problems = tuple(
            messages.FileProblemView(
                source=one.source,
                message=one.message,
                hint=one.hint,
                name=one.key.name if one.key else "",
                namespace=one.key.namespace if one.key else "",
            )
            for one in snapshot.problems
        )
        return DaemonStatus(
            pid=parts.home.pid,
            version=version("kraynd"),
            home=parts.home.path,
            socket=paths.socket_path(),
            world=messages.WorldView(
                context=link.world.context if link else "",
                server=link.world.server if link else "",
                condition=state.condition,
                reason=state.reason,
                hint=state.hint,
                since=state.since or None,
            ),
            kuberay=link.world.kuberay.version if link else "",
            clusters=len(self.clusters()),
            forwards=len(parts.forwards.states()),
            uptime_s=time.monotonic() - self._started,
            frozen=parts.reconciler.frozen,
            problems=(*((bad,) if (bad := parts.settings.problem) is not None else ()), *problems),
            notes=(*parts.settings.notes, *((parts.memory.problem,) if parts.memory.problem else ())),
        )

    def metrics(self) -> tuple[Family, ...]:
        """What the daemon counts."""
        return measured(self._parts, self.status())

    def subscribe(self, since: int | None = None) -> AbstractContextManager[Subscription]:
        """Hear of changes."""
        return self._parts.changes.subscribe(since)

    # Forwards that should be there.

    def offers(self, key: ClusterKey) -> tuple[Offer, ...]:
        """A cluster's ports."""
        state = self._parts.reconciler.statuses.get(key)
        return offers(
            key,
            declared=self._parts.desired.snapshot.clusters.get(key),
            ours=state is not None and state.ownership == "ours",
            live=self._live(key),
            memory=self._memory(key),
        )

    def local_port(self, key: ForwardKey) -> int:
        """Its place in the port book; 0 while no world is known."""
        world = self._parts.connection.world_id
        return self._parts.memory.port(world, key, *self._parts.ports) if world else 0

    # Inner parts.

    def _view(self, state: ClusterState) -> ClusterView:
        live = self._live(state.key)
        created = unix((live.get("metadata") or {}).get("creationTimestamp")) if live else None
        declared = self._parts.desired.snapshot.clusters.get(state.key)
        advice = warnings(declared.config) if declared is not None else ()
        intent = remarks(self._memory(state.key), state.key.name)
        return cluster_view(state, self._services(state.key), created=created, advice=(*advice, *intent))

    def _config(self, key: ClusterKey) -> ClusterConfig | None:
        """The cluster as declared, else as a file would declare it; None when no file could."""
        declared = self._parts.desired.snapshot.clusters.get(key)
        if declared is not None:
            return declared.config
        live = self._live(key)
        try:
            return None if live is None else config_of(live)
        except ConfigValidationError:
            return None

    def _services(self, key: ClusterKey) -> tuple[ServiceView, ...]:
        states = self._parts.forwards.states()
        reports = self._parts.reports.get(key)
        return tuple(
            service_view(offer, self.local_port(offer.key), states.get(offer.key), reports)
            for offer in self.offers(key)
        )

    def _forward(self, state: ForwardState) -> ForwardView:
        service = extra_service(state.remote_port)
        shown = Service(state.key.service, state.remote_port, service.scheme)
        user = ssh_user(self._parts.reports.get(state.key.cluster_key))
        return forward_view(state, service_url(shown, state.key.cluster, state.local_port, user))

    def _live(self, key: ClusterKey) -> Json | None:
        link = self._parts.connection.link
        return link.world.clusters.get(key) if link is not None else None

    def _uid(self, key: ClusterKey) -> str:
        """The uid of the object the user sees now."""
        return str(((self._live(key) or {}).get("metadata") or {}).get("uid", ""))

    def _memory(self, key: ClusterKey) -> ClusterMemory:
        return self._parts.memory.cluster(self._parts.connection.world_id, key)

    def _world(self) -> str:
        """The world an intent belongs to; without one nothing is written. Raises KubeConnectionError."""
        world, state = self._parts.connection.world_id, self._parts.connection.state
        if not world:
            reason = f"no Kubernetes cluster is chosen: {state.reason}"
            raise KubeConnectionError(reason, hint=state.hint, kind="kubeconfig-invalid")
        return world


def _is_gone(state: ClusterState) -> bool:
    return state.status.phase == "absent" and not state.declared
