"""The names a shell completes: clusters, namespaces, groups and services. Pure; one name a line, sorted."""

from collections.abc import Iterable

from krayne.messages import ClusterView

KINDS = ("clusters", "namespaces", "services")


def names(kind: str, views: Iterable[ClusterView], namespace: str | None) -> str:
    """The names of a kind; `services.demo` are those of the cluster demo. An unknown kind has none."""
    kind, _, cluster = kind.partition(".")
    found: set[str] = set()
    for view in views:
        if namespace and view.namespace != namespace and kind != "namespaces":
            continue
        if kind == "clusters":
            found.add(view.name)
        elif kind == "namespaces":
            found.add(view.namespace)
        elif kind == "services" and view.name == cluster:
            found |= {service.name for service in view.services}
    return "".join(f"{name}\n" for name in sorted(found))
