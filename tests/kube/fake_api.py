"""An API server in this process that speaks real HTTP over real TLS, with one list-and-watch history of its own.

`objects` is the model a cache must equal. What goes wrong is a queue: each entry answers one request in place of the
server, in order, of the request whose line contains its text.
"""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
import yaml

from kraynd.core.model import Json
from kraynd.kube.auth import ApiEndpoint, load_endpoint
from krayne.config import KrayneSettings

RAY = "/apis/ray.io/v1/rayclusters"
PODS = "/api/v1/pods"
KINDS = {RAY: "RayClusterList", PODS: "PodList"}


@dataclass
class Request:
    """One request as it came."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def query(self) -> dict[str, str]:
        return {key: one[-1] for key, one in parse_qs(urlsplit(self.target).query).items()}

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class FakeApi:
    """The server. `address` is what a kubeconfig says; `requests` is every request in order."""

    ca: trustme.CA = field(default_factory=trustme.CA)
    name: str = "127.0.0.1"
    requests: list[Request] = field(default_factory=list)
    objects: dict[str, dict[str, Json]] = field(default_factory=lambda: {RAY: {}, PODS: {}})
    faults: list[tuple[str, Answer]] = field(default_factory=list)
    allowed: Callable[[Request], bool] = lambda _: True
    barred: Callable[[Request], bool] = lambda _: False
    identity: str = "world-1"
    events: list[Json] = field(default_factory=list)
    page: int = 1000
    port: int = 0
    version: int = 100
    log: list[tuple[int, str, str, Json]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    # What changes.

    def put(self, path: str, name: str, namespace: str = "default", **more: Any) -> Json:
        """Create or change an object."""
        self.version += 1
        key = f"{namespace}/{name}"
        kind = "MODIFIED" if key in self.objects[path] else "ADDED"
        metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": str(self.version)}
        made = {"metadata": metadata | more.pop("metadata", {}), **more}
        self.objects[path][key] = made
        self._tell(path, kind, made)
        return made

    def remove(self, path: str, name: str, namespace: str = "default") -> None:
        """Delete an object."""
        self.version += 1
        gone = self.objects[path].pop(f"{namespace}/{name}")
        self._tell(path, "DELETED", gone | {"metadata": gone["metadata"] | {"resourceVersion": str(self.version)}})

    def _tell(self, path: str, kind: str, item: Json) -> None:
        self.log.append((self.version, path, kind, item))
        self.ring()

    def ring(self) -> None:
        """Wake every open watch and every waiting test."""
        self.news.set()
        self.news = asyncio.Event()

    def fail(self, text: str, *answers: Answer) -> None:
        """Answer the next requests whose line contains `text` so, one each."""
        self.faults += [(text, one) for one in answers]

    def watches(self, path: str = RAY) -> list[Request]:
        """The watch requests so far."""
        return [one for one in self.requests if one.target.startswith(path + "?") and one.is_watch]

    def lists(self, path: str = RAY) -> list[Request]:
        """The list requests so far."""
        return [one for one in self.requests if one.target.startswith(path + "?") and not one.is_watch]

    # Serving.

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeApi"]:
        """Listen for the block; every connection is over after it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(self.name).configure_cert(context)
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def empty(self) -> None:
        """End the service of every connection."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()  # an idle watch does not notice that its client has left
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while request := await _read(reader):
                self.requests.append(request)
                self.ring()
                await self._answer(request, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        for index, (text, answer) in enumerate(self.faults):
            if text in f"{request.method} {request.target}":
                del self.faults[index]
                return await answer(request, writer)
        path = urlsplit(request.target).path
        if not self.allowed(request):
            return reply(writer, 401, status(401, "Unauthorized"))
        if self.barred(request):
            return reply(writer, 403, status(403, f'User "me" cannot read {path}'))
        if path == "/api/v1/namespaces/kube-system":
            return reply(writer, 200, {"metadata": {"uid": self.identity}})
        if path == "/apis/ray.io/v1":
            return reply(writer, 200, {"resources": [{"name": "rayclusters"}]})
        if path.endswith("/events"):
            wanted = request.query.get("fieldSelector", "").partition("=")[2]
            found = [one for one in self.events if wanted in ("", one["involvedObject"]["uid"])]
            return reply(writer, 200, {"kind": "EventList", "metadata": {}, "items": found})
        space = re.fullmatch(r"(.*)/namespaces/([^/]+)(/.*)", path)
        base, namespace = (space[1] + space[3], space[2]) if space else (path, "")
        if base not in self.objects or request.method != "GET":
            return reply(writer, 404, status(404, f"no {path}"))
        if request.is_watch:
            return await self._watch(base, namespace, int(request.query["resourceVersion"]), writer)
        return self._list(base, namespace, request, writer)

    def _list(self, path: str, namespace: str, request: Request, writer: asyncio.StreamWriter) -> None:
        start = int(request.query.get("continue", 0))
        items = [one for one in self.objects[path].values() if namespace in ("", one["metadata"]["namespace"])]
        metadata = {"resourceVersion": str(self.version)}
        if start + self.page < len(items):
            metadata["continue"] = str(start + self.page)
        reply(writer, 200, {"kind": KINDS[path], "metadata": metadata, "items": items[start : start + self.page]})

    async def _watch(self, path: str, namespace: str, since: int, writer: asyncio.StreamWriter) -> None:
        start_stream(writer)
        while True:
            for version, where, kind, item in self.log:
                if where == path and version > since and namespace in ("", item["metadata"]["namespace"]):
                    event(writer, kind, item)
                    since = version
            await writer.drain()
            await self.news.wait()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode().strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Request(method, target, headers, await reader.readexactly(length))


# What is answered.


def status(code: int, message: str, **more: Any) -> Json:
    """A Status object."""
    return {"kind": "Status", "status": "Failure", "message": message, "code": code, **more}


def reply(writer: asyncio.StreamWriter, code: int, body: object, **headers: str) -> None:
    """A whole response."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {code} X", f"Content-Length: {len(data)}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + data)


def start_stream(writer: asyncio.StreamWriter) -> None:
    """The head of a watch's response."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")


def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Some bytes of it."""
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def event(writer: asyncio.StreamWriter, kind: str, item: Json) -> None:
    """One event."""
    chunk(writer, json.dumps({"type": kind, "object": item}).encode() + b"\n")


def refuse(code: int, message: str = "no", **headers: str) -> Answer:
    """Answers with a Status."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, code, status(code, message), **headers)

    return answer


def say(body: object) -> Answer:
    """Answers 200 with this."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 200, body)

    return answer


def stream(*pieces: bytes, end: bool = True) -> Answer:
    """Answers a watch with these bytes; then ends it in order, or else stays silent until the client leaves."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        start_stream(writer)
        for piece in pieces:
            chunk(writer, piece)
            await writer.drain()
            await asyncio.sleep(0)
        if not end:
            await asyncio.Event().wait()
        writer.write(b"0\r\n\r\n")

    return answer


def held(over: asyncio.Event, *, end: bool = True) -> Answer:
    """Answers a watch with silence until told; then ends it in order, or else cuts it."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        start_stream(writer)
        await writer.drain()
        await over.wait()
        if end:
            writer.write(b"0\r\n\r\n")
        else:
            writer.transport.abort()

    return answer


async def cut(request: Request, writer: asyncio.StreamWriter) -> None:
    """Closes the connection without a word."""
    writer.transport.abort()


async def hang(request: Request, writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.Event().wait()


# The way to it.


def kubeconfig(api: FakeApi, folder: Path, user: Json, cluster: Mapping[str, Any] | None = None) -> Path:
    """A kubeconfig that leads to it."""
    (folder / "ca.pem").write_bytes(api.ca.cert_pem.bytes())
    place = {"server": api.address, "certificate-authority": "ca.pem"} | dict(cluster or {})
    place = {"server": api.address, "certificate-authority": "ca.pem", **(cluster or {})}
    made = {
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": "default"}}],
        "clusters": [{"name": "fake", "cluster": place}],
        "users": [{"name": "me", "user": user}],
    }
    path = folder / "config"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(made))
    return path


def endpoint_of(
    api: FakeApi, folder: Path, user: Json | None = None, *, environ: Mapping[str, str] | None = None, **cluster: Any
) -> ApiEndpoint:
    """The endpoint of a kubeconfig that leads to it."""
    settings = KrayneSettings(kubeconfig=str(kubeconfig(api, folder, user or {"token": "good"}, cluster)))
    return load_endpoint(settings, {"PATH": "/usr/bin:/bin"} if environ is None else environ)
