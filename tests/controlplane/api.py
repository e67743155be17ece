"""The few requests the plane itself makes to its API server: JSON over HTTPS with a client certificate or a token.

Standard library only, one connection a request, no retries: a failure is the caller's to judge.
"""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

REQUEST_LIMIT = 30.0  # seconds for one request
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class ApiError(RuntimeError):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """One user's view of the API server."""

    def __init__(
        self, port: int, ca: Path, cert: Path | None = None, key: Path | None = None, *, token: str = ""
    ) -> None:
        self._port = port
        self._head = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls = ssl.create_default_context(cafile=str(ca))
        if cert is not None:
            self._tls.load_cert_chain(cert, key)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        kind: str = "application/json",
        limit: float = REQUEST_LIMIT,
    ) -> Any:
        """Send one request; bytes go as they are, the rest as JSON. Raises ApiError, OSError."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        link = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=limit)
        try:
            link.request(method, path, data, {**self._head, **({"Content-Type": kind} if data else {})})
            reply = link.getresponse()
            text = reply.read()
        finally:
            link.close()
        if reply.status >= http.HTTPStatus.BAD_REQUEST:
            raise ApiError(reply.status, text.decode(errors="replace")[:2000])
        return json.loads(text) if "json" in (reply.getheader("Content-Type") or "") else text.decode()

    def get(self, path: str) -> Any:
        """Read one object or list."""
        return self.request("GET", path)

    def create(self, path: str, body: object) -> Any:
        """Create; an object that exists already is left as it is."""
        try:
            return self.request("POST", path, body)
        except ApiError as error:
            if error.status != http.HTTPStatus.CONFLICT:
                raise
            return None

    def merge(self, path: str, body: object) -> Any:
        """JSON merge patch."""
        return self.request("PATCH", path, body, kind=MERGE)

    def apply(self, path: str, manifest: bytes) -> Any:
        """Server-side apply, taking every field."""
        return self.request("PATCH", f"{path}?fieldManager=plane&force=true", manifest, kind=APPLY)

    def ready(self) -> bool:
        """Whether /readyz says ok."""
        try:
            return bool(self.request("GET", "/readyz", limit=2.0) == "ok")
        except (OSError, ApiError, http.client.HTTPException):
            return False

    def watch(self, path: str, *, limit: float, **query: str) -> "Watch":
        """A list's watch; it ends when the server ends it, after `limit` seconds of silence, or by `close`."""
        link = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=limit)
        link.request("GET", f"{path}?{urlencode({'watch': '1', **query})}", headers=self._head)
        return Watch(link)


class Watch:
    """An open watch: iterate for events in one thread, `close` from any."""

    def __init__(self, link: http.client.HTTPSConnection) -> None:
        self._link = link
        self._socket = link.sock

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Events as they come. Raises ApiError, OSError."""
        try:
            reply = self._link.getresponse()
            if reply.status >= http.HTTPStatus.BAD_REQUEST:
                raise ApiError(reply.status, reply.read().decode(errors="replace")[:2000])
            while line := reply.readline():
                yield json.loads(line)
        finally:
            self._link.close()

    def close(self) -> None:
        """Wake the reader with an end of file."""
        with suppress(OSError):  # already closed by the other side
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
