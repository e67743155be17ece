"""The sandbox's API on a thread of its own, and a plain HTTPS client for it."""

import asyncio
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from krayne_sandbox.api.server import Served, serving
from krayne_sandbox.store import Store
from tests.sandbox.stub_node import StubNode

LIMIT = 60.0  # seconds for anything


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Running:
    """A sandbox's API; `on_loop` runs a call where the server lives."""

    def __init__(self, store: Store, node: StubNode, served: Served, home: Path) -> None:
        self.store, self.node, self.served, self.home = store, node, served, home
        self.token = (home / "token").read_text()
        self.loop = asyncio.get_running_loop()
        self.tls = ssl.create_default_context(cafile=str(home / "ca.crt"))

    def on_loop(self, call: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(LIMIT)

    def link(self, seconds: float = LIMIT) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.served.port, context=self.tls, timeout=seconds)

    def send(
        self, method: str, path: str, body: object = None, *, kind: str = "application/json", token: str | None = None,
        headers: dict[str, str] | None = None, **query: Any,
    ) -> Answer:  # fmt: skip
        """One request."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        head = {"Authorization": f"Bearer {self.token if token is None else token}", **(headers or {})}
        if data is not None and kind:
            head["Content-Type"] = kind
        link = self.link()
        try:
            link.request(method, path + (f"?{urlencode(query)}" if query else ""), data, head)
            reply = link.getresponse()
            return Answer(reply.status, dict(reply.getheaders()), reply.read())
        finally:
            link.close()

    def get(self, path: str, **query: Any) -> Any:
        """An answer that must be there."""
        found = self.send("GET", path, **query)
        assert found.status == 200, found
        return found.json

    @contextmanager
    def watching(self, path: str, **query: str) -> Iterator[Iterator[Any]]:
        """A watch's events."""
        link = self.link()
        head = {"Authorization": f"Bearer {self.token}"}
        link.request("GET", f"{path}?{urlencode({'watch': '1', **query})}", None, head)
        reply = link.getresponse()
        assert reply.status == 200, reply.read()
        try:
            yield map(json.loads, reply)
        finally:
            link.close()


@contextmanager
def running(home: Path) -> Iterator[Running]:
    """A sandbox's API while entered."""
    ready: Future[Running] = Future()
    stop = asyncio.Event()

    async def serve() -> None:
        home.mkdir(parents=True, exist_ok=True)
        store, node = Store.open(str(home / "state.db"), clock=time.time), StubNode()
        try:
            async with serving(store, node, home=home) as served:
                ready.set_result(Running(store, node, served, home))
                await stop.wait()
        finally:
            store.close()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # for whoever waits for it
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        made = ready.result(LIMIT)
        yield made
        made.loop.call_soon_threadsafe(stop.set)
    finally:
        if ready.done() and not ready.exception():
            made = ready.result()
            if made.loop.is_running():
                made.loop.call_soon_threadsafe(stop.set)
        thread.join(LIMIT)
        assert not thread.is_alive()
