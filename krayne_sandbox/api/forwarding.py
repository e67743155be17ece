"""pods/portforward: SPDY, plain or in a WebSocket tunnel, spliced to what listens behind a pod's port.

One task group a tunnel. Back-pressure goes both ways: a slow listener stops the tunnel's reading, as on a real node.
"""

import asyncio
import os
from typing import Final, cast

import anyio
from aiohttp import web
from anyio.abc import TaskGroup

from kraynd.core import websocket
from kraynd.core.podside import PodPair, PodSession
from krayne_sandbox.api.paths import Target
from krayne_sandbox.api.upgrade import Carrier, chosen, spdy_head, upgrade_of, websocket_head
from krayne_sandbox.core.statuses import StatusError, bad_request
from krayne_sandbox.journal import DELETED, Change
from krayne_sandbox.kinds import PODS
from krayne_sandbox.node.face import Node
from krayne_sandbox.store import FellBehindError, Store

STREAM_PROTOCOL: Final = "portforward.k8s.io"
EARLY_LIMIT: Final = 1024 * 1024  # bytes kept for a listener that is being connected to, before reading stops
CONNECT_SECONDS: Final = 10.0  # to a socket of this machine


async def forward(request: web.Request, target: Target, store: Store, node: Node) -> web.StreamResponse:
    """Serve one tunnel until it ends, or its pod does."""
    asked = upgrade_of(request)
    framed = asked == "websocket"
    if framed:
        protocol = chosen(request, "Sec-WebSocket-Protocol", (websocket.TUNNEL_PROTOCOL,))
        head = websocket_head(request, protocol)
    elif asked == "spdy/3.1":
        head = spdy_head(chosen(request, "X-Stream-Protocol-Version", (STREAM_PROTOCOL,)))
    else:
        raise bad_request("Upgrade request required")
    carrier = Carrier(request, framed=framed)
    async with anyio.create_task_group() as tasks:
        tunnel = _Tunnel(carrier, target, node, tasks)
        carrier.start(tunnel.session, head)
        tasks.start_soon(_end_with_pod, store, target, carrier)
        try:
            await carrier.over.wait()
        finally:
            tunnel.session.ended()
            await carrier.closed()
            tasks.cancel_scope.cancel()
    return web.Response()  # nobody is there to read it


async def _end_with_pod(store: Store, target: Target, carrier: Carrier) -> None:
    """A pod that is gone or done takes its connections along, as on a real node."""
    uid = store.get(PODS, target.namespace, target.name)["metadata"]["uid"]
    with store.follow(PODS, store.revision) as subscription:
        while True:
            try:
                news = await subscription.changes()
            except FellBehindError:
                break
            if any(one.object["metadata"]["uid"] == uid and _is_over(one) for one in news):
                break
    carrier.close()


def _is_over(change: Change) -> bool:
    return change.type == DELETED or (change.object.get("status") or {}).get("phase") in {"Failed", "Succeeded"}


class _Tunnel:
    """The pod's side of one tunnel."""

    def __init__(self, carrier: Carrier, target: Target, node: Node, tasks: TaskGroup) -> None:
        self.carrier = carrier
        self._target = target
        self._node = node
        self._tasks = tasks
        self._splices: set[_Splice] = set()
        self.session = PodSession(carrier.write, self._opened)
        carrier.writable = self._writable

    def _opened(self, pair: PodPair) -> None:
        splice = _Splice(pair, self)
        pair.receiver = splice
        self._splices.add(splice)
        self._tasks.start_soon(self._connect, splice)

    async def _connect(self, splice: "_Splice") -> None:
        pair, target = splice.pair, self._target
        try:
            with anyio.fail_after(CONNECT_SECONDS):
                sock = await self._node.connect(target.namespace, target.name, pair.port)
            await asyncio.get_running_loop().create_connection(lambda: splice, sock=sock)
        except (OSError, TimeoutError, StatusError) as error:
            why = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
            pair.fail(
                f"error forwarding port {pair.port} to pod {target.name}, uid : failed to connect to localhost:"
                f"{pair.port} inside the pod: dial tcp4 127.0.0.1:{pair.port}: connect: {why}"
            )
            self.left(splice)

    def left(self, splice: "_Splice") -> None:
        """A connection is over."""
        self._splices.discard(splice)
        self.carrier.release(splice)

    def _writable(self, yes: bool) -> None:
        for splice in self._splices:
            splice.let_read(yes)


class _Splice(asyncio.Protocol):
    """One connection: a stream pair on one side, a socket of this machine on the other."""

    def __init__(self, pair: PodPair, tunnel: _Tunnel) -> None:
        self.pair = pair
        self._tunnel = tunnel
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._early_size = 0
        self._fin = False
        self._eof = False
        self._over = False

    # The client's half.

    def on_data(self, data: memoryview) -> None:
        """Part of PodReceiver."""
        if self._transport is not None:
            self._transport.write(bytes(data))
            return
        self._early.append(bytes(data))
        self._early_size += len(data)
        if self._early_size > EARLY_LIMIT:
            self._tunnel.carrier.hold(self)

    def on_fin(self) -> None:
        """Part of PodReceiver."""
        self._fin = True
        if self._transport is not None:
            self._end_input(self._transport)

    def on_reset(self) -> None:
        """Part of PodReceiver."""
        self._over = True
        self._tunnel.left(self)
        if self._transport is not None:
            self._transport.abort()

    # The listener's half.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's protocol."""
        self._transport = made = cast("asyncio.Transport", transport)
        if self._over:
            made.abort()
            return
        for one in self._early:
            made.write(one)
        self._early.clear()
        self._tunnel.carrier.release(self)
        if self._fin:
            self._end_input(made)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio's protocol."""
        self.pair.send(data)

    def eof_received(self) -> bool:
        """Part of asyncio's protocol."""
        self._eof = True
        self.pair.finish()
        return not self._fin  # with both directions ended the socket is closed

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's protocol."""
        if not self._over:
            self._over = True
            if exc is None or self._eof:
                self.pair.close()
            else:
                self.pair.fail(f"error forwarding port {self.pair.port}: {exc}")
        self._tunnel.left(self)

    def pause_writing(self) -> None:
        """Part of asyncio's protocol."""
        self._tunnel.carrier.hold(self)

    def resume_writing(self) -> None:
        """Part of asyncio's protocol."""
        self._tunnel.carrier.release(self)

    def let_read(self, yes: bool) -> None:
        """Whether the client can take more."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.resume_reading if yes else self._transport.pause_reading)()

    def _end_input(self, transport: asyncio.Transport) -> None:
        if self._eof:
            transport.close()
        elif transport.can_write_eof():
            transport.write_eof()
