"""From a request's path to what it means: a kind, a namespace, a name, a subresource."""

from typing import Final, NamedTuple

from krayne_sandbox.kinds import EVENTS, KINDS, NAMESPACES, PODS, WITH_STATUS, Kind

# events.k8s.io shows the same events in another form; reading it is enough for kubectl.
NEW_EVENTS: Final = Kind("events.k8s.io", "v1", "events", "Event", True)
SUBRESOURCES: Final = {
    PODS: frozenset({"status", "log", "exec", "portforward", "eviction"}),
    NAMESPACES: frozenset({"status", "finalize"}),
}
_SERVED: Final = {(one.group, one.version, one.plural): one for one in (*KINDS, NEW_EVENTS)}


class Target(NamedTuple):
    """What a path names. No name: the list."""

    kind: Kind
    namespace: str
    name: str
    subresource: str

    @property
    def stored(self) -> Kind:
        """The kind its objects are stored as."""
        return EVENTS if self.kind == NEW_EVENTS else self.kind


def target_of(path: str) -> Target | None:
    """None for what is no path of an object or list that is served."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in SUBRESOURCES[NAMESPACES]:
        namespace, rest = rest[1], rest[2:]
    if not rest or len(rest) > 3 or not all(rest):
        return None
    kind = _SERVED.get((group, version, rest[0]))
    name, subresource = (*rest[1:], "", "")[:2]
    if kind is None or (subresource and subresource not in subresources(kind)):
        return None
    if bool(namespace) and not kind.namespaced:
        return None
    if kind.namespaced and name and not namespace:
        return None
    return Target(kind, namespace, name, subresource)


def subresources(kind: Kind) -> frozenset[str]:
    """What may follow a name."""
    return SUBRESOURCES.get(kind, frozenset({"status"} if kind in WITH_STATUS else ()))
