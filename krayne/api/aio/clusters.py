"""The functions on clusters, for async programs. Each is a plan carried out over a connection of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from krayne.api import plans
from krayne.api.aio.calling import carry_out
from krayne.api.progress import narrated
from krayne.api.types import ClusterDetails, ClusterInfo, Clusters

if TYPE_CHECKING:  # pydantic is slow to import, and a caller without a config needs none
    from krayne.config import ClusterConfig


async def create_cluster(
    config: ClusterConfig,
    *,
    client: None = None,
    kubeconfig: str | None = None,
    wait: bool = False,
    timeout: float = 300.0,
    progress: Callable[[ClusterInfo], None] | None = None,
    exist_ok: bool = False,
) -> ClusterInfo:
    """Declare a cluster in ~/.krayne/clusters; the daemon makes it so.

    Args:
        config: the cluster.
        client, kubeconfig: for scripts written for the original krayne. A client is refused; a kubeconfig is accepted
            when it leads to the Kubernetes the daemon is connected to.
        wait: return when the cluster is ready, and show how far it is: a table in a notebook, lines on a terminal.
        timeout: how long to wait, in seconds. The cluster stays when the time is over.
        progress: called with each change instead of showing it.
        exist_ok: replace the declaration of a cluster that is declared already.

    Raises:
        ClusterAlreadyExistsError: declared already, or made by somebody else.
        NamespaceNotFoundError: no such namespace; nothing is left declared.
        ConfigValidationError: the cluster cannot be made as it is described.
        KubeConnectionError: no connection to Kubernetes; KubeRayNotInstalledError where KubeRay is missing.
        ClusterTimeoutError: not ready in time.

    Example:
        >>> from functools import partial
        >>> from anyio import run
        >>> from krayne.api.aio import create_cluster
        >>> from krayne.config import ClusterConfig, WorkerGroupConfig
        >>> config = ClusterConfig(name="train", worker_groups=[WorkerGroupConfig(replicas=2)])
        >>> run(partial(create_cluster, config, wait=True, timeout=600.0)).status
        'ready'
    """
    with narrated(config.name, progress, wait) as told:
        return await carry_out(
            plans.create(
                config,
                wait=wait,
                timeout=timeout,
                exist_ok=exist_ok,
                told=told,
                client=client,
                kubeconfig=kubeconfig,
            )
        )


async def get_cluster(
    name: str, namespace: str | None = "default", *, client: None = None, kubeconfig: str | None = None
) -> ClusterInfo:
    """One cluster at a glance.

    Args:
        name: the cluster.
        namespace: its Kubernetes namespace; None finds it by its name in any.
        client, kubeconfig: for scripts written for the original krayne. A client is refused; a kubeconfig is accepted
            when it leads to the Kubernetes the daemon is connected to.
    Raises:
        ClusterNotFoundError: no such cluster in the namespace.
        KubeConnectionError: no connection to Kubernetes, and nothing is known of the cluster.

    Example:
        >>> from functools import partial
        >>> from anyio import run
        >>> from krayne.api.aio import get_cluster
        >>> run(partial(get_cluster, "demo")).client_url
        'ray://127.0.0.1:15002'
    """
    return await carry_out(plans.get(name, namespace, client, kubeconfig))


async def list_clusters(
    namespace: str | None = "default",
    *,
    all_namespaces: bool = False,
    client: None = None,
    kubeconfig: str | None = None,
) -> Clusters:
    """The clusters of a namespace, as a list that is a table in a notebook.

    Args:
        namespace: a Kubernetes namespace; None gives those declared anywhere and all of the context's own namespace.
        all_namespaces: those of every namespace instead.
        client, kubeconfig: as for `get_cluster`.

    Raises:
        KubeConnectionError: no connection to Kubernetes, and no cluster is known.

    Example:
        >>> from anyio import run
        >>> from krayne.api.aio import list_clusters
        >>> [(one.name, one.status) for one in run(list_clusters)]
        [('demo', 'ready')]
    """
    return await carry_out(plans.listed(namespace, all_namespaces, client, kubeconfig))


async def describe_cluster(
    name: str, namespace: str | None = "default", *, client: None = None, kubeconfig: str | None = None
) -> ClusterDetails:
    """A cluster with its head, its worker groups and what went wrong.

    Args:
        name: the cluster.
        namespace: its Kubernetes namespace; None finds it by its name in any.
        client, kubeconfig: for scripts written for the original krayne. A client is refused; a kubeconfig is accepted
            when it leads to the Kubernetes the daemon is connected to.
    Raises:
        ClusterNotFoundError: no such cluster in the namespace.
        KubeConnectionError: no connection to Kubernetes, and nothing is known of the cluster.

    Example:
        >>> from functools import partial
        >>> from anyio import run
        >>> from krayne.api.aio import describe_cluster
        >>> [(one.name, one.max_replicas) for one in run(partial(describe_cluster, "demo")).worker_groups]
        [('worker', 4)]
    """
    return await carry_out(plans.describe(name, namespace, client, kubeconfig))


async def scale_cluster(
    name: str,
    namespace: str | None = "default",
    worker_group: str | None = None,
    replicas: int | None = None,
    *,
    min_replicas: int | None = None,
    max_replicas: int | None = None,
    client: None = None,
    kubeconfig: str | None = None,
) -> ClusterInfo:
    """Change a worker group's counts, in the cluster's file and so in Kubernetes.

    Args:
        name: the cluster.
        namespace: its Kubernetes namespace; None finds it by its name in any.
        worker_group: which group; None where there is one.
        replicas: how many workers; more than the maximum raises it.
        min_replicas, max_replicas: the autoscaler's bounds; None leaves them.
        client, kubeconfig: as for `get_cluster`.

    Raises:
        ClusterNotFoundError: no such cluster in the namespace.
        ClusterForeignError: it is not declared here.
        UsageError: no such group, or nothing to change.

    Example:
        >>> from functools import partial
        >>> from anyio import run
        >>> from krayne.api.aio import scale_cluster
        >>> run(partial(scale_cluster, "demo", "default", "worker", 3)).num_workers
        3
    """
    counts = (replicas, min_replicas, max_replicas)
    return await carry_out(plans.scale(name, namespace, worker_group, counts, client, kubeconfig))


async def delete_cluster(
    name: str,
    namespace: str | None = "default",
    *,
    client: None = None,
    kubeconfig: str | None = None,
    wait: bool = False,
    timeout: float = 300.0,
) -> None:
    """Delete a cluster and its declaration.

    Args:
        name: the cluster.
        namespace: its Kubernetes namespace; None finds it by its name in any.
        client, kubeconfig: for scripts written for the original krayne. A client is refused; a kubeconfig is accepted
            when it leads to the Kubernetes the daemon is connected to.
        wait: return when it is gone.
        timeout: how long to wait, in seconds.

    Raises:
        ClusterNotFoundError: no such cluster in the namespace.
        ClusterForeignError: it is not ours to delete.
        ClusterTimeoutError: not gone in time.
        KubeConnectionError: no connection to Kubernetes.

    Example:
        >>> from functools import partial
        >>> from anyio import run
        >>> from krayne.api.aio import delete_cluster
        >>> run(partial(delete_cluster, "demo", wait=True, timeout=120.0))
    """
    await carry_out(plans.delete(name, namespace, wait=wait, timeout=timeout, client=client, kubeconfig=kubeconfig))


async def wait_until_ready(
    name: str,
    namespace: str | None = "default",
    *,
    client: None = None,
    kubeconfig: str | None = None,
    timeout: float = 300.0,
    progress: Callable[[ClusterInfo], None] | None = None,
    _poll_interval: float = 0.0,
) -> ClusterInfo:
    """Return when a cluster is ready; nothing is polled, and a restart of the daemon does not matter.

    Args:
        name: the cluster.
        namespace: its Kubernetes namespace; None finds it by its name in any.
        client, kubeconfig: for scripts written for the original krayne. A client is refused; a kubeconfig is accepted
            when it leads to the Kubernetes the daemon is connected to.
        timeout: how long to wait, in seconds.
        progress: called with each change; without it changes are shown as by `create_cluster`.

    Raises:
        ClusterTimeoutError: not ready in time; the sentence says what is missing.
        ClusterNotFoundError: no such cluster in the namespace, or it was deleted meanwhile.
        ConfigValidationError: it cannot become ready as it is declared.
        KubeConnectionError: no connection to Kubernetes.

    Example:
        >>> from functools import partial
        >>> from anyio import run
        >>> from krayne.api.aio import wait_until_ready
        >>> run(partial(wait_until_ready, "demo", timeout=600.0)).workers_ready
        2
    """
    with narrated(name, progress, True) as told:
        return await carry_out(plans.wait_ready(name, namespace, timeout, told, client, kubeconfig))


async def get_cluster_services(
    name: str, namespace: str | None = "default", *, client: None = None, kubeconfig: str | None = None
) -> list[str]:
    """The names of a cluster's services, in the order they are shown.

    Args:
        name: the cluster.
        namespace: its Kubernetes namespace; None finds it by its name in any.
        client, kubeconfig: for scripts written for the original krayne. A client is refused; a kubeconfig is accepted
            when it leads to the Kubernetes the daemon is connected to.
    Raises:
        ClusterNotFoundError: no such cluster in the namespace.
        KubeConnectionError: no connection to Kubernetes, and nothing is known of the cluster.

    Example:
        >>> from functools import partial
        >>> from anyio import run
        >>> from krayne.api.aio import get_cluster_services
        >>> run(partial(get_cluster_services, "demo"))
        ['dashboard', 'client', 'ssh']
    """
    return await carry_out(plans.services(name, namespace, client, kubeconfig))
