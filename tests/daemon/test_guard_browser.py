"""A real browser and an HTTP forward: our own page works whole, a foreign page and a rebound name get nothing through.

Needs chromium; skipped without it.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest

from kraynd.core.model import ForwardKey
from tests.browser import CHROMIUM, dump_dom
from tests.daemon.fakepod import App, PodStream
from tests.daemon.house import House
from tests.daemon.localhost import until
from tests.devtools import Page, browser

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
WEB = ForwardKey("default", "demo", "dashboard")
PAGE = 8265
LIMIT = 120.0  # seconds for one page in a browser on a busy machine

OWN_PAGE = """<!doctype html><body><p id=a>page</p><script src=/script.js></script><script>
fetch('/data', {method: 'POST', body: 'own'}).then(r => r.text()).then(t => document.body.append(' data:' + t));
const ws = new WebSocket('ws://' + location.host + '/socket');
ws.onclose = () => document.body.append(' socket asked');
</script></body>"""
FOREIGN_PAGE = """<!doctype html><body><iframe name=f></iframe>
<img src="{url}/image"><script src="{url}/script.js"></script>
<form id=form method=post action="{url}/form" target=f enctype=text/plain><input name=x value=evil></form><script>
const told = (what) => document.body.append(' ' + what);
document.getElementById('form').submit();
fetch('{url}/fetch', {{method: 'POST', mode: 'no-cors', body: 'evil'}})
  .then(() => told('opaque'), () => told('failed'));
fetch('{url}/read').then(r => r.text()).then(t => told('READ ' + t), () => told('unread'));
const ws = new WebSocket('{ws}/socket'); ws.onopen = () => told('OPENED'); ws.onclose = () => told('closed');
</script></body>"""
LINK_PAGE = "<!doctype html><body><script>location.href = '{url}/';</script></body>"


class Site(App):
    """The web application in the pod."""

    ANSWERS: ClassVar = {"/": OWN_PAGE, "/script.js": "document.body.append(' script');", "/data": "answered"}

    def data(self, stream: PodStream, data: bytes) -> None:
        super().data(stream, data)
        path = data.split(b" ")[1].decode()
        body = self.ANSWERS.get(path, "")
        kind = "text/html" if path == "/" else "text/javascript"
        status = "200 OK" if body else "404 Not Found"
        stream.push(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


class Web(House):
    """A house whose pod serves the site."""

    def __init__(self, tmp_path: Path, **more: Any) -> None:
        super().__init__(tmp_path, **more)
        self.pool.apps[PAGE] = self._maker(Site)

    @property
    def asked(self) -> list[str]:
        """The request lines the pod heard."""
        heard = b"".join(bytes(app.heard) for app in self.apps).decode("latin-1")
        return re.findall(r"([A-Z]+ \S+) HTTP/1\.1\r\n", heard)


@contextlib.asynccontextmanager
async def running(house: Web) -> AsyncIterator[Web]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(house.forwards.run)
        yield house
        tasks.cancel_scope.cancel()
    house.close()


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with running(Web(tmp_path)) as house:
        yield house


@contextlib.asynccontextmanager
async def page(content: str) -> AsyncIterator[int]:
    """A web server of somebody else that serves one page; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n{content}".encode())
            await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def shown(url: str, profile: Path) -> str:
    """The page as the browser has it once it is quiet."""
    return await anyio.to_thread.run_sync(partial(dump_dom, url, profile, limit=LIMIT))


async def says(seen: Page, *words: str) -> None:
    """Wait until the page says all of these; `shown` would not wait for a WebSocket."""
    for word in words:
        await seen.when(f"document.body.innerText.includes({json.dumps(word)})")


async def test_our_own_page_works_with_its_script_its_posts_and_its_socket(web: Web, tmp_path: Path) -> None:
    port = await web.open(PAGE, WEB, scheme="http")
    web.aim()
    async with browser(tmp_path / "profile", limit=LIMIT) as seen:
        await seen.open(f"http://dashboard.demo.localhost:{port}/")
        await says(seen, "script", "data:answered", "socket asked")
    assert {"GET /", "GET /script.js", "POST /data", "GET /socket"} <= set(web.asked)
    assert web.state(WEB).blocked == 0


async def test_a_foreign_page_gets_nothing_through(web: Web, tmp_path: Path) -> None:
    port = await web.open(PAGE, WEB, scheme="http")
    web.aim()
    attack = FOREIGN_PAGE.format(url=f"http://127.0.0.1:{port}", ws=f"ws://127.0.0.1:{port}")
    tried = len(("image", "script", "form", "fetch", "read", "socket"))
    async with page(attack) as other, browser(tmp_path / "profile", limit=LIMIT) as seen:
        await seen.open(f"http://evil.example:{other}/")
        await says(seen, "unread", "closed")
        await until(lambda: web.state(WEB).blocked >= tried)
        told = await seen.run("document.body.innerText")
    assert "READ" not in told
    assert "OPENED" not in told
    assert (web.asked, web.pool.opens) == ([], 0)


async def test_without_the_guard_the_same_page_gets_through(tmp_path: Path) -> None:
    async with running(Web(tmp_path, guard_web=False)) as web:
        port = await web.open(PAGE, WEB, scheme="http")
        web.aim()
        attack = FOREIGN_PAGE.format(url=f"http://127.0.0.1:{port}", ws=f"ws://127.0.0.1:{port}")
        async with page(attack) as other:
            await shown(f"http://evil.example:{other}/", tmp_path / "profile")
        assert {"POST /form", "POST /fetch"} <= set(web.asked)


async def test_a_link_on_a_foreign_page_may_be_followed(web: Web, tmp_path: Path) -> None:
    port = await web.open(PAGE, WEB, scheme="http")
    web.aim()
    async with page(LINK_PAGE.format(url=f"http://127.0.0.1:{port}")) as other:
        found = await shown(f"http://evil.example:{other}/", tmp_path / "profile")
    assert "data:answered" in found
    assert "GET /" in web.asked


async def test_a_rebound_name_is_told_why_it_is_refused(web: Web, tmp_path: Path) -> None:
    port = await web.open(PAGE, WEB, scheme="http")
    web.aim()
    found = await shown(f"http://evil.example:{port}/", tmp_path / "profile")
    assert "krayne refused this request" in found
    assert "evil.example" in found
    assert web.asked == []
    assert web.state(WEB).blocked >= 1
