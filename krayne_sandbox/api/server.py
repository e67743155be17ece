"""The sandbox's API server: who asks, what for, and which part answers.

HTTPS on 127.0.0.1 alone; a request without the token learns nothing but health and version.
"""

import hmac
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import anyio.to_thread
from aiohttp import web

from krayne_sandbox import pki
from krayne_sandbox.api import openapi
from krayne_sandbox.api.answers import refuse, reply
from krayne_sandbox.api.bodies import BODY_LIMIT, is_true, read_object
from krayne_sandbox.api.discovery import REVIEWS, discover
from krayne_sandbox.api.executing import execute
from krayne_sandbox.api.forwarding import forward
from krayne_sandbox.api.logs import log
from krayne_sandbox.api.paths import Target, target_of
from krayne_sandbox.api.reading import Reader
from krayne_sandbox.api.writing import Writer
from krayne_sandbox.core.meta import Json
from krayne_sandbox.core.rules import Rules
from krayne_sandbox.core.statuses import StatusError, UnknownPathError, bad_request, not_allowed, unauthorized
from krayne_sandbox.definitions import ray_definition
from krayne_sandbox.kinds import CRDS, RAYCLUSTERS
from krayne_sandbox.node.face import Node
from krayne_sandbox.store import Store

HOST: Final = "127.0.0.1"
USER: Final = "krayne-sandbox-admin"
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/livez", "/version"})
SHUTDOWN_SECONDS: Final = 0.5  # open watches and streams get to end by themselves
BACKLOG: Final = 128
ACCESS: Final = logging.getLogger("krayne_sandbox.access")  # each request, at INFO
ACCESS.setLevel(logging.WARNING)  # silent unless asked for
ACCESS_FORMAT: Final = "%r %s"
_REVIEWS: Final = {f"/apis/{one.group}/{one.version}/{one.plural}": one for one in REVIEWS}


class Served(NamedTuple):
    """Where it listens, and the file that leads there."""

    port: int
    url: str
    kubeconfig: Path


@asynccontextmanager
async def serving(store: Store, node: Node, *, home: Path, port: int = 0) -> AsyncIterator[Served]:
    """Serve while entered. Port 0: that of the last time, else a free one. Raises OSError when it is taken."""
    known = await anyio.to_thread.run_sync(pki.credentials, home, time.time())
    wanted = port or _last_port(home)
    runner = web.AppRunner(
        application(store, node, known.token), access_log=ACCESS, access_log_format=ACCESS_FORMAT,
        handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS, handler_cancellation=True, auto_decompress=False,
    )  # fmt: skip
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, wanted, ssl_context=pki.server_context(known), backlog=BACKLOG)
        await site.start()
        bound = int(runner.addresses[0][1])
        url = f"https://{HOST}:{bound}"
        pki.write_private(home / "port", str(bound).encode())
        pki.write_private(home / "kubeconfig", pki.kubeconfig(known, url))
        yield Served(bound, url, home / "kubeconfig")
    finally:
        await runner.cleanup()


def _last_port(home: Path) -> int:
    try:
        return int((home / "port").read_text())
    except (OSError, ValueError):
        return 0


def application(store: Store, node: Node, token: str) -> web.Application:
    """The server as aiohttp runs it."""
    _install_definition(store)
    api = Api(store, node, token)
    made = web.Application(client_max_size=BODY_LIMIT)
    made.router.add_route("*", "/{path:.*}", api.answer)
    return made


def _install_definition(store: Store) -> None:
    definition = ray_definition()
    found = store.find(CRDS, "", definition["metadata"]["name"])
    if found is None:
        store.create(CRDS, definition)
        condition = {"type": "Established", "status": "True", "reason": "InitialNamesAccepted",
                     "message": "the initial names have been accepted"}  # fmt: skip
        names = definition["spec"]["names"]
        status = {"conditions": [condition], "acceptedNames": names, "storedVersions": ["v1"]}
        store.update(CRDS, {**definition, "status": status}, subresource="status")
    elif found["spec"] != definition["spec"]:
        store.update(CRDS, {**found, "spec": definition["spec"]})


class Api:
    """One handler for every path."""

    def __init__(self, store: Store, node: Node, token: str) -> None:
        rules = Rules(ray_definition())
        self._store = store
        self._node = node
        self._token = token.encode()
        self._rules = rules
        self._reader = Reader(store, rules)
        self._writer = Writer(store, rules)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any request; what is refused is a Status."""
        try:
            if request.path not in OPEN_PATHS and not self._known(request):
                raise unauthorized()
            return await self._answer(request)
        except StatusError as error:
            return refuse(error)
        except UnknownPathError:
            return web.Response(text="404 page not found\n", status=404)
        except ConnectionResetError:
            return web.Response()  # the client has left: nobody reads this

    def _known(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._token)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith(("/healthz", "/readyz", "/livez")):
            return web.Response(text="ok")
        if (target := target_of(path)) is not None:
            return await self._object(request, target)
        if path.rstrip("/") in _REVIEWS and request.method == "POST":
            return await self._review(request)
        if request.method not in {"GET", "HEAD"}:
            raise UnknownPathError
        if (found := discover(request)) is not None:
            return found
        return self._openapi(path)

    def _openapi(self, path: str) -> web.Response:
        if path == "/":
            return reply({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz",
                                    "/version"]})  # fmt: skip
        if path == "/openapi/v2":
            return reply(openapi.old_document())
        if path == "/openapi/v3":
            return reply(openapi.index(self._rules))
        document = openapi.document(path.removeprefix("/openapi/v3/"), self._rules)
        if not path.startswith("/openapi/v3/") or not document["paths"]:
            raise UnknownPathError
        return reply(document)

    async def _object(self, request: web.Request, target: Target) -> web.StreamResponse:
        if target.subresource not in {"", "status"}:
            return await self._subresource(request, target)
        method = request.method
        if method in {"GET", "HEAD"}:
            if target.name and not is_true(request.query, "watch"):
                return self._reader.get(request, target)
            if target.name:
                raise not_allowed()
            if is_true(request.query, "watch"):
                return await self._reader.watch(request, target)
            return self._reader.list(request, target)
        if target.kind != target.stored or (target.kind == CRDS and method != "GET"):
            raise not_allowed()
        if target.name and method == "POST" and target.kind == RAYCLUSTERS and not target.subresource:
            target = target._replace(name="")  # Kubernetes takes it for custom resources
        if target.name:
            verbs = {"PUT": self._writer.update, "PATCH": self._writer.patch, "DELETE": self._writer.delete}
            if target.subresource:
                del verbs["DELETE"]
        else:
            verbs = {"POST": self._writer.create, "DELETE": self._writer.delete_all}
        if method not in verbs or (target.kind.namespaced and not target.namespace and method == "POST"):
            raise not_allowed()
        return await verbs[method](request, target)

    async def _subresource(self, request: web.Request, target: Target) -> web.StreamResponse:
        found = self._store.get(target.kind, target.namespace, target.name)
        if target.subresource in {"exec", "portforward"} and not (found.get("spec") or {}).get("nodeName"):
            raise bad_request(f"pod {target.name} does not have a host assigned")
        if target.subresource == "log" and request.method == "GET":
            return await log(request, target, self._store, self._node)
        if target.subresource == "portforward" and request.method in {"GET", "POST"}:
            return await forward(request, target, self._store, self._node)
        if target.subresource == "exec" and request.method in {"GET", "POST"}:
            return await execute(request, target, self._node)
        if target.subresource == "eviction" and request.method == "POST":
            self._store.delete(target.kind, target.namespace, target.name)
            return reply({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}, 201)
        raise not_allowed()

    async def _review(self, request: web.Request) -> web.Response:
        """Who asks, and whether it may: the sandbox's one user may everything."""
        kind = _REVIEWS[request.path.rstrip("/")]
        sent = await read_object(request)
        status: Json = {"allowed": True}
        if kind.kind == "SelfSubjectReview":
            status = {"userInfo": {"username": USER, "groups": ["system:masters", "system:authenticated"]}}
        elif kind.kind == "SelfSubjectRulesReview":
            everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            status = {"resourceRules": [everything], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                      "incomplete": False}  # fmt: skip
        body = {**(sent if isinstance(sent, dict) else {}), "kind": kind.kind, "apiVersion": kind.api_version}
        return reply({"metadata": {}, **body, "status": status}, 201)


__all__ = ["Served", "application", "serving"]
