"""The sandbox's objects: what etcd, the garbage collector and the namespace controller are in a real cluster.

Owns versions, uids, deletion and cascades; judges no schema. Invariant: an object changes only through here, with a
higher resourceVersion than any before, also after a restart; what is not on disk has not happened.
"""

import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from krayne_sandbox.core.comparing import check_record, same, spec_of
from krayne_sandbox.core.meta import (
    Json,
    copied,
    finalizers,
    generated,
    is_deleting,
    metadata,
    name_of,
    namespace_of,
    owners,
    stamp,
)
from krayne_sandbox.core.selectors import field_test, label_test
from krayne_sandbox.core.statuses import (
    StatusError,
    already_exists,
    conflict,
    expired,
    forbidden,
    not_found,
)
from krayne_sandbox.journal import ADDED, DELETED, MODIFIED, Change, Entry, Journal
from krayne_sandbox.kinds import KINDS, NAMESPACES, PODS, WITH_GENERATION, WITH_STATUS, Kind
from krayne_sandbox.subscription import FellBehindError, Subscription

FIRST_NAMESPACES: Final = ("default", "kube-node-lease", "kube-public", "kube-system")
PROTECTED: Final = frozenset({"default", "kube-public", "kube-system"})
FOREGROUND: Final = "foregroundDeletion"
POD_GRACE: Final = 30.0  # seconds, unless the pod says otherwise
TRIES: Final = 8  # for a generated name that is free
KEPT: Final = (
    "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation",
)  # fmt: skip

Key = tuple[str, str]


class Store:
    """All objects, in memory and on disk. Every call is whole when it returns; nothing in it waits."""

    def __init__(self, journal: Journal, clock: Callable[[], float], rand: Callable[[], float]) -> None:
        self._journal = journal
        self._clock = clock
        self._rand = rand
        self._things: dict[Kind, dict[Key, Json]] = {kind: {} for kind in KINDS}
        self._uids: dict[str, tuple[Kind, Key]] = {}
        self._owned: dict[str, set[tuple[Kind, Key]]] = defaultdict(set)
        self._readers: dict[Kind, list[Subscription]] = defaultdict(list)
        for kind, thing in journal.objects():
            self._keep(kind, thing)

    @classmethod
    def open(cls, path: str, *, clock: Callable[[], float], rand: Callable[[], float] = random.random) -> "Store":
        """The store in this file; a new one gets the namespaces every cluster has."""
        store = cls(Journal(path), clock, rand)
        for name in FIRST_NAMESPACES:
            if store.find(NAMESPACES, "", name) is None:
                store.create(NAMESPACES, {"metadata": {"name": name}})
        store._sweep()
        return store

    def _sweep(self) -> None:
        """Finish the cascades that a crash or a full disk cut short."""
        for kind in KINDS:
            for thing in list(self._things[kind].values()):
                name, home = name_of(thing), namespace_of(thing)
                if owners(thing) and not self._has_owner(thing) and not is_deleting(thing):
                    self.delete(kind, home, name)
        for thing in list(self._things[NAMESPACES].values()):
            if is_deleting(thing):
                self._empty(name_of(thing))
                if ("", name_of(thing)) in self._things[NAMESPACES]:
                    self._settle(NAMESPACES, thing)

    def close(self) -> None:
        """Let go of the file."""
        self._journal.close()

    # Reading.

    @property
    def revision(self) -> int:
        """The newest resourceVersion."""
        return self._journal.revision

    @property
    def now(self) -> float:
        """Wall seconds, as the store sees them."""
        return self._clock()

    def find(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """A copy of the object, None when there is none."""
        found = self._things[kind].get((namespace, name))
        return None if found is None else copied(found)

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """A copy of the object. Raises StatusError 404."""
        return dict(copied(self._need(kind, namespace, name)))

    def list(self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = "") -> "list[Json]":
        """Copies, by namespace and name. Raises StatusError 400 for a bad selector."""
        wanted, suits = label_test(labels), field_test(kind, fields)
        found = sorted(self._things[kind].items())
        return [copied(one) for (home, _), one in found if namespace in (None, "", home) and wanted(one) and suits(one)]

    def subscribe(self, *kinds: Kind) -> Subscription:
        """The current objects as ADDED, then every change."""
        first = [Change(ADDED, one, None) for kind in kinds for one in self._things[kind].values()]
        return self._subscribed(kinds, first)

    def follow(self, kind: Kind, revision: int) -> Subscription:
        """The changes after a revision. Raises StatusError 410 when they are forgotten."""
        self.check_kept(revision)
        return self._subscribed((kind,), self._journal.since(kind, revision))

    def check_kept(self, revision: int) -> None:
        """Raises StatusError 410 when what happened after a revision is forgotten."""
        if revision < self._journal.compacted:
            raise expired(revision, self._journal.compacted)

    def compact(self) -> None:
        """Forget the history, as etcd does every five minutes."""
        self._journal.compact(self.revision)

    def _subscribed(self, kinds: Sequence[Kind], first: Sequence[Change]) -> Subscription:
        def leave(subscription: Subscription) -> None:
            for kind in kinds:
                if subscription in self._readers[kind]:
                    self._readers[kind].remove(subscription)

        made = Subscription(first, leave)
        for kind in kinds:
            self._readers[kind].append(made)
        return made

    # Writing.

    def create(self, kind: Kind, thing: Json) -> Json:
        """A new object with uid, times and version. Raises StatusError 404 (no namespace), 403, 409."""
        new = self._dressed(kind, thing)
        namespace, name = namespace_of(new), name_of(new)
        self._check_home(kind, namespace, name)
        if (namespace, name) in self._things[kind]:
            raise already_exists(kind, name)
        self._commit(kind, ADDED, new, None)
        if owners(new) and not self._has_owner(new):
            self.delete(kind, namespace, name)  # its owner went while it was made
        return dict(copied(new))

    def prepared(self, kind: Kind, thing: Json) -> Json:
        """What `create` would store, for a dry run. Raises as `create`."""
        new = self._dressed(kind, thing)
        self._check_home(kind, namespace_of(new), name_of(new))
        if (namespace_of(new), name_of(new)) in self._things[kind]:
            raise already_exists(kind, name_of(new))
        metadata(new).pop("resourceVersion", None)
        return new

    def update(self, kind: Kind, thing: Json, *, subresource: str = "") -> Json:
        """Replace an object, or its status alone. Raises StatusError 404, 409."""
        old, new = self.merged(kind, thing, subresource=subresource)
        if same(old, new):
            return dict(copied(old))
        self._commit(kind, MODIFIED, new, old)
        self._settle(kind, new)
        return dict(copied(new))

    def merged(self, kind: Kind, thing: Json, *, subresource: str = "") -> tuple[Json, Json]:
        """What an update would replace, and by what; for a dry run too. Raises as `update`."""
        namespace, name = namespace_of(thing) if kind.namespaced else "", name_of(thing)
        old = self._need(kind, namespace, name)
        given = metadata(thing)
        self._check_preconditions(kind, old, str(given.get("uid") or ""), str(given.get("resourceVersion") or ""))
        if subresource == "status":
            new = {**copied(old), "status": copied(thing.get("status"))}
            if new["status"] is None:
                del new["status"]
            if "managedFields" in given:
                new["metadata"]["managedFields"] = copied(given["managedFields"])
            return old, new
        new = {**copied(thing), "kind": kind.kind, "apiVersion": kind.api_version}
        meta = new["metadata"] = {**given, "namespace": namespace, "name": name}
        if not kind.namespaced:
            del meta["namespace"]
        for field in KEPT:
            meta.pop(field, None)
            if field in old["metadata"]:
                meta[field] = old["metadata"][field]
        meta["resourceVersion"] = old["metadata"]["resourceVersion"]
        if kind in WITH_STATUS:
            new.pop("status", None)
            if "status" in old:
                new["status"] = copied(old["status"])
        if kind in WITH_GENERATION and spec_of(new) != spec_of(old):
            meta["generation"] = int(meta.get("generation") or 0) + 1
        return old, new

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        version: str = "",
        grace: float | None = None,
        propagation: str = "Background",
    ) -> Json:
        """Ask for its end; returns what is left of it. Raises StatusError 404, 403, 409."""
        old = self._need(kind, namespace, name)
        self._check_preconditions(kind, old, uid, version, deleting=True)
        if kind == NAMESPACES and name in PROTECTED:
            raise forbidden(kind, name, "this namespace may not be deleted")
        if propagation == "Orphan":
            self._orphan(str(old["metadata"]["uid"]))
        last, may_go = self._mark(kind, old, grace, propagation)
        if may_go:
            self._drop(kind, last)
            return dict(copied(last))
        if kind == NAMESPACES:
            self._empty(name)
        if propagation == "Foreground":
            self._delete_owned(str(last["metadata"]["uid"]))
        current = self._things[kind].get(_key(kind, namespace, name))
        return dict(copied(current or last))

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        """The process is gone: the object goes now, or once its finalizers have."""
        old = self._things[kind].get((namespace, name))
        if old is None:
            return
        if finalizers(old):
            self._mark(kind, old, 0.0, "Background")
        else:
            self._drop(kind, old)

    # Deletion.

    def _mark(self, kind: Kind, old: Json, grace: float | None, propagation: str) -> tuple[Json, bool]:
        """Its deletion is wanted: written into it, unless nothing holds it. Returns it, and whether it may go now."""
        seconds = self._grace(kind, old, grace)
        new = copied(old)
        meta = new["metadata"]
        was = meta.get("deletionGracePeriodSeconds")
        if not is_deleting(old):
            if int(meta.get("generation") or 0):
                meta["generation"] += 1
        elif was is None or seconds >= was:
            seconds = was or 0
        if not is_deleting(old) or (was is not None and seconds < was):
            meta["deletionTimestamp"] = stamp(self._clock() + seconds)
        meta["deletionGracePeriodSeconds"] = int(seconds)
        if kind == NAMESPACES:
            new.setdefault("status", {})["phase"] = "Terminating"
        if propagation == "Foreground" and FOREGROUND not in finalizers(new) and self._blockers(meta["uid"]):
            meta["finalizers"] = [*finalizers(new), FOREGROUND]
        may_go = not finalizers(new) and not seconds and not (kind == NAMESPACES and self._inside(meta["name"]))
        if may_go and kind != PODS:
            return copied(old), True
        if not may_go and not same(old, new):
            self._commit(kind, MODIFIED, new, old)
        return new, may_go

    def _grace(self, kind: Kind, thing: Json, asked: float | None) -> float:
        if kind != PODS:
            return 0
        spec, status = thing.get("spec") or {}, thing.get("status") or {}
        if not spec.get("nodeName") or status.get("phase") in {"Failed", "Succeeded"}:
            return 0
        if asked is None:
            asked = spec.get("terminationGracePeriodSeconds", POD_GRACE)
        return max(float(asked), 0)

    def _settle(self, kind: Kind, thing: Json) -> None:
        """Let it go if its deletion is wanted and nothing holds it any more."""
        meta = thing["metadata"]
        held = finalizers(thing) or meta.get("deletionGracePeriodSeconds")
        if is_deleting(thing) and not held and not (kind == NAMESPACES and self._inside(meta["name"])):
            self._drop(kind, thing)

    def _drop(self, kind: Kind, thing: Json) -> None:
        place = self._uids[str(thing["metadata"]["uid"])]
        self._commit(kind, DELETED, copied(thing), self._things[kind][place[1]])
        uid = str(thing["metadata"]["uid"])
        self._delete_owned(uid)
        self._owned.pop(uid, None)
        for reference in owners(thing):
            self._unblock(str(reference.get("uid")))
        if kind.namespaced:
            home = self._things[NAMESPACES].get(("", namespace_of(thing)))
            if home is not None:
                self._settle(NAMESPACES, home)

    def _dependents(self, uid: str) -> Iterator[tuple[Kind, Json]]:
        for kind, key in sorted(self._owned.get(uid, ())):
            if (one := self._things[kind].get(key)) is not None:
                yield kind, one

    def _delete_owned(self, uid: str) -> None:
        """Background deletion of what has no other owner."""
        for kind, one in list(self._dependents(uid)):
            if not is_deleting(one) and not self._has_owner(one, but=uid):
                self.delete(kind, namespace_of(one), name_of(one))

    def _has_owner(self, thing: Json, but: str = "") -> bool:
        return any(one.get("uid") != but and one.get("uid") in self._uids for one in owners(thing))

    def _blockers(self, uid: str) -> bool:
        """Whether something owned holds up a deletion in the foreground."""
        return any(
            one.get("blockOwnerDeletion") and one.get("uid") == uid
            for _, thing in self._dependents(uid)
            for one in owners(thing)
        )

    def _unblock(self, uid: str) -> None:
        place = self._uids.get(uid)
        owner = self._things[place[0]].get(place[1]) if place else None
        if place is None or owner is None or FOREGROUND not in finalizers(owner) or self._blockers(uid):
            return
        new = copied(owner)
        new["metadata"]["finalizers"] = [one for one in finalizers(owner) if one != FOREGROUND]
        self.update(place[0], new)

    def _orphan(self, uid: str) -> None:
        for kind, one in list(self._dependents(uid)):
            new = copied(one)
            left = [other for other in owners(new) if other.get("uid") != uid]
            new["metadata"]["ownerReferences"] = left
            if not left:
                del new["metadata"]["ownerReferences"]
            self.update(kind, new)

    def _inside(self, namespace: str) -> bool:
        return any(key[0] == namespace for kind in KINDS if kind.namespaced for key in self._things[kind])

    def _empty(self, namespace: str) -> None:
        for kind in KINDS:
            for home, name in [key for key in self._things[kind] if kind.namespaced and key[0] == namespace]:
                if (home, name) in self._things[kind]:
                    self.delete(kind, home, name)

    # Inside.

    def _need(self, kind: Kind, namespace: str, name: str) -> Json:
        found = self._things[kind].get(_key(kind, namespace, name))
        if found is None:
            raise not_found(kind, name)
        return found

    def _check_home(self, kind: Kind, namespace: str, name: str) -> None:
        home = self._things[NAMESPACES].get(("", namespace)) if kind.namespaced else None
        if kind.namespaced and home is None:
            raise not_found(NAMESPACES, namespace)
        if home is not None and is_deleting(home):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = {
                "reason": "NamespaceTerminating", "field": "metadata.namespace",
                "message": f"namespace {namespace} is being terminated",
            }  # fmt: skip
            raise forbidden(kind, name, why, [cause])

    def _check_preconditions(self, kind: Kind, old: Json, uid: str, version: str, *, deleting: bool = False) -> None:
        meta = old["metadata"]
        name = str(meta["name"])
        if deleting:
            check_record(kind, meta, uid, version)
        if uid and uid != meta["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {meta['uid']}"
            raise conflict(kind, name, why)
        if version and version != meta["resourceVersion"]:
            raise conflict(kind, name)

    def _dressed(self, kind: Kind, thing: Json) -> Json:
        new: Json = {"kind": kind.kind, "apiVersion": kind.api_version, **copied(thing)}
        new |= {"kind": kind.kind, "apiVersion": kind.api_version}
        meta = new["metadata"] = {key: one for key, one in metadata(new).items() if key not in KEPT}
        if not kind.namespaced:
            meta.pop("namespace", None)
        if not meta.get("name"):
            meta["name"] = self._free_name(kind, namespace_of(new), str(meta.get("generateName") or ""))
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = stamp(self._clock())
        if kind in WITH_GENERATION:
            meta["generation"] = 1
        if kind == NAMESPACES:
            meta["labels"] = {**(meta.get("labels") or {}), "kubernetes.io/metadata.name": meta["name"]}
            new |= {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        return new

    def _free_name(self, kind: Kind, namespace: str, base: str) -> str:
        for _ in range(TRIES):
            name = generated(base, int(self._rand() * 2**32))
            if (namespace, name) not in self._things[kind]:
                break
        return name

    def _commit(self, kind: Kind, how: str, thing: Json, before: Json | None) -> None:
        """Version it, write it down, keep it, tell it: in this order."""
        meta = thing["metadata"]
        revision = self.revision + 1
        meta["resourceVersion"] = str(revision)
        change = Change(how, thing, before)
        self._journal.write([Entry(revision, kind, namespace_of(thing), str(meta["name"]), change)])
        if before is not None:
            self._forget(kind, before)
        if how != DELETED:
            self._keep(kind, thing)
        for reader in self._readers[kind]:
            reader.put(change)

    def _keep(self, kind: Kind, thing: Json) -> None:
        place = (kind, (namespace_of(thing), name_of(thing)))
        self._things[kind][place[1]] = thing
        self._uids[str(thing["metadata"]["uid"])] = place
        for reference in owners(thing):
            self._owned[str(reference.get("uid"))].add(place)

    def _forget(self, kind: Kind, thing: Json) -> None:
        place = (kind, (namespace_of(thing), name_of(thing)))
        self._things[kind].pop(place[1], None)
        self._uids.pop(str(thing["metadata"]["uid"]), None)
        for reference in owners(thing):
            self._owned[str(reference.get("uid"))].discard(place)


def _key(kind: Kind, namespace: str, name: str) -> Key:
    return (namespace if kind.namespaced else "", name)


__all__ = ["Change", "FellBehindError", "Json", "Kind", "StatusError", "Store", "Subscription"]
