"""REST to the API server: JSON in, JSON out, and its refusals as our errors.

kubernetes_asyncio sends the requests. Each has a deadline; 401 refreshes the credential once, 429 and 503 wait as told,
bounded. No body and no header is ever logged.
"""

import errno
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlencode

import aiohttp
import anyio
import msgspec
from kubernetes_asyncio.client.configuration import Configuration
from kubernetes_asyncio.client.rest import RESTClientObject
from multidict import CIMultiDict

from kraynd.core.model import Json
from kraynd.kube.auth import ApiEndpoint
from krayne.errors import (
    ClusterAlreadyExistsError,
    ConflictError,
    ForbiddenError,
    KrayneError,
    KubeConnectionError,
    LoginNeededError,
    NamespaceNotFoundError,
)

FIELD_MANAGER = "krayne"
REQUEST_SECONDS = 10.0
MOST_RETRIES = 3  # of a throttled request, before its caller's own backoff takes over
LONGEST_WAIT = 10.0  # seconds of a Retry-After that are waited here
READ_BUFFER = 256 * 1024  # bytes read ahead of us: a list's page, or one large event in a few steps
KEPT_SESSIONS = 2  # the current one and the one before a credential's rotation, whose watches live minutes
JSON_PATCH = "application/json-patch+json"


class GoneError(KrayneError):
    """410: the resourceVersion is too old; list again."""

    kind = "gone"


class UnreachedError(KubeConnectionError):
    """No answer came at all: the network's trouble, or the server is down."""


class AbsentError(KrayneError):
    """404: there is no such object or resource."""

    kind = "absent"


class KubeClient:
    """One connection pool to one API server. Close it with `close`."""

    def __init__(
        self,
        endpoint: ApiEndpoint,
        *,
        seconds: float = REQUEST_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.endpoint = endpoint
        self._seconds = seconds
        self._sleep = sleep
        self._sessions: list[tuple[RESTClientObject, ssl.SSLContext | None]] = []

    async def close(self) -> None:
        """Close every connection."""
        sessions, self._sessions = self._sessions, []
        for rest, _ in sessions:
            await rest.close()

    async def get(self, path: str, **query: str) -> Json:
        """One object, or a list's page."""
        return await self.request("GET", path, query=query)

    async def create(self, path: str, body: Json) -> Json:
        """A new object."""
        return await self.request("POST", path, query={"fieldManager": FIELD_MANAGER}, body=body)

    async def patch(self, path: str, ops: Sequence[Json]) -> Json:
        """A JSON patch."""
        return await self.request(
            "PATCH", path, query={"fieldManager": FIELD_MANAGER}, body=list(ops), content_type=JSON_PATCH
        )

    async def delete(self, path: str, *, uid: str, resource_version: str | None) -> Json:
        """Delete exactly this object."""
        conditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": conditions}
        return await self.request("DELETE", path, body=body | {"propagationPolicy": "Background"})

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> Json:
        """One request, retried while the server says to wait. Raises the KrayneErrors of `refusal`."""
        for attempt in range(MOST_RETRIES + 1):
            async with self.stream(method, path, query=query, body=body, content_type=content_type) as reply:
                data = await self.read(reply)
                if reply.status < HTTPStatus.BAD_REQUEST:
                    return _decoded(data)
                wait = _retry_after(reply)
                if wait is None or attempt == MOST_RETRIES:
                    raise refusal(reply.status, data, self.endpoint.server, is_patch=method == "PATCH")
            await self._sleep(wait)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response whose body is still to be read. Raises KubeConnectionError, LoginNeededError."""
        url = self.endpoint.server + path + (f"?{urlencode(query)}" if query else "")
        reply = await self._send(method, url, body, content_type, refresh=False)
        if reply.status == HTTPStatus.UNAUTHORIZED:
            reply.close()
            reply = await self._send(method, url, body, content_type, refresh=True)
        try:
            if reply.status == HTTPStatus.UNAUTHORIZED:
                raise login_needed(self.endpoint)
            yield reply
        finally:
            reply.close()

    async def _send(
        self, method: str, url: str, body: object, content_type: str, *, refresh: bool
    ) -> aiohttp.ClientResponse:
        headers = CIMultiDict({"Content-Type": content_type, "Accept": "application/json"})
        for name, value in (await self.endpoint.headers(refresh)).items():
            headers.add(name.title(), value)  # one spelling, or aiohttp takes repeated names for one
        rest = await self._client()
        try:
            with anyio.fail_after(self._seconds):
                reply: aiohttp.ClientResponse = await rest.request(
                    method, url, headers=cast("dict[str, str]", headers), body=body, _preload_content=False,
                    _request_timeout=aiohttp.ClientTimeout(sock_connect=self._seconds),
                )  # fmt: skip
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(self.endpoint.server, error) from error
        return reply

    async def read(self, reply: aiohttp.ClientResponse) -> bytes:
        """The whole body, within a deadline. Raises UnreachedError."""
        try:
            with anyio.fail_after(self._seconds):
                return await reply.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(self.endpoint.server, error) from error

    async def _client(self) -> RESTClientObject:
        """kubernetes_asyncio's REST client over our own TLS context; a new one when a plugin gave a new certificate."""
        if self._sessions and self._sessions[-1][1] is self.endpoint.ssl:
            return self._sessions[-1][0]
        configuration = Configuration(host=self.endpoint.server)
        configuration.proxy = self.endpoint.proxy
        configuration.tls_server_name = self.endpoint.server_hostname
        rest = RESTClientObject(configuration)
        # It can only read certificates from files and trusts the proxy variables even beside proxy-url.
        unused, rest.pool_manager = (
            rest.pool_manager,
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self.endpoint.ssl or True), read_bufsize=READ_BUFFER
            ),
        )
        # The one before stays open for what still streams on it.
        self._sessions.append((rest, self.endpoint.ssl))
        await unused.close()
        while len(self._sessions) > KEPT_SESSIONS:
            await self._sessions.pop(0)[0].close()
        return rest


def _decoded(data: bytes) -> Json:
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise KubeConnectionError(
            "the API server answered with something that is not JSON", hint="is there a proxy in between?"
        ) from None
    return found


def _retry_after(reply: aiohttp.ClientResponse) -> float | None:
    if reply.status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return None
    try:
        return min(max(float(reply.headers.get("Retry-After", "1")), 0.1), LONGEST_WAIT)
    except ValueError:
        return 1.0


def unreachable(server: str, error: BaseException) -> UnreachedError:
    """The network's trouble in words."""
    return UnreachedError(
        f"the API server {server} cannot be reached: {_why(error)}",
        hint="krayne goes on by itself once it can",
        retryable=True,
    )


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientResponseError):
        # Its text has the proxy's address, which may hold a password.
        return f"the proxy answered {error.status} {error.message}".strip()
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"TLS fails: {getattr(error.os_error, 'reason', None) or error.os_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        if error.os_error.errno == errno.ECONNREFUSED:
            return "connection refused"
        what = (error.os_error.strerror or str(error.os_error)).lower()
        return f"its proxy: {what}" if isinstance(error, aiohttp.ClientProxyConnectionError) else what
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}"
    return str(error) or type(error).__name__


def login_needed(endpoint: ApiEndpoint) -> LoginNeededError:
    """401 after a refresh."""
    plugin = (endpoint.access.user.get("exec") or {}).get("command")
    hint = f"log in again with {plugin}; krayne goes on by itself" if plugin else "renew the kubeconfig's credentials"
    return LoginNeededError(f"the API server refuses the credentials of context {endpoint.access.context}", hint=hint)


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
        if details.get("kind") == "namespaces":
            return NamespaceNotFoundError(text, hint=f"kubectl create namespace {details.get('name', '')}".strip())
        return AbsentError(text)
    if status == HTTPStatus.GONE:
        return GoneError(text)
    if is_patch and status == HTTPStatus.UNPROCESSABLE_ENTITY and not details.get("name"):
        # So answers a JSON patch that does not fit the object, a failed `test` above all; an invalid result is named.
        return ConflictError("it is not as it was when it was read: the patch does not fit it", retryable=True)
    if status in (
        HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ):  # fmt: skip
        return KrayneError(f"Kubernetes refuses it: {text}", kind="rejected", hint="krayne describe shows the file")
    return KubeConnectionError(f"the API server {server} answered {status}: {text[:300]}", retryable=True)


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
    except (msgspec.DecodeError, RecursionError):
        return data[:200].decode("utf-8", "replace").strip(), "", {}


__all__ = ["AbsentError", "GoneError", "KubeClient", "UnreachedError", "refusal", "unreachable"]
