"""Every error a user can meet: one sentence, a hint what to do next, and a stable kind.

`kind` travels over the socket API and decides the client's exit code; it never changes meaning. The sentence may.
Standard library only: the thin client imports this.
"""

from typing import Any, ClassVar


class KrayneError(Exception):
    """The root of all our errors: `kind` (stable), `message` (one sentence), `hint` (what to do next)."""

    kind: str = "internal"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        kind: str | None = None,
        retryable: bool = False,
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.kind = kind or type(self).kind
        self.retryable = retryable
        self.data = data or {}

    def __str__(self) -> str:
        return self.message


class UsageError(KrayneError):
    """The command line or a parameter makes no sense."""

    kind = "usage"
    exit_code = 2


class ConfigValidationError(KrayneError):
    """A cluster file, an override or a settings file is wrong; `data["problems"]` lists each place."""

    kind = "config-invalid"


class _OneClusterError(KrayneError):
    """Says which cluster it is about; empty where that is not known."""

    @property
    def name(self) -> str:
        """The cluster's name."""
        return str(self.data.get("name", ""))

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.data.get("namespace", ""))


class ClusterNotFoundError(_OneClusterError):
    """No such cluster is declared or observed."""

    kind = "cluster-not-found"
    exit_code = 4


class ClusterAlreadyExistsError(_OneClusterError):
    """A cluster of that name is declared already, or exists and is somebody else's."""

    kind = "cluster-exists"


class ClusterForeignError(_OneClusterError):
    """The cluster exists but is not ours to change."""

    kind = "cluster-foreign"


class ClusterTimeoutError(_OneClusterError):
    """What was waited for did not happen in time."""

    kind = "timed-out"
    exit_code = 124

    @property
    def timeout(self) -> float:
        """How long was waited, in seconds."""
        return float(self.data.get("timeout", 0.0))


class DaemonUnreachableError(KrayneError):
    """No daemon answers on the control socket."""

    kind = "daemon-unreachable"
    exit_code = 3


class KubeConnectionError(KrayneError):
    """The Kubernetes API cannot be reached or used; the kind says how."""

    kind = "api-unreachable"


class KubeConfigError(KubeConnectionError):
    """The kubeconfig is missing, malformed, or names no such context."""

    kind = "kubeconfig-invalid"


class LoginNeededError(KubeConnectionError):
    """The credentials are refused or their plugin failed: a person must log in again."""

    kind = "login-needed"


class ForbiddenError(KubeConnectionError):
    """RBAC refuses the request."""

    kind = "forbidden"


class KubeRayNotInstalledError(KubeConnectionError):
    """The cluster serves no ray.io/v1 RayClusters."""

    kind = "kuberay-missing"


class NamespaceNotFoundError(_OneClusterError):
    """The namespace does not exist."""

    kind = "namespace-not-found"
    exit_code = 4


class ConflictError(KrayneError):
    """Somebody changed the object since it was read: look again."""

    kind = "conflict"


class PortTakenError(KrayneError):
    """The local port is held by another process, which the message names."""

    kind = "port-taken"


class ProtocolError(KrayneError):
    """The peer broke the wire protocol."""

    kind = "protocol"


class StateError(KrayneError):
    """The home folder or a state file cannot be used."""

    kind = "home-unusable"


def _all_kinds() -> dict[str, type[KrayneError]]:
    found: dict[str, type[KrayneError]] = {}
    pending: list[type[KrayneError]] = [KrayneError]
    while pending:
        one = pending.pop()
        found.setdefault(one.kind, one)
        pending.extend(one.__subclasses__())
    return found


def error_for(kind: str, message: str, **more: Any) -> KrayneError:
    """The error class that carries `kind`; unknown kinds of a newer daemon stay plain KrayneErrors."""
    return _all_kinds().get(kind, KrayneError)(message, kind=kind, **more)
