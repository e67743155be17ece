"""What is asked of one pod through the API server: its log, and processes run in it.

Owns nothing that lasts: each call is one request or one WebSocket, ended with the block. kubernetes_asyncio's own
WebSocket client speaks v4 alone, which cannot end a command's input; this one asks for v5.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import quote, urlencode

import aiohttp

from kraynd.core.model import Json
from kraynd.kube.auth import ApiEndpoint
from kraynd.kube.client import KubeClient
from kraynd.kube.refusals import AbsentError, unreachable
from kraynd.kube.transport import keep_alive
from kraynd.kube.websocket import WebSocket, opened
from krayne.errors import KrayneError, ProtocolError

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, STATUS, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255  # k8s.io/apimachinery/pkg/util/remotecommand
PIECE = 64 * 1024


class Place(NamedTuple):
    """A container of a pod."""

    namespace: str
    pod: str
    container: str

    def path(self, verb: str, query: Sequence[tuple[str, str]]) -> str:
        """The path below the server for `log` or `exec`."""
        base = f"/api/v1/namespaces/{quote(self.namespace, safe='')}/pods/{quote(self.pod, safe='')}/{verb}"
        return f"{base}?{urlencode([('container', self.container), *query])}"


class Ended(NamedTuple):
    """How a command ended: its exit code, or why it came to none."""

    code: int | None
    message: str = ""


async def log(
    client: KubeClient, place: Place, *, follow: bool, tail: int | None, previous: bool
) -> AsyncGenerator[bytes, None]:
    """The container's log in pieces; with `follow` until the container ends. Raises KrayneError."""
    query = [("follow", "true")] if follow else []
    query += [("tailLines", str(tail))] if tail is not None else []
    query += [("previous", "true")] if previous else []
    async with client.stream("GET", place.path("log", query)) as reply:
        if reply.status >= HTTPStatus.BAD_REQUEST:
            raise _explained(client.refused(reply, await client.read(reply)), place)
        if reply.connection is not None and reply.connection.transport is not None:
            connection = reply.connection.transport.get_extra_info("socket")
            if connection is not None:
                keep_alive(connection)  # a silent log is no fault, a peer that is gone must be noticed
        try:
            async for piece in reply.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(client.endpoint.server, error) from None


def _explained(error: KrayneError, place: Place) -> KrayneError:
    if isinstance(error, AbsentError):
        return KrayneError(f"nothing can be had of pod {place.pod}: {error.message}", kind="pod-gone")
    if error.kind == "rejected":
        return KrayneError(error.message.removeprefix("Kubernetes refuses it: "), kind="rejected")
    return error


class Process:
    """A command that runs in a pod."""

    def __init__(self, link: WebSocket) -> None:
        self._link = link

    async def send(self, data: bytes) -> None:
        """Some of its input. Raises ConnectionError once the pod's side has ended."""
        for begin in range(0, len(data), PIECE):
            await self._link.send(bytes((STDIN,)) + data[begin : begin + PIECE])

    async def end_input(self) -> None:
        """There is no more. Raises KrayneError where the server's protocol cannot say so, ConnectionError."""
        if self._link.protocol != V5:
            raise KrayneError(
                "this API server cannot end a command's input (Kubernetes before 1.30)",
                kind="rejected",
                hint="leave -i out, or use krayne ssh",
            )
        await self._link.send(bytes((CLOSE, STDIN)))

    async def resize(self, width: int, height: int) -> None:
        """The terminal has this size now."""
        size = json.dumps({"Width": width, "Height": height}).encode()
        await self._link.send(bytes((RESIZE,)) + size)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """STDOUT, STDERR and at last STATUS pieces, until the connection ends. Raises ProtocolError."""
        async for message in self._link.messages():
            if len(message) > 1:
                yield message[0], message[1:]


@asynccontextmanager
async def run(
    endpoint: ApiEndpoint, place: Place, command: Sequence[str], *, stdin: bool, tty: bool
) -> AsyncIterator[Process]:
    """A command begun in a pod; leaving the block lets go of it. Raises KrayneError."""
    query = [("command", one) for one in command]
    # On a terminal both outputs are one, and asking for stderr is refused.
    flags = {"stdin": stdin, "stdout": True, "stderr": not tty, "tty": tty}
    query += [(name, "true") for name, on in flags.items() if on]
    async with AsyncExitStack() as held:
        try:
            link = await held.enter_async_context(opened(endpoint, place.path("exec", query), (V5, V4)))
        except KrayneError as error:
            raise _explained(error, place) from None
        yield Process(link)


def ended(status: bytes) -> Ended:
    """What the status channel says (a metav1.Status). Raises ProtocolError."""
    try:
        found: Json = json.loads(status)
        if found.get("status") == "Success":
            return Ended(0)
        for cause in (found.get("details") or {}).get("causes") or ():
            if cause.get("reason") == "ExitCode":
                return Ended(int(cause["message"]))
        return Ended(None, str(found.get("message") or "the command could not be run"))
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ProtocolError("the end of the command is told in an unknown way") from None
