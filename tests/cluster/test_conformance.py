"""The sandbox's API answers as the real one does: each request goes to both, the answers are compared field by field.

What differs for a reason is named beside its case (`ignore`); whatever else differs is a bug of the sandbox.
"""

import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.cluster.conforming import CASES, NS, Step, normal
from tests.controlplane.plane import ControlPlane
from tests.sandbox.running import LIMIT, Running, running

pytestmark = [pytest.mark.real, pytest.mark.whole("second server beside it to be compared with")]

AGENT = "conformance/1"


class Server:
    """One of the two."""

    def __init__(self, port: int, tls: ssl.SSLContext, token: str = "") -> None:
        self.port, self.tls, self.token = port, tls, token

    def send(self, step: Step, namespace: str) -> tuple[int, dict[str, str], Any]:
        """The status, the telling headers, the body."""
        body = step.body
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).replace(NS, namespace).encode()
        head = {"User-Agent": AGENT, **step.headers}
        if self.token:
            head["Authorization"] = f"Bearer {self.token}"
        if data is not None:
            head["Content-Type"] = step.kind
        path = step.path.replace(NS, namespace) + (f"?{urlencode(step.query)}" if step.query else "")
        link = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=LIMIT)
        try:
            link.request(step.method, path, data, head)
            reply = link.getresponse()
            text, kind = reply.read(), reply.getheader("Content-Type") or ""
        finally:
            link.close()
        told = {"Content-Type": kind.partition(";")[0], "Warning": reply.getheader("Warning") or ""}
        return reply.status, told, json.loads(text) if "json" in kind else text.decode()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("sandbox") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def bare(plane: ControlPlane) -> Iterator[ControlPlane]:
    """The plane without its operator: what is stored stays as it was sent."""
    plane.stop_operator()
    yield plane
    plane.start_operator()


@pytest.mark.parametrize("name", CASES)
def test_both_answer_the_same(bare: ControlPlane, sandbox: Running, namespace: str, name: str) -> None:
    real = Server(bare.api._port, bare.api._tls)
    ours = Server(sandbox.served.port, sandbox.tls, sandbox.token)
    ours.send(Step("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}}), namespace)
    for at, step in enumerate(CASES[name]):
        wanted, found = (
            (status, head, normal(body, namespace, step.ignore))
            for status, head, body in (real.send(step, namespace), ours.send(step, namespace))
        )
        assert found == wanted, f"step {at + 1}: {step.method} {step.path}"


def test_both_watch_the_same(bare: ControlPlane, sandbox: Running, namespace: str) -> None:
    """A watch from a list's version on, through a selector, to its end."""
    real = Server(bare.api._port, bare.api._tls)
    ours = Server(sandbox.served.port, sandbox.tls, sandbox.token)
    ours.send(Step("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}}), namespace)
    assert _history(ours, namespace) == _history(real, namespace)


def _history(server: Server, namespace: str) -> list[Any]:
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    _, _, listed = server.send(Step("GET", maps), namespace)
    merge = "application/merge-patch+json"
    for step in (
        Step("POST", maps, {"metadata": {"name": "a"}}),
        Step("PATCH", f"{maps}/a", {"metadata": {"labels": {"on": "yes"}}}, merge),
        Step("PATCH", f"{maps}/a", {"data": {"k": "v"}}, merge),
        Step("PATCH", f"{maps}/a", {"metadata": {"labels": {"on": None}}}, merge),
        Step("PATCH", f"{maps}/a", {"metadata": {"labels": {"on": "yes"}}}, merge),
        Step("DELETE", f"{maps}/a"),
    ):
        status, _, body = server.send(step, namespace)
        assert status in {200, 201}, body
    query = {
        "watch": "1", "labelSelector": "on=yes", "timeoutSeconds": "2", "allowWatchBookmarks": "true",
        "resourceVersion": listed["metadata"]["resourceVersion"],
    }  # fmt: skip
    head = {"User-Agent": AGENT} | ({"Authorization": f"Bearer {server.token}"} if server.token else {})
    link = http.client.HTTPSConnection("127.0.0.1", server.port, context=server.tls, timeout=LIMIT)
    try:
        link.request("GET", f"{maps}?{urlencode(query)}", None, head)
        events = [json.loads(line) for line in link.getresponse()]
    finally:
        link.close()
    told = [one for one in events if one["type"] != "BOOKMARK"]
    return [normal({"type": one["type"], "object": one["object"]}, namespace) for one in told]
