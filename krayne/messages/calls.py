"""What the methods take and give, and the notifications."""

from typing import Any

import msgspec

from krayne.messages.views import API_OLDEST, API_VERSION, CAPABILITIES, ClusterView, ForwardView, ServiceView


class ClientVersions(msgspec.Struct, frozen=True):
    """What is installed beside the client: it decides a cluster's default image."""

    ray: str | None = None
    python: str | None = None
    client: str = ""


# Parameters. `namespace` None means: find the cluster by its name.


class NoParams(msgspec.Struct, frozen=True):
    """A method without parameters."""


class RestartParams(msgspec.Struct, frozen=True, kw_only=True):
    """`path`: the PATH that credential plugins are looked up in from then on; empty leaves it."""

    path: str = ""
    token: str = ""


class PathParams(msgspec.Struct, frozen=True, kw_only=True):
    """`path`: the caller's PATH, taken over if it has the credential plugin that the daemon's lacks."""

    path: str = ""


class PathTaken(msgspec.Struct, frozen=True, kw_only=True):
    """`taken`: plugins are looked for in it from now on, and the connection was tried again."""

    taken: bool


class ListParams(msgspec.Struct, frozen=True, kw_only=True):
    """Neither field: your declared clusters anywhere, and all of the context's own namespace."""

    namespace: str | None = None
    all_namespaces: bool = False
    name: str | None = None


class GetParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which cluster."""

    name: str
    namespace: str | None = None


class ClusterParams(GetParams, frozen=True, kw_only=True):
    """Which cluster to change; a repeated `token` gives the first call's answer again."""

    token: str = ""


class CreateParams(ClusterParams, frozen=True, kw_only=True):
    """`text` is a cluster file's content, or empty for the defaults; `set` overrides its dotted fields."""

    text: str = ""
    source: str = ""
    set: dict[str, Any] = {}
    client: ClientVersions = ClientVersions()
    exist_ok: bool = False
    dry_run: bool = False


class FileText(msgspec.Struct, frozen=True):
    """A cluster file as the client read it."""

    source: str
    text: str


class ApplyParams(msgspec.Struct, frozen=True, kw_only=True):
    """Cluster files to declare; nothing is done unless all of them are right."""

    files: tuple[FileText, ...]
    namespace: str | None = None
    client: ClientVersions = ClientVersions()
    dry_run: bool = False
    token: str = ""


class ScaleParams(ClusterParams, frozen=True, kw_only=True):
    """`group` may be left out where there is one."""

    group: str | None = None
    replicas: int | None = None
    minimum: int | None = None
    maximum: int | None = None


class DeleteParams(ClusterParams, frozen=True, kw_only=True):
    """`force`: also while others change it. One that is not ours is adopted first."""

    force: bool = False


class WaitParams(GetParams, frozen=True, kw_only=True):
    """`condition`: ready, deleted, or service=NAME."""

    condition: str = "ready"
    timeout_ms: int = 600_000


class WatchParams(msgspec.Struct, frozen=True, kw_only=True):
    """`since`: the last revision seen; without it, or when it is too old, a snapshot comes first."""

    namespace: str | None = None
    since: int | None = None


class UnwatchParams(msgspec.Struct, frozen=True):
    """Which watch of this connection."""

    watch: int


class PortChoice(msgspec.Struct, frozen=True):
    """A port of the head; `local` 0 takes it from the port book."""

    remote: int
    local: int = 0


class OpenParams(ClusterParams, frozen=True, kw_only=True):
    """No ports: all services."""

    ports: tuple[PortChoice, ...] = ()


class CloseParams(ClusterParams, frozen=True, kw_only=True):
    """Remote ports to close. None: all."""

    ports: tuple[int, ...] = ()


class RenderParams(ListParams, frozen=True, kw_only=True):
    """A view as text. `width` 0: do not cut lines (a pipe)."""

    view: str = "clusters"
    format: str = "table"
    color: bool = False
    width: int = 0


class CancelParams(msgspec.Struct, frozen=True):
    """The id of a call of this connection."""

    id: int | str


# Results.


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers, and what it can do. `streams`: connections open through its forwards, which a restart would end."""

    pid: int
    version: str
    home: str
    streams: int = 0
    api: int = API_VERSION
    api_oldest: int = API_OLDEST
    capabilities: tuple[str, ...] = CAPABILITIES


class Done(msgspec.Struct, frozen=True):
    """Nothing more to say than that it is done, and by whom."""

    pid: int = 0


class Metrics(msgspec.Struct, frozen=True):
    """What the daemon counts, in Prometheus' text format."""

    text: str = ""


class ClusterList(msgspec.Struct, frozen=True):
    """Clusters in the order they are shown."""

    clusters: tuple[ClusterView, ...]


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster, or for a dry run the manifest that would be sent, as an object and as YAML."""

    cluster: ClusterView | None = None
    manifest: dict[str, Any] | None = None
    text: str = ""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """One file's outcome: declared, updated, or would-declare, would-update for a dry run."""

    source: str
    action: str
    name: str
    namespace: str
    cluster: ClusterView | None = None


class AppliedList(msgspec.Struct, frozen=True):
    """In the order of the files."""

    results: tuple[Applied, ...]


class WaitResult(msgspec.Struct, frozen=True, kw_only=True):
    """`cluster` is None once it is gone."""

    met: bool
    cluster: ClusterView | None = None


class WatchStarted(msgspec.Struct, frozen=True, kw_only=True):
    """`clusters` is None when the watch resumes after `since`."""

    watch: int
    revision: int
    clusters: tuple[ClusterView, ...] | None = None


class Services(msgspec.Struct, frozen=True):
    """The services of one cluster."""

    services: tuple[ServiceView, ...]


class ForwardList(msgspec.Struct, frozen=True):
    """Every forward asked for."""

    forwards: tuple[ForwardView, ...]


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """After this line the connection carries raw bytes: `stdout` of them, then `stderr`, then it ends."""

    upgrade: str = "raw"
    exit: int = 0
    stdout: int = 0
    stderr: int = 0


class Cancelled(msgspec.Struct, frozen=True):
    """False: no such call, or one that must finish."""

    cancelled: bool


# Notifications.


class WatchEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`kind`: changed, removed, or resync (too much happened: watch again without `since`)."""

    watch: int
    revision: int
    kind: str
    name: str = ""
    namespace: str = ""
    cluster: ClusterView | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the call with this id is."""

    id: int | str
    cluster: ClusterView
