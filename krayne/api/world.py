"""Which Kubernetes cluster the daemon is connected to, and whether that is the one a caller means. Plans, no I/O but
reading a kubeconfig that the caller names.
"""

from typing import Any

from krayne.api.asking import Ask, Json, Plan
from krayne.errors import KrayneError, KubeConfigError, UsageError, error_for

# How `daemon.status` says what keeps it from Kubernetes -> the kind of error it is.
KINDS = {
    "unreachable": "api-unreachable",
    "connecting": "api-unreachable",
    "login-needed": "login-needed",
    "forbidden": "forbidden",
    "kuberay-missing": "kuberay-missing",
    "misconfigured": "kubeconfig-invalid",
}


def world() -> Plan[Json]:
    """The daemon's connection, after its first contact."""
    found = (yield Ask("daemon.status", {}, again=True))["world"]
    if found["condition"] == "connecting":
        yield Ask("cluster.list", {}, again=True)  # answered after the first contact
        found = (yield Ask("daemon.status", {}, again=True))["world"]
    return dict(found)


def trouble(found: Json) -> KrayneError | None:
    """The error that the connection's condition is; None while it is usable."""
    kind = KINDS.get(found["condition"])
    if kind is None:
        return None
    reason = found["reason"] or "the connection is not made yet"
    return error_for(kind, f"no connection to Kubernetes: {reason}", hint=found["hint"], retryable=True)


def connected() -> Plan[None]:
    """Raises KubeConnectionError unless the daemon is connected."""
    fault = trouble((yield from world()))
    if fault is not None:
        raise fault


def check_reach(client: object, kubeconfig: object) -> Plan[None]:
    """Refuse a Kubernetes client, and a kubeconfig that leads elsewhere than the daemon's. Raises UsageError."""
    if client is not None:
        raise UsageError("client= has no meaning here: the daemon alone talks to Kubernetes", hint="leave client= out")
    if kubeconfig is None:
        return
    wanted = server_of(str(kubeconfig))
    found = (yield from world())["server"]
    if _plain(found) != _plain(wanted):
        raise UsageError(
            f"kubeconfig={kubeconfig} leads to {wanted}, but the daemon is connected to {found or 'nothing'}",
            hint="set kubeconfig in ~/.krayne/config.yaml, or use another KRAYNE_HOME for another daemon",
        )


def server_of(path: str) -> str:
    """The API server that a kubeconfig's current context leads to. Raises KubeConfigError."""
    import os

    import yaml

    try:
        with open(os.path.expanduser(path), "rb") as file:
            data = yaml.safe_load(file)
        context = _named(data["contexts"], data["current-context"])["context"]
        return str(_named(data["clusters"], context["cluster"])["cluster"]["server"])
    except OSError as error:
        raise KubeConfigError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error
    except (yaml.YAMLError, KeyError, TypeError, StopIteration):
        # Without its cause: YAML errors quote the file, and it may hold a token.
        raise KubeConfigError(f"{path} is no kubeconfig with a current context", hint="kubectl config view") from None


def _named(entries: Any, name: str) -> Any:
    return next(one for one in entries if one["name"] == name)


def _plain(server: str) -> str:
    return server.rstrip("/").lower()
