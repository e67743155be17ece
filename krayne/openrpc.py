"""The table of methods, and the API's OpenRPC document made from it and the message types.

Pure. Invariant: the committed copy of the document (tests/words/openrpc.json) is only ever added to.
"""

from typing import Any, NamedTuple

import msgspec

from krayne.messages import (
    API_VERSION,
    AppliedList,
    ApplyParams,
    Cancelled,
    CancelParams,
    CloseParams,
    ClusterDetails,
    ClusterList,
    ClusterParams,
    ClusterSource,
    ClusterView,
    ContextList,
    ContextsParams,
    Created,
    CreateParams,
    DaemonStatus,
    DeleteParams,
    Difference,
    DiffParams,
    Done,
    EditParams,
    EventList,
    EventsParams,
    ExecParams,
    ForwardList,
    GetParams,
    Hello,
    IdleParams,
    ListParams,
    LogParams,
    Metrics,
    NoParams,
    OpenParams,
    PathParams,
    PathTaken,
    Progress,
    Rendered,
    RenderParams,
    RestartParams,
    ScaleParams,
    Services,
    SshHosts,
    Streaming,
    UnwatchParams,
    UseParams,
    UseResult,
    WaitParams,
    WaitResult,
    WatchEvent,
    WatchParams,
    WatchStarted,
)

OPENRPC_VERSION = "1.3.2"


class MethodSpec(NamedTuple):
    """A method as the outside sees it. `mutates`: it finishes even when its caller goes away."""

    name: str
    summary: str
    params: type[msgspec.Struct]
    result: Any
    mutates: bool = False


METHODS = (
    MethodSpec(
        "cluster.adopt", "Take over a cluster that is there, and declare it as it is.", ClusterParams, ClusterView, True
    ),
    MethodSpec("cluster.apply", "Declare clusters from the text of their files.", ApplyParams, AppliedList, True),
    MethodSpec("cluster.confirm", "Agree to a deletion that waits for a yes.", ClusterParams, ClusterView, True),
    MethodSpec("cluster.create", "Declare a new cluster.", CreateParams, Created, True),
    MethodSpec("cluster.delete", "Delete a cluster and its declaration.", DeleteParams, ClusterView, True),
    MethodSpec("cluster.diff", "What a write would change: declared against live.", DiffParams, Difference),
    MethodSpec("cluster.edit", "Replace the text of a cluster's file.", EditParams, ClusterView, True),
    MethodSpec("cluster.events", "The Kubernetes events of a cluster and its pods.", EventsParams, EventList),
    MethodSpec("cluster.get", "Everything known of one cluster.", GetParams, ClusterDetails),
    MethodSpec("cluster.idle", "Suspend a cluster when it is idle for so long.", IdleParams, ClusterView, True),
    MethodSpec("cluster.list", "The clusters with their phases and local ports.", ListParams, ClusterList),
    MethodSpec("cluster.resume", "Let a suspended cluster run again.", ClusterParams, ClusterView, True),
    MethodSpec("cluster.scale", "Change a worker group's counts.", ScaleParams, ClusterView, True),
    MethodSpec("cluster.source", "The file that declares a cluster.", GetParams, ClusterSource),
    MethodSpec("cluster.suspend", "Stop a cluster's pods; it stays declared.", ClusterParams, ClusterView, True),
    MethodSpec("cluster.unwatch", "End a watch of this connection.", UnwatchParams, Cancelled),
    MethodSpec(
        "cluster.wait", "Return when the condition holds; `call.progress` tells of changes.", WaitParams, WaitResult
    ),
    MethodSpec("cluster.watch", "A snapshot, then `watch.event` notifications.", WatchParams, WatchStarted),
    MethodSpec("daemon.hello", "Who answers, and what it can do.", NoParams, Hello),
    MethodSpec("daemon.metrics", "What the daemon counts, as Prometheus text.", NoParams, Metrics),
    MethodSpec("daemon.path", "Offer a PATH that has the credential plugin the daemon lacks.", PathParams, PathTaken),
    MethodSpec("daemon.reload", "Read the cluster files and settings again now.", NoParams, Done, True),
    MethodSpec(
        "daemon.restart", "Start the daemon anew in place; nobody is refused meanwhile.", RestartParams, Done, True
    ),
    MethodSpec("daemon.status", "The daemon about itself and its connection.", NoParams, DaemonStatus),
    MethodSpec("daemon.stop", "Stop the daemon; clusters stay.", NoParams, Done, True),
    MethodSpec("forward.close", "Close local ports; remembered.", CloseParams, Services, True),
    MethodSpec("forward.list", "Every forward with its counters.", ListParams, ForwardList),
    MethodSpec("forward.open", "Open local ports; remembered.", OpenParams, Services, True),
    MethodSpec("pod.exec", "Run a command in a pod; frames follow.", ExecParams, Streaming),
    MethodSpec("pod.logs", "A pod's log, or a service's; frames follow.", LogParams, Streaming),
    MethodSpec("rpc.cancel", "Cancel a reading call of this connection.", CancelParams, Cancelled),
    MethodSpec("rpc.discover", "This API as an OpenRPC document.", NoParams, dict[str, Any]),
    MethodSpec("setup.contexts", "The contexts of the kubeconfig.", ContextsParams, ContextList),
    MethodSpec("setup.use", "Choose the kubeconfig and the context.", UseParams, UseResult, True),
    MethodSpec("ssh.hosts", "Our ssh configuration and the hosts in it.", ListParams, SshHosts),
    MethodSpec("view.render", "A view as text, for the terminal.", RenderParams, Rendered),
)

NOTIFICATIONS = {"call.progress": Progress, "watch.event": WatchEvent}

# Kind -> what it means. Kinds never change meaning; the sentences beside them may.
ERROR_KINDS = (
    "already-running",
    "api-unreachable",
    "api-version",
    "busy",
    "call-cancelled",
    "cluster-exists",
    "cluster-foreign",
    "cluster-not-found",
    "config-invalid",
    "conflict",
    "daemon-unreachable",
    "forbidden",
    "home-unusable",
    "internal",
    "kubeconfig-invalid",
    "kuberay-missing",
    "login-needed",
    "namespace-not-found",
    "pod-gone",
    "port-taken",
    "protocol",
    "rejected",
    "timed-out",
    "usage",
)


def document() -> dict[str, Any]:
    """This API as an OpenRPC document: methods, their parameter and result schemas, and the error kinds."""
    types = [part for spec in METHODS for part in (spec.params, spec.result)]
    schemas, components = msgspec.json.schema_components(
        [*types, *NOTIFICATIONS.values()], ref_template="#/components/schemas/{name}"
    )
    pairs = [schemas[at : at + 2] for at in range(0, 2 * len(METHODS), 2)]
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {"title": "kraynd", "version": str(API_VERSION)},
        "methods": [
            _method(spec, params, result, components) for spec, (params, result) in zip(METHODS, pairs, strict=True)
        ],
        "components": {"schemas": components},
        "x-notifications": dict(zip(NOTIFICATIONS, schemas[2 * len(METHODS) :], strict=True)),
        "x-error-kinds": list(ERROR_KINDS),
    }


def _method(
    spec: MethodSpec, params: dict[str, Any], result: dict[str, Any], components: dict[str, Any]
) -> dict[str, Any]:
    shape = components[params["$ref"].rpartition("/")[2]]
    return {
        "name": spec.name,
        "summary": spec.summary,
        "paramStructure": "by-name",
        "params": [
            {"name": name, "required": name in shape.get("required", ()), "schema": schema}
            for name, schema in shape["properties"].items()
        ],
        "result": {"name": "result", "schema": result},
        "x-mutates": spec.mutates,
    }
