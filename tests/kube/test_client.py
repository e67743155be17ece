"""REST over real TLS: what is sent, what each answer and each silence means, and what never leaks."""

import asyncio
import json
import logging
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trustme

from kraynd.core.model import Json
from kraynd.kube.client import KubeClient
from kraynd.kube.refusals import AbsentError, BusyError, GoneError, UnreachedError, refusal
from krayne.errors import (
    ClusterAlreadyExistsError,
    ConflictError,
    ForbiddenError,
    KrayneError,
    KubeConnectionError,
    LoginNeededError,
    NamespaceNotFoundError,
)
from tests.kube.fake_api import RAY, Answer, FakeApi, Request, cut, endpoint_of, hang, refuse, reply, say, status

pytestmark = pytest.mark.anyio
SECRET = "canary-7f3e9a"
V1 = "client.authentication.k8s.io/v1"
ONE = "/apis/ray.io/v1/namespaces/ml/rayclusters/demo"


class Pauses:
    """Waits for nothing and remembers for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(round(seconds))
        await anyio.lowlevel.checkpoint()


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi().serving() as made:
        yield made


@asynccontextmanager
async def client_of(
    api: FakeApi, folder: Path, user: Json | None = None, *, seconds: float = 10.0, cluster: Json | None = None
) -> AsyncIterator[tuple[KubeClient, Pauses]]:
    pauses = Pauses()
    endpoint = endpoint_of(api, folder, user or {"token": SECRET}, **(cluster or {}))
    client = KubeClient(endpoint, seconds=seconds, sleep=pauses)
    try:
        yield client, pauses
    finally:
        await client.close()


async def error_of(client: KubeClient, path: str = "/version") -> KrayneError:
    with pytest.raises(KrayneError) as met:
        await client.get(path)
    assert SECRET not in f"{met.value}{met.value.hint}{met.value.data}{met.value.__cause__}"
    return met.value


# What is sent.


async def test_writes_say_who_writes_and_what_they_were_planned_from(api: FakeApi, tmp_path: Path) -> None:
    api.fail(ONE, *[say({})] * 4)
    async with client_of(api, tmp_path) as (client, _):
        await client.create(ONE, {"a": 1})
        await client.patch(ONE, [{"op": "test", "path": "/a", "value": 1}])
        await client.delete(ONE, uid="u-1", resource_version="7")
        await client.delete(ONE, uid="u-1", resource_version=None)
    create, patch, delete, unversioned = api.requests
    assert (create.method, create.query, json.loads(create.body)) == ("POST", {"fieldManager": "krayne"}, {"a": 1})
    assert (patch.method, patch.query) == ("PATCH", {"fieldManager": "krayne"})
    assert patch.values("Content-Type") == ["application/json-patch+json"]
    assert json.loads(delete.body)["preconditions"] == {"uid": "u-1", "resourceVersion": "7"}
    assert json.loads(delete.body)["propagationPolicy"] == "Background"
    assert json.loads(unversioned.body)["preconditions"] == {"uid": "u-1"}
    assert all(one.values("Authorization") == [f"Bearer {SECRET}"] for one in api.requests)


async def test_prefixes_queries_and_repeated_headers_arrive_as_meant(api: FakeApi, tmp_path: Path) -> None:
    api.fail("/k8s/c-1/version", say({}))
    user = {"token": SECRET, "as": "bob", "as-groups": ["a,b", "c"]}
    async with client_of(api, tmp_path, user, cluster={"server": f"{api.address}/k8s/c-1/"}) as (client, _):
        await client.get("/version", labelSelector="ray.io/cluster=a+b,c", **{"continue": "x/y=="})
    (request,) = api.requests
    assert request.target.startswith("/k8s/c-1/version?")
    assert request.query == {"labelSelector": "ray.io/cluster=a+b,c", "continue": "x/y=="}
    assert request.values("Impersonate-Group") == ["a,b", "c"]


async def test_connections_are_used_again_until_told_otherwise(tmp_path: Path) -> None:
    opened: list[object] = []

    class Counting(FakeApi):
        async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            opened.append(writer)
            await super()._accept(reader, writer)

    async with Counting().serving() as api, client_of(api, tmp_path) as (client, _):
        for _ in range(3):
            await client.get("/apis/ray.io/v1")
        assert len(opened) == 1
        client.renew()
        await client.get("/apis/ray.io/v1")
        assert len(opened) == 2


# What the answers mean.

ANSWERS: list[tuple[int, Json, type[KrayneError], str, str]] = [
    (400, {"message": "bad"}, KrayneError, "rejected", "Kubernetes refuses it: bad"),
    (403, {"message": 'User "a" cannot list resource "b"'}, ForbiddenError, "forbidden", "cannot list"),
    (403, {"message": "unable to create: namespace ml is being terminated"}, ConflictError, "conflict", "terminated"),
    (404, {"message": 'namespaces "ml" not found', "details": {"kind": "namespaces", "name": "ml"}},
     NamespaceNotFoundError, "namespace-not-found", '"ml" not found'),
    (404, {"message": "gone", "details": {"kind": "rayclusters", "name": "demo"}}, AbsentError, "absent", "gone"),
    (409, {"message": "there", "reason": "AlreadyExists"}, ClusterAlreadyExistsError, "cluster-exists", "there"),
    (409, {"message": "modified", "reason": "Conflict"}, ConflictError, "conflict", "modified"),
    (410, {"message": "too old"}, GoneError, "gone", "too old"),
    (422, {"message": "spec is wrong", "details": {"name": "demo"}}, KrayneError, "rejected", "spec is wrong"),
    (418, {"message": "teapot"}, KubeConnectionError, "api-unreachable", "answered 418: teapot"),
    (500, {"message": "etcd"}, BusyError, "api-unreachable", "answered 500: etcd"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "body", "kind", "name", "says"), ANSWERS)
async def test_each_refusal_has_its_kind(
    api: FakeApi, tmp_path: Path, code: int, body: Json, kind: type[KrayneError], name: str, says: str
) -> None:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, code, {"kind": "Status", "code": code, **body})

    api.fail("/version", answer)
    async with client_of(api, tmp_path) as (client, _):
        error = await error_of(client)
    assert (type(error), error.kind) == (kind, name)
    assert says in error.message
    assert len(api.requests) == 1


def test_a_patch_that_does_not_fit_is_a_conflict_and_an_invalid_result_is_not() -> None:
    unfit = json.dumps(status(422, "the server rejected our request", reason="Invalid", details={})).encode()
    invalid = json.dumps(status(422, "spec: Invalid", reason="Invalid", details={"name": "demo"})).encode()
    assert isinstance(refusal(422, unfit, "s", is_patch=True), ConflictError)
    assert refusal(422, unfit, "s").kind == "rejected"
    assert refusal(422, invalid, "s", is_patch=True).kind == "rejected"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"x"', b"{", b"[" * 100_000, b"\xff"])
async def test_what_is_no_json_object_is_somebody_elses_answer(api: FakeApi, tmp_path: Path, body: bytes) -> None:
    api.fail("/version", say(body))
    async with client_of(api, tmp_path) as (client, _):
        error = await error_of(client)
    assert "not JSON" in error.message
    assert "proxy" in error.hint


# Throttling.


async def test_a_throttled_request_waits_as_told_and_comes_back(api: FakeApi, tmp_path: Path) -> None:
    slow: list[Answer] = [refuse(429, Retry_After="7"), refuse(503, Retry_After="0"), refuse(429)]
    api.fail("/version", *slow, say({"ok": 1}))
    async with client_of(api, tmp_path) as (client, pauses):
        assert await client.get("/version") == {"ok": 1}
        # All requests of this server keep the pace, and waiting here takes no time, so the next waits out the rest.
        assert pauses.seconds[:1] == [7]
    assert len(api.requests) == 4


async def test_throttling_without_end_ends_for_the_caller(api: FakeApi, tmp_path: Path) -> None:
    api.fail("/version", *[refuse(429, "slow down", Retry_After="2")] * 50)
    async with client_of(api, tmp_path) as (client, _):
        error = await error_of(client)
    assert len(api.requests) == 4
    assert (type(error), error.retryable, error.data) == (BusyError, True, {"retry_after": 2.0})


@pytest.mark.parametrize(
    ("answer", "wait"),
    [(refuse(429, Retry_After="600"), 600.0), (refuse(503), None), (refuse(500, Retry_After="5"), None)],
)
async def test_what_is_not_for_us_to_wait_out_is_said_at_once(
    api: FakeApi, tmp_path: Path, answer: Answer, wait: float | None
) -> None:
    api.fail("/version", answer)
    async with client_of(api, tmp_path) as (client, pauses):
        error = await error_of(client)
    assert error.data.get("retry_after") == wait
    assert (len(api.requests), pauses.seconds) == (1, [])


# Credentials.


def counting(folder: Path) -> Json:
    path, count = folder / "plugin", folder / "count"
    path.write_text(
        f"#!{sys.executable} -IS\nimport json\nopen({str(count)!r}, 'a').write('x')\n"
        f"n = len(open({str(count)!r}).read())\nprint(json.dumps({{'status': {{'token': f'{SECRET}-{{n}}'}}}}))\n"
    )
    path.chmod(0o700)
    return {"exec": {"command": str(path), "apiVersion": V1}}


async def test_an_expired_token_is_renewed_within_the_request(api: FakeApi, tmp_path: Path) -> None:
    async with client_of(api, tmp_path, counting(tmp_path)) as (client, _):
        await client.get("/apis/ray.io/v1")
        now = client.endpoint._wall() + 60
        client.endpoint._wall = lambda: now
        api.allowed = lambda request: request.values("Authorization") == [f"Bearer {SECRET}-2"]
        await client.get("/apis/ray.io/v1")
    sent = [one.values("Authorization")[0][-2:] for one in api.requests]
    assert sent == ["-1", "-1", "-2"]


async def test_credentials_refused_for_ever_are_a_login_and_no_storm(api: FakeApi, tmp_path: Path) -> None:
    api.allowed = lambda _: False
    async with client_of(api, tmp_path, counting(tmp_path)) as (client, _):
        error = await error_of(client)
        assert isinstance(error, LoginNeededError)
        assert "log in again with" in error.hint
        for _ in range(5):
            await error_of(client)
    assert len(api.requests) == 12  # two a try
    assert (tmp_path / "count").read_text() == "x"


async def test_secrets_are_in_no_error_and_no_log(
    api: FakeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def echo(request: Request, writer: asyncio.StreamWriter) -> None:
        said = f"you sent {request.values('Authorization')}"
        reply(writer, 400, {"message": said} if "json" in request.target else said.encode())

    async with client_of(api, tmp_path) as (client, _):
        api.fail("/version", echo)
        assert "Bearer ***" in (await error_of(client)).message
        api.fail("/version", echo)
        assert "Bearer ***" in (await error_of(client, "/version?json")).message
        api.fail("/version", say({"data": SECRET}), cut, cut)
        await client.get("/version")
        await error_of(client)
    assert SECRET not in caplog.text
    for name in ("kubernetes_asyncio.client.rest", "aiohttp.client", "asyncio"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)


# Trouble on the way.


async def test_a_silent_server_is_given_up(api: FakeApi, tmp_path: Path) -> None:
    async def half(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.Event().wait()

    async with client_of(api, tmp_path, seconds=0.3) as (client, _):
        for answer in (hang, half):
            api.fail("/version", answer)
            error = await error_of(client)
            assert isinstance(error, UnreachedError)
            assert error.message == f"the API server {api.address} cannot be reached: no answer in time"
            assert error.retryable
        client._seconds = 10.0
        await client.get("/apis/ray.io/v1")  # over a new connection


async def test_each_way_to_be_unreachable_has_its_words(api: FakeApi, tmp_path: Path) -> None:
    cases: list[tuple[Json, str]] = [
        ({"server": "https://127.0.0.1:1"}, "connection refused"),
        ({"server": "https://localhost:1"}, "connection refused"),
        ({"server": "https://nowhere.invalid"}, "its name cannot be resolved"),
        ({"server": api.address.replace("https", "http")}, "it "),
        ({"tls-server-name": "other.example"}, "its certificate is not trusted"),
        ({"proxy-url": f"http://ann:{SECRET}@127.0.0.1:1"}, "its proxy: connection refused"),
    ]
    for cluster, says in cases:
        async with client_of(api, tmp_path, cluster=cluster) as (client, _):
            error = await error_of(client)
        assert isinstance(error, UnreachedError)
        assert f"cannot be reached: {says}" in error.message
    (tmp_path / "strange.pem").write_bytes(trustme.CA().cert_pem.bytes())
    async with client_of(api, tmp_path, cluster={"certificate-authority": "strange.pem"}) as (client, _):
        assert "its certificate is not trusted" in (await error_of(client)).message
    async with client_of(api, tmp_path) as (client, _):
        api.fail("/version", cut, cut)
        assert "it closed the connection" in (await error_of(client)).message


async def test_the_name_to_check_may_be_another_than_the_address(tmp_path: Path) -> None:
    async with FakeApi(name="api.internal").serving() as api:
        async with client_of(api, tmp_path) as (client, _):
            assert "not trusted" in (await error_of(client)).message
        async with client_of(api, tmp_path, cluster={"tls-server-name": "api.internal"}) as (client, _):
            await client.get("/apis/ray.io/v1")


async def test_a_client_certificate_is_shown_and_a_new_one_leaves_open_watches_alone(
    api: FakeApi, tmp_path: Path
) -> None:
    people = trustme.CA()
    seen: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    api.ca.issue_cert("127.0.0.1").configure_cert(context)
    people.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subject = dict(part[0] for part in writer.get_extra_info("peercert")["subject"])
        seen.append(subject["commonName"])
        await api._accept(reader, writer)

    def write_pair(name: str) -> None:
        leaf = people.issue_cert("me.test", common_name=name)
        (tmp_path / "cert").write_bytes(leaf.cert_chain_pems[0].bytes())
        (tmp_path / "key").write_bytes(leaf.private_key_pem.bytes())

    write_pair("first")
    user = {"client-certificate": "cert", "client-key": "key"}
    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server:
        address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with client_of(api, tmp_path, user, cluster={"server": address}) as (client, _):
            query = {"watch": "true", "resourceVersion": "100"}
            async with client.stream("GET", RAY, query=query) as watch:
                write_pair("second, longer")
                assert not client.endpoint.stale()
                await client.get("/apis/ray.io/v1")
                assert seen == ["first", "second, longer"]
                api.put(RAY, "demo")
                with anyio.fail_after(10):
                    assert b"demo" in await watch.content.readline()
        server.close()


# Proxies.


class Proxy:
    """A CONNECT proxy. `asked` is each request's head."""

    def __init__(self, refuse_with: bytes = b"") -> None:
        self.asked: list[str] = []
        self._refusal = refuse_with

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._serve)
            yield listener.extra(anyio.abc.SocketAttribute.local_port)
            tasks.cancel_scope.cancel()

    async def _serve(self, near: anyio.abc.SocketStream) -> None:
        async with near:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await near.receive()
            self.asked.append(head.decode())
            if self._refusal:
                await near.send(self._refusal)
                return
            host, _, port = head.split()[1].decode().rpartition(":")
            async with await anyio.connect_tcp(host, int(port)) as far, anyio.create_task_group() as tasks:
                await near.send(b"HTTP/1.1 200 OK\r\n\r\n")
                tasks.start_soon(self._pump, near, far, tasks.cancel_scope)
                tasks.start_soon(self._pump, far, near, tasks.cancel_scope)

    async def _pump(self, source: Any, sink: Any, scope: anyio.CancelScope) -> None:
        try:
            async for data in source:
                await sink.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        scope.cancel()


async def test_a_proxy_is_asked_and_tls_goes_through_it(api: FakeApi, tmp_path: Path) -> None:
    proxy = Proxy()
    async with proxy.serving() as port:
        url = f"http://ann:{SECRET}@127.0.0.1:{port}"
        async with client_of(api, tmp_path, cluster={"proxy-url": url}) as (client, _):
            await client.get("/apis/ray.io/v1")
    assert proxy.asked[0].startswith(f"CONNECT 127.0.0.1:{api.port} ")
    assert "Proxy-Authorization: Basic" in proxy.asked[0]
    assert SECRET not in proxy.asked[0]


async def test_a_proxy_that_refuses_is_said_without_its_password(api: FakeApi, tmp_path: Path) -> None:
    proxy = Proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    async with proxy.serving() as port:
        url = f"http://ann:{SECRET}@127.0.0.1:{port}"
        async with client_of(api, tmp_path, cluster={"proxy-url": url}) as (client, _):
            error = await error_of(client)
    assert "the proxy answered 407 Proxy Authentication Required" in error.message
