"""Values every part of the daemon speaks of: keys, services, targets. Frozen, no behaviour beyond naming."""

from typing import Any, NamedTuple

import msgspec

from krayne.config import ClusterConfig

Json = dict[str, Any]

DASHBOARD_PORT = 8265
CLIENT_PORT = 10001
NOTEBOOK_PORT = 8888
CODE_SERVER_PORT = 8443
SSH_PORT = 22


class ClusterKey(NamedTuple):
    """A cluster's identity within one world."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ForwardKey(NamedTuple):
    """A forward's identity within one world: the port book's key."""

    namespace: str
    cluster: str
    service: str

    @property
    def cluster_key(self) -> ClusterKey:
        """The cluster this forward belongs to."""
        return ClusterKey(self.namespace, self.cluster)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.cluster}/{self.service}"


class Service(msgspec.Struct, frozen=True):
    """One port of the head a user reaches. `scheme`: http, ssh, ray or tcp (extra ports)."""

    name: str
    remote_port: int
    scheme: str


class PodTarget(msgspec.Struct, frozen=True):
    """The pod a cluster's forwards lead to now. A replaced head is another `uid`."""

    namespace: str
    pod: str
    uid: str
    running: bool
    ready: bool


DASHBOARD = Service("dashboard", DASHBOARD_PORT, "http")
CLIENT = Service("client", CLIENT_PORT, "ray")
NOTEBOOK = Service("notebook", NOTEBOOK_PORT, "http")
CODE_SERVER = Service("code-server", CODE_SERVER_PORT, "http")
SSH = Service("ssh", SSH_PORT, "ssh")
EVERY_CLUSTER = (DASHBOARD, CLIENT)
KNOWN_SERVICES = (DASHBOARD, CLIENT, NOTEBOOK, CODE_SERVER, SSH)


def services_of(config: ClusterConfig) -> tuple[Service, ...]:
    """The services a declared cluster offers, in the order they are shown."""
    chosen = list(EVERY_CLUSTER)
    if config.services.notebook:
        chosen.append(NOTEBOOK)
    if config.services.code_server:
        chosen.append(CODE_SERVER)
    if config.services.ssh:
        chosen.append(SSH)
    return tuple(chosen)


def extra_service(port: int) -> Service:
    """The service name of a port that is none of the known ones."""
    for known in KNOWN_SERVICES:
        if known.remote_port == port:
            return known
    return Service(f"port-{port}", port, "tcp")


def service_url(service: Service, cluster: str, local_port: int, user: str = "ray") -> str:
    """What a user types or clicks. One host name a forward, since browsers share cookies across ports."""
    if service.scheme == "http":
        return f"http://{service.name}.{cluster}.localhost:{local_port}"
    if service.scheme == "ssh":
        return f"ssh://{user}@127.0.0.1:{local_port}"
    if service.scheme == "ray":
        return f"ray://127.0.0.1:{local_port}"
    return f"tcp://127.0.0.1:{local_port}"
