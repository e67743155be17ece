"""What the daemon counts, gathered from its parts when somebody asks. Changes nothing and keeps nothing.

Counters begin again with the daemon; those of a forward with the forward, those of the connection with the context.
"""

from collections.abc import Callable

from kraynd.core.metrics import Family, Sample
from kraynd.forwards import ForwardState
from kraynd.parts import Parts
from krayne.messages import DaemonStatus

FORWARDS: tuple[tuple[str, Callable[[ForwardState], float], str], ...] = (
    ("open_connections", lambda one: one.connections, "Connections with a stream into the pod now."),
    ("held_connections", lambda one: one.held, "Connections that wait for a stream now."),
    ("held_total", lambda one: one.waited, "Connections that ever had to wait for a stream."),
    ("connections_total", lambda one: one.total, "Connections ever let in."),
    ("refused_total", lambda one: one.refused, "Connections reset: too many, waited too long, or not to be served."),
    ("foreign_total", lambda one: one.foreign, "Connections of other users, refused."),
    ("blocked_total", lambda one: one.blocked, "Requests of other web pages, blocked by the guard."),
    ("reconnects_total", lambda one: one.reconnects, "Connections given another stream in place of a lost one."),
    ("received_bytes_total", lambda one: one.bytes_out, "Bytes that came from local clients."),
    ("sent_bytes_total", lambda one: one.bytes_in, "Bytes that went to local clients."),
)


def measured(parts: Parts, status: DaemonStatus) -> tuple[Family, ...]:
    """Every family as it is now."""
    link, reconciler = parts.connection.link, parts.reconciler
    return (
        _one("krayne_info", 1, "The daemon's version and API.", version=status.version, api=str(status.api)),
        _one("krayne_uptime_seconds", status.uptime_s, "Seconds since the daemon started."),
        _one("krayne_clusters", status.clusters, "Clusters known."),
        _one("krayne_connected", status.world.condition == "ready", "1 while Kubernetes is reached and watched."),
        _one("krayne_frozen", bool(status.frozen), "1 once nothing is written any more."),
        _one("krayne_file_problems", len(status.problems), "Cluster and settings files that are not followed."),
        _one("krayne_reconcile_passes_total", reconciler.passes, "Looks of the reconciler at a cluster."),
        _one("krayne_reconcile_conflicts_total", reconciler.conflicts, "Writes that met a newer version."),
        _one("krayne_watch_restarts_total", link.world.watch_restarts if link else 0, "Watches opened again."),
        _one(
            "krayne_api_requests_total",
            link.world.transport.requests if link else 0,
            "Requests to the Kubernetes API server.",
        ),
        _one("krayne_connection_tries_total", parts.connection.tries, "Connections built to a Kubernetes cluster."),
        *_forwards(tuple(parts.forwards.states().values())),
    )


def _one(name: str, value: float, about: str, **labels: str) -> Family:
    return Family(name, "counter" if name.endswith("_total") else "gauge", about, (Sample(value, labels),))


def _forwards(states: tuple[ForwardState, ...]) -> list[Family]:
    labels = [
        {"namespace": one.key.namespace, "cluster": one.key.cluster, "service": one.key.service} for one in states
    ]
    return [
        Family(
            f"krayne_forward_{name}",
            "counter" if name.endswith("_total") else "gauge",
            about,
            tuple(Sample(value(one), whose) for one, whose in zip(states, labels, strict=True)),
        )
        for name, value, about in FORWARDS
    ]
