"""pods/exec over WebSocket, protocols v5 and v4: a channel byte before each message."""

import json
from collections.abc import AsyncIterator
from typing import Final

import anyio
from aiohttp import WSMsgType, web

from krayne_sandbox.api.answers import dumped
from krayne_sandbox.api.bodies import is_true
from krayne_sandbox.api.paths import Target
from krayne_sandbox.api.upgrade import chosen, upgrade_of
from krayne_sandbox.core.meta import Json
from krayne_sandbox.core.statuses import bad_request, internal
from krayne_sandbox.node.face import Execution, Node

V5: Final = "v5.channel.k8s.io"  # v4, and a message that closes a channel
V4: Final = "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
MESSAGE_LIMIT: Final = 1024 * 1024  # bytes of one message from the client


async def execute(request: web.Request, target: Target, node: Node) -> web.StreamResponse:
    """Run one command for one client."""
    query = request.query
    command = query.getall("command", [])
    if not command:
        raise bad_request("you must specify at least one command for the container")
    if upgrade_of(request) != "websocket":
        raise bad_request("Upgrade request required: exec is served over WebSocket (v5.channel.k8s.io)")
    protocol = chosen(request, "Sec-WebSocket-Protocol", (V5, V4))
    tty = is_true(query, "tty")
    try:
        running = await node.execute(target.namespace, target.name, query.get("container", ""), command, tty=tty)
    except OSError as error:
        raise internal(f"the command cannot be started: {error}") from error
    try:
        answer = web.WebSocketResponse(protocols=(protocol,), max_msg_size=MESSAGE_LIMIT, compress=False)
        await answer.prepare(request)
        await _converse(answer, running, wants_input=is_true(query, "stdin"))
    finally:
        with anyio.CancelScope(shield=True):
            await running.close()
    return answer


async def _converse(answer: web.WebSocketResponse, running: Execution, *, wants_input: bool) -> None:
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            await _listen(answer, running)
            tasks.cancel_scope.cancel()  # the client has left

        tasks.start_soon(listen)
        if not wants_input:
            await running.close_input()
        async with anyio.create_task_group() as talking:
            talking.start_soon(_tell, answer, STDOUT, running.stdout())
            talking.start_soon(_tell, answer, STDERR, running.stderr())
        code = await running.wait()
        await answer.send_bytes(bytes((ERROR,)) + dumped(_outcome(code)))
        await answer.close()
        tasks.cancel_scope.cancel()


async def _listen(answer: web.WebSocketResponse, running: Execution) -> None:
    async for message in answer:
        if message.type != WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == STDIN:
            await running.write(data)
        elif channel == CLOSE and data[:1] == bytes((STDIN,)):
            await running.close_input()
        elif channel == RESIZE:
            _resize(running, data)


def _resize(running: Execution, data: bytes) -> None:
    try:
        said = json.loads(data)
        running.resize(int(said["Width"]), int(said["Height"]))
    except (ValueError, KeyError, TypeError):
        return  # a size nobody can read changes nothing


async def _tell(answer: web.WebSocketResponse, channel: int, output: AsyncIterator[bytes]) -> None:
    async for data in output:
        await answer.send_bytes(bytes((channel,)) + data)


def _outcome(code: int) -> Json:
    if not code:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }  # fmt: skip
