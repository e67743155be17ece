"""Carries out the plans for RayClusters, on every change of what they are made of. The operator a user would meet.

Owns no rule: core/rayplan decides, core/raystatus tells. Invariant: a cluster that cannot be kept costs no other one.
"""

import logging
import math
from http import HTTPStatus
from typing import Final

import anyio

from krayne_sandbox.core.meta import Json, metadata, name_of, namespace_of, stamp
from krayne_sandbox.core.raychecks import fault_of
from krayne_sandbox.core.rayplan import HEAD, NODE_NAME, Plan, labels_of, plan
from krayne_sandbox.core.raystatus import status_of
from krayne_sandbox.core.rules import Rules, admitted
from krayne_sandbox.core.statuses import StatusError
from krayne_sandbox.definitions import ray_definition
from krayne_sandbox.kinds import EVENTS, PODS, RAYCLUSTERS, SERVICES, Kind
from krayne_sandbox.store import FellBehindError, Store

LOG: Final = logging.getLogger(__name__)
COMPONENT: Final = "raycluster-controller"
EVENTS_KEPT: Final = 500  # in the store; the oldest go first
EVENT_TEXT: Final = 1024
AGAIN: Final = 5.0  # seconds before what the disk did not take is tried again

Key = tuple[str, str]


async def operate(store: Store) -> None:
    """Keep every RayCluster, for ever."""
    late: set[Key] = set()
    while True:
        with store.subscribe(RAYCLUSTERS, PODS, SERVICES) as subscription:
            try:
                while True:
                    found: set[Key | None] = set()
                    with anyio.move_on_after(AGAIN if late else math.inf):
                        found = {_cluster_of(change.object) for change in await subscription.changes()}
                    due = sorted({key for key in found if key is not None} or late)
                    done = {key for key in due if keep(store, *key)}
                    late = (late | set(due)) - done
            except FellBehindError:
                LOG.warning("the operator fell behind and starts anew")


def keep(store: Store, namespace: str, name: str) -> bool:
    """One cluster, as far as it can be done now; what follows comes back as changes. False: the disk takes nothing."""
    try:
        cluster = store.find(RAYCLUSTERS, namespace, name)
        if cluster is None:
            return True
        if (fault := fault_of(cluster)) is not None:
            note(store, cluster, fault.reason, fault.text, kind="Warning")
            return True
        selector = f"ray.io/cluster={name}"
        pods = store.list(PODS, namespace, labels=selector)
        try:
            _carry_out(store, cluster, plan(cluster, pods, store.list(SERVICES, namespace, labels=selector)))
        finally:  # what cannot be made hides nothing of what is there
            _report(store, namespace, name)
    except StatusError as error:
        LOG.warning("%s/%s: %s", namespace, name, error.message)
        return error.code != HTTPStatus.INTERNAL_SERVER_ERROR
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        LOG.warning("%s/%s cannot be read: %r", namespace, name, error)
    return True


def _report(store: Store, namespace: str, name: str) -> None:
    cluster = store.find(RAYCLUSTERS, namespace, name)
    if cluster is None:
        return
    status = status_of(cluster, store.list(PODS, namespace, labels=f"ray.io/cluster={name}"), stamp(store.now))
    if status != cluster.get("status"):
        store.update(RAYCLUSTERS, {**cluster, "status": status}, subresource="status")


def _carry_out(store: Store, cluster: Json, decided: Plan) -> None:
    namespace = namespace_of(cluster)
    for doomed in decided.doomed:
        store.delete(PODS, namespace, name_of(doomed.pod), uid=str(metadata(doomed.pod).get("uid")))
        note(store, cluster, doomed.reason, doomed.text)
    if decided.service is not None:
        made = _create(store, SERVICES, decided.service)
        note(store, cluster, "CreatedService", f"Created service {namespace}/{name_of(made)}")
    for pod in decided.pods:
        kind = "head" if labels_of(pod)["ray.io/node-type"] == HEAD else "worker"
        try:
            made = _create(store, PODS, pod)
        except StatusError as error:
            text = f"Failed to create {kind} Pod: {error.message}"
            note(store, cluster, f"FailedToCreate{kind.title()}Pod", text, kind="Warning")
            raise
        note(store, cluster, f"Created{kind.title()}Pod", f"Created {kind} Pod {namespace}/{name_of(made)}")
        note(store, made, "Scheduled", f"{namespace}/{name_of(made)} runs on {NODE_NAME}", by="default-scheduler")


def _create(store: Store, kind: Kind, thing: Json) -> Json:
    """As the API server would take it from the operator. Raises StatusError."""
    rules = Rules(ray_definition())
    made = rules.prepared(kind, thing, new=True).thing
    rules.check(kind, store.prepared(kind, made), None)
    admitted(kind, made)
    return store.create(kind, made)


def note(store: Store, about: Json, reason: str, text: str, *, kind: str = "Normal", by: str = COMPONENT) -> None:
    """An event about an object; told again, it is counted."""
    now, namespace = stamp(store.now), namespace_of(about)
    for old in store.list(EVENTS, namespace):
        same = (old.get("reason"), old.get("message"), (old.get("involvedObject") or {}).get("uid"))
        if same == (reason, text[:EVENT_TEXT], metadata(about).get("uid")):
            store.update(EVENTS, {**old, "count": int(old.get("count") or 1) + 1, "lastTimestamp": now})
            return
    event: Json = {
        "metadata": {"namespace": namespace, "generateName": f"{name_of(about)}."},
        "involvedObject": {
            "apiVersion": about.get("apiVersion"), "kind": about.get("kind"), "namespace": namespace,
            "name": name_of(about), "uid": metadata(about).get("uid"),
            "resourceVersion": metadata(about).get("resourceVersion"),
        },
        "reason": reason, "message": text[:EVENT_TEXT], "type": kind, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now, "eventTime": None,
        "source": {"component": by}, "reportingComponent": by, "reportingInstance": "",
    }  # fmt: skip
    store.create(EVENTS, event)
    _forget_oldest(store, namespace)


def _forget_oldest(store: Store, namespace: str) -> None:
    known = store.list(EVENTS, namespace)
    if len(known) > EVENTS_KEPT:
        oldest = min(known, key=lambda one: int(metadata(one).get("resourceVersion") or 0))
        store.delete(EVENTS, namespace, name_of(oldest))


def _cluster_of(thing: Json) -> Key | None:
    name = name_of(thing) if thing.get("kind") == "RayCluster" else labels_of(thing).get("ray.io/cluster")
    return (namespace_of(thing), str(name)) if name else None
