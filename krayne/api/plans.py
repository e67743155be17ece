"""What each function of the SDK asks of the daemon, as generators: they yield questions and return results.

No I/O, so that the blocking and the async functions are the same plan with another driver (`calling`, `aio.calling`).
A driver sends each `Ask`, gives back the answer, and throws the daemon's errors into the plan.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from krayne.api import types
from krayne.api.asking import Ask, Json, LostError, Plan
from krayne.api.types import ClusterInfo
from krayne.api.world import check_reach, connected
from krayne.errors import ClusterNotFoundError, KrayneError, UsageError
from krayne_client.connection import new_token

if TYPE_CHECKING:
    from krayne.config import ClusterConfig

GRACE_SECONDS = 30.0  # the daemon keeps a wait's deadline; this is for its last words
LONGEST_WAIT = 86_400.0  # seconds: the daemon's own limit
# Kubernetes said no to a new cluster, and will again: what the failed create declared is withdrawn.
REFUSALS = frozenset({"namespace-not-found", "rejected"})

Told = Callable[[ClusterInfo], None] | None
Ports = Iterable[int | str]


@contextmanager
def about(name: str, namespace: str | None, **more: Any) -> Iterator[None]:
    """Errors say which cluster they are about."""
    try:
        yield
    except KrayneError as error:
        error.data = {"name": name, "namespace": namespace or "", **more, **error.data}
        raise


def which(name: str, namespace: str | None) -> Json:
    """A cluster's parameters; a namespace of None finds it by its name."""
    return {"name": name, "namespace": namespace}


def view_of(name: str, namespace: str | None) -> Plan[Json]:
    """Everything known of one cluster. Raises ClusterNotFoundError, or why that cannot be known."""
    with about(name, namespace):
        try:
            found: Json = yield Ask("cluster.get", which(name, namespace), again=True)
        except ClusterNotFoundError:
            yield from connected()
            raise
    return found


def get(name: str, namespace: str | None, client: object, kubeconfig: object) -> Plan[ClusterInfo]:
    """`get_cluster`."""
    yield from check_reach(client, kubeconfig)
    return types.cluster_info((yield from view_of(name, namespace)))


def describe(name: str, namespace: str | None, client: object, kubeconfig: object) -> Plan[types.ClusterDetails]:
    """`describe_cluster`."""
    yield from check_reach(client, kubeconfig)
    return types.cluster_details((yield from view_of(name, namespace)))


def services(name: str, namespace: str | None, client: object, kubeconfig: object) -> Plan[list[str]]:
    """`get_cluster_services`."""
    info = yield from get(name, namespace, client, kubeconfig)
    return [one.name for one in info.services]


def listed(namespace: str | None, all_namespaces: bool, client: object, kubeconfig: object) -> Plan[types.Clusters]:
    """`list_clusters`."""
    yield from check_reach(client, kubeconfig)
    params = {"namespace": None if all_namespaces else namespace, "all_namespaces": all_namespaces}
    found = (yield Ask("cluster.list", params, again=True))["clusters"]
    if not found:  # nothing, or nothing known?
        yield from connected()
    return types.Clusters(map(types.cluster_info, found))


def create(
    config: "ClusterConfig",
    *,
    wait: bool,
    timeout: float,
    exist_ok: bool,
    told: Told,
    client: object,
    kubeconfig: object,
) -> Plan[ClusterInfo]:
    """`create_cluster`."""
    from krayne.config import dump_cluster_yaml
    from krayne_client.commands.declaring import client_versions

    yield from check_reach(client, kubeconfig)
    yield from connected()
    name, namespace = config.name, config.namespace
    params = {
        **which(name, namespace),
        "text": dump_cluster_yaml(config),
        "client": client_versions(),
        "exist_ok": exist_ok,
        "token": new_token(),
    }
    with about(name, namespace):
        try:
            view = (yield Ask("cluster.create", params))["cluster"]
        except KrayneError as error:
            if error.kind in REFUSALS and not exist_ok:
                yield from withdraw(name, namespace)
            raise
    if wait:
        return (yield from ready(name, namespace, timeout, told))
    return types.cluster_info(view)


def withdraw(name: str, namespace: str) -> Plan[None]:
    """Declare it no more, unless there is such a cluster in Kubernetes."""
    try:
        view = yield Ask("cluster.get", which(name, namespace))
        if view["created"] is None:
            yield Ask("cluster.delete", {**which(name, namespace), "token": new_token()})
    except ClusterNotFoundError:
        return


def ready(name: str, namespace: str | None, timeout: float, told: Told) -> Plan[ClusterInfo]:
    """Wait until it is ready. Raises ClusterTimeoutError."""
    view = yield from waited(name, namespace, "ready", timeout, told)
    assert view is not None
    info = types.cluster_info(view)
    if told is not None:
        told(info)
    return info


def wait_ready(
    name: str, namespace: str | None, timeout: float, told: Told, client: object, kubeconfig: object
) -> Plan[ClusterInfo]:
    """`wait_until_ready`."""
    yield from check_reach(client, kubeconfig)
    return (yield from ready(name, namespace, timeout, told))


def waited(name: str, namespace: str | None, condition: str, timeout: float, told: Told = None) -> Plan[Json | None]:
    """The cluster once `condition` holds, also over restarts of the daemon. Raises ClusterTimeoutError and others."""
    if math.isnan(timeout) or timeout < 0:
        raise UsageError(f"timeout={timeout} is not a time in seconds")
    until = time.monotonic() + min(timeout, LONGEST_WAIT)

    def progress(view: Json) -> None:
        if told is not None:
            told(types.cluster_info(view))

    with about(name, namespace, timeout=float(timeout)):
        while True:
            left = max(0.0, until - time.monotonic())
            params = {**which(name, namespace), "condition": condition, "timeout_ms": int(left * 1000)}
            try:
                found = yield Ask("cluster.wait", params, left + GRACE_SECONDS, progress)
            except LostError:
                if left <= 0:
                    raise
                continue  # a restarted daemon knows the cluster too
            view: Json | None = found["cluster"]
            return view


def scale(
    name: str,
    namespace: str | None,
    group: str | None,
    counts: tuple[int | None, int | None, int | None],
    client: object,
    kubeconfig: object,
) -> Plan[ClusterInfo]:
    """`scale_cluster`; `counts` are replicas, least and most."""
    yield from check_reach(client, kubeconfig)
    wanted = dict(zip(("replicas", "minimum", "maximum"), counts, strict=True))
    with about(name, namespace):
        view = yield Ask("cluster.scale", {**which(name, namespace), "group": group, **wanted, "token": new_token()})
    return types.cluster_info(view)


def delete(
    name: str, namespace: str | None, *, wait: bool, timeout: float, client: object, kubeconfig: object
) -> Plan[None]:
    """`delete_cluster`."""
    yield from check_reach(client, kubeconfig)
    with about(name, namespace):
        try:
            view = yield Ask("cluster.delete", {**which(name, namespace), "token": new_token()})
        except ClusterNotFoundError:
            yield from connected()
            raise
    if wait:
        yield from waited(name, view["namespace"], "deleted", timeout)


def open_ports(
    name: str, namespace: str | None, ports: Ports, timeout: float, client: object, kubeconfig: object
) -> Plan[tuple[types.TunnelSession, tuple[int, ...]]]:
    """The first half of `open_tunnel`: the session, and the remote ports that it opened itself."""
    yield from check_reach(client, kubeconfig)
    view = yield from view_of(name, namespace)
    wanted = [_remote_port(one, view) for one in ports]
    before = _open_ports(view)
    place = which(name, view["namespace"])
    if not before or not set(wanted) <= before or (not wanted and _is_any_off(view)):
        chosen = [{"remote": port} for port in wanted if port not in before]
        with about(name, view["namespace"]):
            yield Ask("forward.open", {**place, "ports": chosen, "token": new_token()})
    shown = yield from waited(name, view["namespace"], "open", timeout)
    assert shown is not None
    return types.tunnel_session(shown, wanted), tuple(sorted(_open_ports(shown) - before))


def close_ports(session: types.TunnelSession, ports: tuple[int, ...]) -> Plan[None]:
    """The second half: what was open before stays open."""
    if not ports:
        return
    place = which(session.cluster_name, session.namespace)
    try:
        yield Ask("forward.close", {**place, "ports": list(ports), "token": new_token()})
    except ClusterNotFoundError:
        return  # deleted meanwhile, and its ports with it


def _open_ports(view: Json) -> set[int]:
    return {one["remote_port"] for one in view["services"] if one["state"] != "off"}


def _is_any_off(view: Json) -> bool:
    return any(one["state"] == "off" for one in view["services"])


def _remote_port(port: int | str, view: Json) -> int:
    """A port's number, or that of a service by its name. Raises UsageError."""
    if isinstance(port, int):
        return port
    for one in view["services"]:
        if one["name"] == port:
            return int(one["remote_port"])
    offered = ", ".join(one["name"] for one in view["services"])
    raise UsageError(f"{view['name']} has no service {port}", hint=f"it has {offered}" if offered else "name a port")
