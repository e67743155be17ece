"""What the API server's answers, and its silence, mean as our errors. Pure; no error quotes a request."""

import errno
import os
import re
import socket
import ssl
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec

from kraynd.core.model import Json
from krayne.errors import (
    ClusterAlreadyExistsError,
    ConflictError,
    ForbiddenError,
    KrayneError,
    KubeConnectionError,
    NamespaceNotFoundError,
)
from krayne.rpc import DECODE_FAULTS

TEXT_LIMIT = 500  # characters of another program's message that are repeated
INVALID = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
)


class GoneError(KrayneError):
    """410: the resourceVersion is too old; list again."""

    kind = "gone"


class AbsentError(KrayneError):
    """404. `named`: the resource exists and this object of it does not."""

    kind = "absent"

    @property
    def named(self) -> bool:
        """Whether the answer names the object that is not there."""
        return bool(self.data.get("name"))


class UnreachedError(KubeConnectionError):
    """No answer came at all: the network's trouble, or the server is down."""


class BusyError(KubeConnectionError):
    """The server answers that it cannot serve now (429, 500 to 504). What we know of the object is still good."""


def decoded(data: bytes) -> Json:
    """An answer's JSON object. Raises KubeConnectionError."""
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except DECODE_FAULTS:
        raise nonsense("JSON") from None


def nonsense(wanted: str) -> KubeConnectionError:
    """Something else answers in the API server's place."""
    return KubeConnectionError(
        f"the API server answered with something that is not {wanted}",
        hint="is there a proxy in between?",
        retryable=True,
    )


def too_large(server: str) -> KubeConnectionError:
    """An answer past every bound."""
    return KubeConnectionError(f"the API server {server} sends an answer without end", retryable=True)


def unreachable(server: str, error: BaseException) -> UnreachedError:
    """The network's trouble in words."""
    return UnreachedError(
        f"the API server {server} cannot be reached: {_why(error)}",
        hint="krayne goes on by itself once it can",
        retryable=True,
    )


def _why(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        inner = error.certificate_error
        return f"its certificate is not trusted: {getattr(inner, 'verify_message', None) or inner}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"TLS fails: {_tls(error.os_error)}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"its proxy: {_network(error.os_error)}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _network(error.os_error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        # Its own text has the proxy's address, which may hold a password.
        return f"the proxy answered {error.status} {error.message}".strip()
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "it closed the connection"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {_tls(error)}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return _network(error)
    return f"it does not speak HTTP as expected ({type(error).__name__})"


def _tls(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()


def _network(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    # For a host with several addresses asyncio strings one error's text after the other.
    codes = {int(code) for code in re.findall(r"\[Errno (\d+)\]", str(error))}
    code = getattr(error, "errno", None) or (codes.pop() if len(codes) == 1 else None)
    if code == errno.ECONNREFUSED or (codes and errno.ECONNREFUSED in codes):
        return "connection refused"
    return os.strerror(code).lower() if code else str(error) or type(error).__name__


def refusal(status: int, data: bytes, server: str, *, is_patch: bool = False) -> KrayneError:
    """The error behind a Status object (k8s.io/apimachinery/pkg/api/errors)."""
    text, reason, details = _status(data)
    text = text or f"HTTP status {status}"
    if status == HTTPStatus.FORBIDDEN:
        return _forbidden(text)
    if status == HTTPStatus.CONFLICT:
        if reason == "AlreadyExists":
            return ClusterAlreadyExistsError(text, hint="krayne ls -A")
        return ConflictError(text, retryable=True)
    if status == HTTPStatus.NOT_FOUND:
        name = str(details.get("name") or "")
        if details.get("kind") == "namespaces":
            return NamespaceNotFoundError(text, hint=f"kubectl create namespace {name}".strip())
        return AbsentError(text, data={"name": name} if name else {})
    if status == HTTPStatus.GONE:
        return GoneError(text)
    if is_patch and status == HTTPStatus.UNPROCESSABLE_ENTITY and not details.get("name"):
        # So answers a JSON patch that does not fit the object, a failed `test` above all; an invalid result is named.
        return ConflictError("it is not as it was when it was read: the patch does not fit it", retryable=True)
    if status in INVALID:
        return KrayneError(f"Kubernetes refuses it: {text}", kind="rejected", hint="krayne describe shows the file")
    busy = status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    kind: type[KubeConnectionError] = BusyError if busy else KubeConnectionError
    return kind(f"the API server {server} answered {status}: {text[:TEXT_LIMIT]}", retryable=True)


def _forbidden(text: str) -> KrayneError:
    if "namespace" in text and "being terminated" in text:
        return ConflictError(text, hint="wait until the namespace is gone", retryable=True)
    # RBAC's sentence has it; without it a quota or an admission policy speaks, whose text says all.
    lacks = " cannot " in text
    return ForbiddenError(text, hint="ask for these rights: krayne's README lists them" if lacks else "")


def _status(data: bytes) -> tuple[str, str, Json]:
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
        details = found.get("details")
        details = details if isinstance(details, dict) else {}
        return str(found.get("message") or ""), str(found.get("reason") or ""), details
    except DECODE_FAULTS:
        return " ".join(data[:200].decode("utf-8", "replace").split()), "", {}
