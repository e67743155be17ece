"""REST to the API server: JSON in, JSON out, and its refusals as our errors.

kubernetes_asyncio sends the requests. Each has a deadline; 401 refreshes the credential once, 429 and 503 wait as told,
bounded. No body and no header is ever logged.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import cast
from urllib.parse import urlencode

import aiohttp
import anyio
from multidict import CIMultiDict
from yarl import URL

from kraynd.core.model import Json
from kraynd.kube.auth import ApiEndpoint
from kraynd.kube.refusals import AbsentError, GoneError, UnreachedError, decoded, refusal, too_large, unreachable
from kraynd.kube.restclient import RESTClientObject
from krayne.errors import KrayneError

FIELD_MANAGER = "krayne"
REQUEST_SECONDS = 10.0
LIST_SECONDS = 60.0  # a page of 500 pods over a slow line
MOST_RETRIES = 3  # of a throttled request, before its caller's own backoff takes over
SHORTEST_WAIT = 1.0  # seconds before a throttled request is repeated, whatever the server says
LONGEST_WAIT = 10.0  # seconds of a Retry-After that are waited here; a longer one is the caller's to pace
REPLY_LIMIT = 256 * 1024 * 1024  # bytes of one answer: a page of 500 objects of half a MiB
READ_BUFFER = 256 * 1024  # bytes read ahead of us: a list's page, or one large event in a few steps
CLOSE_SECONDS = 1.0  # for a pool to close, a matter of one turn of the loop
JSON_PATCH = "application/json-patch+json"


class _Session(RESTClientObject):
    """kubernetes_asyncio's REST client with one pool. One that is left is closed when its last request ends.

    Not by its own constructor, which reads certificates from files alone and heeds proxy variables beside proxy-url.
    """

    def __init__(self, endpoint: ApiEndpoint) -> None:
        self.context = endpoint.ssl
        self.users = 0
        self.server_hostname = cast("str", endpoint.server_hostname)
        self.proxy = cast("str", endpoint.proxy)
        self.proxy_headers = {}
        connector = aiohttp.TCPConnector(limit=0, ssl=endpoint.ssl or True)
        self.pool_manager = aiohttp.ClientSession(connector=connector, read_bufsize=READ_BUFFER)


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
        self._session: _Session | None = None
        self._leaving: list[_Session] = []
        self._closed = False
        self._quiet_until = 0.0
        quiet_foreign_loggers()

    async def close(self) -> None:
        """Close every connection that carries nothing, and the others when they end."""
        self._closed = True
        self.renew()
        await self._clear()

    def renew(self) -> None:
        """Use new connections from here on: after sleep those kept open may be dead without knowing it."""
        if self._session is not None:
            self._leaving.append(self._session)
            self._session = None

    async def get(self, path: str, **query: str) -> Json:
        """One object, or a small list."""
        return await self.request("GET", path, query=query)

    async def page(self, path: str, **query: str) -> Json:
        """A list's page, which may take longer than other answers."""
        return await self.request("GET", path, query=query, seconds=max(LIST_SECONDS, self._seconds))

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
        seconds: float | None = None,
    ) -> Json:
        """One request, retried while the server says to wait. Raises the KrayneErrors of `refusals`."""
        for attempt in range(MOST_RETRIES + 1):
            async with self.stream(method, path, query=query, body=body, content_type=content_type) as reply:
                data = await self.read(reply, seconds)
                if reply.status < HTTPStatus.BAD_REQUEST:
                    return decoded(data)
                wait = _retry_after(reply)
                if wait is None or wait > LONGEST_WAIT or attempt == MOST_RETRIES:
                    raise self.refused(reply, data, is_patch=method == "PATCH")
            # One pace for everything that asks this server.
            self._quiet_until = max(self._quiet_until, anyio.current_time() + wait)
        raise AssertionError("unreachable")

    def refused(self, reply: aiohttp.ClientResponse, data: bytes, *, is_patch: bool = False) -> KrayneError:
        """The error behind an answer of 400 and above, with the wait the server asks for in `data`."""
        text = self.endpoint.masked(data.decode("utf-8", "replace"))
        error = refusal(reply.status, text.encode(), self.endpoint.server, is_patch=is_patch)
        wait = _retry_after(reply)
        if wait is not None:
            error.data["retry_after"] = wait
        return error

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
        """A response whose body is still to be read. Raises UnreachedError, LoginNeededError."""
        pause = self._quiet_until - anyio.current_time()
        if pause > 0:
            await self._sleep(pause)
        url = self.endpoint.server + path + (f"?{urlencode(query)}" if query else "")
        async with self._sent(method, url, body, content_type, refresh=False) as reply:
            if reply.status != HTTPStatus.UNAUTHORIZED:
                yield reply
                return
        async with self._sent(method, url, body, content_type, refresh=True) as reply:
            if reply.status == HTTPStatus.UNAUTHORIZED:
                raise self.endpoint.login_needed()
            yield reply

    @asynccontextmanager
    async def _sent(
        self, method: str, url: str, body: object, content_type: str, *, refresh: bool
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = CIMultiDict({"Content-Type": content_type, "Accept": "application/json"})
        for name, value in (await self.endpoint.headers(refresh)).items():
            headers.add(name.title(), value)  # one spelling, or aiohttp takes repeated names for one
        session = self._current()
        session.users += 1
        try:
            reply = await self._answered(session, method, url, headers, body)
            try:
                yield reply
            finally:
                _drop(reply)
        finally:
            session.users -= 1
            await self._clear()

    async def _answered(
        self, session: _Session, method: str, url: str, headers: CIMultiDict[str], body: object
    ) -> aiohttp.ClientResponse:
        self.endpoint.requests += 1
        try:
            with anyio.fail_after(self._seconds):
                reply: aiohttp.ClientResponse = await session.request(
                    method, URL(url, encoded=True), headers=cast("dict[str, str]", headers), body=body,
                    _preload_content=False, _request_timeout=aiohttp.ClientTimeout(sock_connect=self._seconds),
                )  # fmt: skip
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # Nowhere `from error`: its text may hold the proxy's password, and tracebacks are logged.
            if isinstance(error, TimeoutError) and session is self._session:
                self.renew()  # its other idle connections go the same way
            raise unreachable(self.endpoint.server, error) from None
        return reply

    async def read(self, reply: aiohttp.ClientResponse, seconds: float | None = None) -> bytes:
        """The whole body, within a deadline. Raises UnreachedError."""
        data = bytearray()
        try:
            with anyio.fail_after(seconds or self._seconds):
                while chunk := await reply.content.readany():
                    data += chunk
                    if len(data) > REPLY_LIMIT:
                        raise too_large(self.endpoint.server)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(self.endpoint.server, error) from None
        return bytes(data)

    def _current(self) -> _Session:
        """A new one when the certificate is new. One opened after `close` lives for its request alone."""
        if self._session is not None and self._session.context is self.endpoint.ssl:
            return self._session
        self.renew()
        made = self._session = _Session(self.endpoint)
        if self._closed:
            self.renew()
        return made

    async def _clear(self) -> None:
        """Close what was left and carries nothing any more."""
        idle = [one for one in self._leaving if not one.users]
        self._leaving = [one for one in self._leaving if one.users]
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS):
            for one in idle:
                await one.close()


def _drop(reply: aiohttp.ClientResponse) -> None:
    """End a response. What was not read to its end is cut: TLS's goodbye would wait for a server that is silent."""
    if reply.connection is not None and reply.connection.transport is not None:
        reply.connection.transport.abort()
    reply.close()


def _retry_after(reply: aiohttp.ClientResponse) -> float | None:
    """Seconds the server wants us to wait; None when it does not say. Its date form counts as not said."""
    if reply.status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return None
    try:
        return max(float(reply.headers["Retry-After"]), SHORTEST_WAIT)
    except (KeyError, ValueError):
        return SHORTEST_WAIT if reply.status == HTTPStatus.TOO_MANY_REQUESTS else None


def quiet_foreign_loggers() -> None:
    """At debug level kubernetes_asyncio logs whole bodies, and asyncio command lines: Secrets among them."""
    for name in ("kubernetes_asyncio", "aiohttp", "urllib3", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


__all__ = ["AbsentError", "GoneError", "KubeClient", "UnreachedError", "refusal", "unreachable"]
