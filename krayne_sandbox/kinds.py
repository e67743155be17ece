"""The kinds of objects the sandbox serves, as data. A kind that is not here is a 404, as in any cluster without it."""

from typing import Final, NamedTuple


class Kind(NamedTuple):
    """What names a kind in paths and objects."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """As in an object's apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As in the messages of errors: `rayclusters.ray.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def singular(self) -> str:
        """As kubectl spells it."""
        return self.kind.lower()


def _core(plural: str, kind: str, *, namespaced: bool = True) -> Kind:
    return Kind("", "v1", plural, kind, namespaced)


NAMESPACES: Final = _core("namespaces", "Namespace", namespaced=False)
NODES: Final = _core("nodes", "Node", namespaced=False)
PODS: Final = _core("pods", "Pod")
SERVICES: Final = _core("services", "Service")
ENDPOINTS: Final = _core("endpoints", "Endpoints")
EVENTS: Final = _core("events", "Event")
CONFIGMAPS: Final = _core("configmaps", "ConfigMap")
SECRETS: Final = _core("secrets", "Secret")
SERVICEACCOUNTS: Final = _core("serviceaccounts", "ServiceAccount")
LEASES: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease", True)
CRDS: Final = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
RAYCLUSTERS: Final = Kind("ray.io", "v1", "rayclusters", "RayCluster", True)

KINDS: Final = (
    CONFIGMAPS,
    ENDPOINTS,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    SERVICEACCOUNTS,
    SERVICES,
    CRDS,
    LEASES,
    RAYCLUSTERS,
)

# Their status is written through the subresource alone.
WITH_STATUS: Final = frozenset({NAMESPACES, NODES, PODS, SERVICES, CRDS, RAYCLUSTERS})
# Their spec is counted in metadata.generation.
WITH_GENERATION: Final = frozenset({PODS, CRDS, RAYCLUSTERS})

SHORT_NAMES: Final = {
    CONFIGMAPS: ("cm",),
    ENDPOINTS: ("ep",),
    EVENTS: ("ev",),
    NAMESPACES: ("ns",),
    NODES: ("no",),
    PODS: ("po",),
    SERVICES: ("svc",),
    SERVICEACCOUNTS: ("sa",),
    CRDS: ("crd", "crds"),
}
CATEGORIES: Final = {
    PODS: ("all",),
    SERVICES: ("all",),
    RAYCLUSTERS: ("all",),
    CRDS: ("api-extensions",),
}
