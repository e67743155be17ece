"""What is shown: clusters, forwards, the daemon; and the words their states are said in."""

import msgspec

API_VERSION = 1
API_OLDEST = 1  # the oldest client this daemon still serves
CAPABILITIES = ("watch.since", "wait.progress", "view.render")

# What a service's `state` may say. Only READY means that a connection goes through now.
READY = "ready"
HOLDING = "holding"  # the port listens; connections wait until the cluster can take them
INSTALLING = "installing"
FAILED = "failed"
PORT_TAKEN = "port-taken"
REFUSED = "refused"
OFF = "off"
WAITING_STATES = frozenset({HOLDING, INSTALLING})


class Workers(msgspec.Struct, frozen=True):
    """Worker counts over all groups."""

    ready: int = 0
    desired: int = 0
    min: int = 0
    max: int = 0


class ServiceView(msgspec.Struct, frozen=True):
    """One port of the head and where it is reached. `local_port` 0: none yet. `listening`: it can be connected to."""

    name: str
    remote_port: int
    local_port: int
    url: str
    state: str
    reason: str = ""
    listening: bool = True


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster as lists show it. Times are unix seconds; `owner` is empty for ours."""

    name: str
    namespace: str
    phase: str
    reason: str = ""
    declared: bool = False
    workers: Workers = Workers()
    services: tuple[ServiceView, ...] = ()
    since: float | None = None
    source: str = ""
    owner: str = ""
    restart_needed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    image: str = ""
    ray_version: str = ""
    created: float | None = None


class ResourcesView(msgspec.Struct, frozen=True):
    """What one pod asks for; quantities in Kubernetes' spelling."""

    cpus: str = ""
    memory: str = ""
    gpus: int = 0
    image: str = ""


class GroupView(msgspec.Struct, frozen=True, kw_only=True):
    """One worker group."""

    name: str
    ready: int = 0
    desired: int = 0
    min: int = 0
    max: int = 0
    resources: str = ""
    image: str = ""
    reason: str = ""
    each: ResourcesView | None = None


class HeadView(msgspec.Struct, frozen=True, kw_only=True):
    """The head pod of the moment."""

    pod: str
    phase: str = ""
    node: str = ""
    ready: bool = False
    restarts: int = 0
    since: float | None = None
    reason: str = ""


class ForwardView(msgspec.Struct, frozen=True, kw_only=True):
    """One forward with its counters. Refused: `foreign` connections of other users, `blocked` requests of web pages.

    `socket`: its Unix socket.
    """

    namespace: str
    cluster: str
    service: str
    remote_port: int
    local_port: int
    url: str = ""
    state: str
    reason: str = ""
    connections: int = 0
    held: int = 0
    total: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reconnects: int = 0
    last_error: str = ""
    since: float | None = None
    foreign: int = 0
    socket: str = ""
    blocked: int = 0


class ServiceReportView(msgspec.Struct, frozen=True):
    """What a service in the head pod says of itself: installing, running or failed."""

    name: str
    state: str
    reason: str = ""
    since: float | None = None


class ClusterDetails(ClusterView, frozen=True, kw_only=True):
    """A cluster with everything known of it. `problem`: why its file is not followed now. `head_asks`: as declared."""

    groups: tuple[GroupView, ...] = ()
    head: HeadView | None = None
    events: tuple[str, ...] = ()
    forwards: tuple[ForwardView, ...] = ()
    reports: tuple[ServiceReportView, ...] = ()
    problem: str = ""
    head_asks: ResourcesView | None = None


class WorldView(msgspec.Struct, frozen=True, kw_only=True):
    """The Kubernetes cluster we are connected to, and how that goes."""

    context: str = ""
    server: str = ""
    condition: str = "connecting"
    reason: str = ""
    hint: str = ""
    since: float | None = None


class FileProblemView(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster file that is not followed, and why."""

    source: str
    message: str
    hint: str = ""
    name: str = ""
    namespace: str = ""


class DaemonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon about itself. `kuberay` is a version or empty; `frozen` says why nothing is written any more."""

    pid: int
    version: str
    api: int = API_VERSION
    home: str
    socket: str
    world: WorldView = WorldView()
    kuberay: str = ""
    clusters: int = 0
    forwards: int = 0
    uptime_s: float = 0.0
    frozen: str = ""
    problems: tuple[FileProblemView, ...] = ()
    notes: tuple[str, ...] = ()
