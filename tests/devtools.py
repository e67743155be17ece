"""A headless Chromium that tests drive: pages opened, scripts run in them, keys pressed, over its DevTools protocol."""

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.browser import CHROMIUM

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP *.example 127.0.0.1",  # as in tests/browser.py
    "--remote-debugging-port=0",
    "--window-size=1280,900",
)
ANNOUNCED = b"DevTools listening on "
LONGEST_LINE = 65536
SHIFT = 8

# Resolves with an expression's value (true for an object) once it is true of the document; never asks on and on.
WHEN = """new Promise(done => {
  const look = () => { const found = (() => { try { return EXPRESSION } catch { return null } })();
    if (found) { watching.disconnect(); done(found === Object(found) || found); } };
  const watching = new MutationObserver(look);
  watching.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
  look();
})"""


class Page:
    """One page. Each call has the `limit`, in seconds."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, limit: float) -> None:
        self._socket = socket
        self._limit = limit
        self._ids = itertools.count(1)

    async def open(self, url: str) -> None:
        """Go there; returns once the page has loaded."""
        await self._call("Page.enable")
        await self._call("Page.navigate", until="Page.loadEventFired", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        told = await self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def when(self, expression: str) -> Any:
        """The value of an expression, once it is true."""
        try:
            return await self.run(WHEN.replace("EXPRESSION", f"({expression})"))
        except TimeoutError:
            shown = await self.run("document.body.innerText")
            raise AssertionError(f"never true: {expression}\nthe page says: {str(shown)[:2000]}") from None

    async def repeat(self, action: Callable[[], Awaitable[object]], expression: str, every: float) -> Any:
        """Act, and again every so many seconds until the expression is true: what a person does with a page that
        is not ready for its keys yet. Its value."""
        with anyio.move_on_after(self._limit):
            while True:
                await action()
                with anyio.move_on_after(every):
                    return await self.when(expression)
        return await self.when(expression)  # says what the page shows

    async def press_shift_enter(self) -> None:
        """As by hand."""
        key: dict[str, Any] = {"modifiers": SHIFT, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        await self._call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        await self._call("Input.dispatchKeyEvent", type="keyUp", **key)

    async def _call(self, method: str, until: str = "", **params: Any) -> Any:
        number = next(self._ids)
        answer: Any = None
        with anyio.fail_after(self._limit):
            await self._socket.send_json({"id": number, "method": method, "params": params})
            while True:
                told = json.loads((await self._socket.receive()).data)
                if told.get("id") == number:
                    assert "error" not in told, told
                    answer = told["result"]
                    if not until:
                        return answer
                elif answer is not None and told.get("method") == until:  # one before the answer is the old page's
                    return answer


@asynccontextmanager
async def browser(profile: Path, *, limit: float) -> AsyncIterator[Page]:
    """A browser with a fresh profile and one page, while the block lasts."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    async with await anyio.open_process(command, stdin=None, stdout=None) as process:
        try:
            assert process.stderr is not None
            errors = BufferedByteReceiveStream(process.stderr)
            with anyio.fail_after(limit):
                line = b""
                while not line.startswith(ANNOUNCED):
                    line = await errors.receive_until(b"\n", LONGEST_LINE)
            base = "http://" + line.decode().removeprefix("DevTools listening on ws://").partition("/")[0]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_swallow, errors)
                async with aiohttp.ClientSession() as session:
                    async with session.get(f"{base}/json/list") as told:
                        (found,) = [one for one in await told.json() if one["type"] == "page"]
                    async with session.ws_connect(found["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                        yield Page(socket, limit)
                tasks.cancel_scope.cancel()
        finally:
            process.kill()


async def _swallow(errors: BufferedByteReceiveStream) -> None:
    """A full pipe would stop the browser."""
    async for _ in errors:
        pass
