"""The local connections of one forward: each gets a stream into the pod, in the tick it comes or later.

Owns the connections, the tasks of those that wait, and their counters. Policy is `core.forwarding`'s, bytes are
`local.accepted`'s. Its law: what happens to one connection, an unknown exception included, ends that connection alone.
"""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.abc
import msgspec

from kraynd.core.forwarding import ForwardSpec, HoldSettings, Wait, after_end
from kraynd.core.httpguard import HttpGuard, host_names, refusal_answer
from kraynd.core.model import ForwardKey, PodTarget, Service, service_url
from kraynd.core.pipe import End
from kraynd.core.sparing import Sparing
from kraynd.local.accepted import LocalConnection
from kraynd.local.control import is_hung_up
from kraynd.local.peer import CAN_TELL, Peers
from krayne.errors import KrayneError

log = logging.getLogger("kraynd.forwards")

GONE_SECONDS = 1.0  # after a FIN, until it is looked again whether the client itself is gone
HEAD_SECONDS = 60.0  # for a request's first head: browsers open connections ahead of need and use them within these


class Ended(Protocol):
    """How a stream ended: kind is eof, refused, reset, pod-gone or tunnel-lost."""

    @property
    def kind(self) -> str:
        """What it was."""

    @property
    def message(self) -> str:
        """A sentence for the user."""


class Stream(End, Protocol):
    """A stream into a pod. `on_end` is called once, before the stream would abort its peer."""

    on_end: Callable[[Any], None] | None

    @property
    def result(self) -> Ended | None:
        """How it ended; None while it lives."""


class Opener(Protocol):
    """What opens streams into pods and splices them: `kube.tunnel`'s pool."""

    def open_now(self, target: PodTarget, port: int, local: End, first: bytes = b"") -> Stream | None:
        """A stream on a warm tunnel in this tick; None when one must be dialed."""

    async def open(
        self, target: PodTarget, port: int, local: End, first: bytes = b"", *, aside: bool = False
    ) -> Stream:
        """A stream, after a dial where one is needed; `aside` warms nothing up for others. Raises KrayneError."""


class Aim(msgspec.Struct, frozen=True):
    """Where a cluster's forwards lead now; `why` they lead nowhere."""

    pool: Opener | None = None
    target: PodTarget | None = None
    why: str = ""

    def leads_as(self, other: "Aim") -> bool:
        """Whether both lead to the same pod in the same condition."""
        return self.pool is other.pool and self.target == other.target


class Ground(msgspec.Struct):
    """What all forwards of a daemon stand on; `hold`, `allowed` and `guard_web` may change while they run.

    `allowed` are the uids let in; None lets everybody in. `guard_web`: HTTP forwards refuse other web pages' requests.
    """

    hold: HoldSettings
    peers: Peers
    allowed: frozenset[int] | None
    scratch: memoryview
    on_change: Callable[[ForwardKey], None]
    rand: Callable[[], float] = random.random
    guard_web: bool = True


class Doors(Protocol):
    """What the connections ask of the forward they came in by."""

    def pause(self) -> None:
        """Let nobody in for now."""

    def resume(self) -> None:
        """Let them in again."""

    def changed(self) -> None:
        """Something that is shown may be different."""


class Clients:
    """See the module. Also the `Owner` of its connections. `tasks` is where waiting runs, while the forward runs."""

    def __init__(self, spec: ForwardSpec, ground: Ground, aim: Aim, doors: Doors) -> None:
        self.tasks: anyio.abc.TaskGroup | None = None
        self.aim = aim
        self.trouble = ""  # why the last dial failed; empty once one worked
        self.refusal = ""  # what the pod or the API said to the last stream; empty once one answered
        self.last_error = ""
        self.total = 0
        self.waited = 0
        self.refused = 0
        self.foreign = 0
        self.blocked_requests = 0
        self.reconnects = 0
        self._spec = spec
        self._ground = ground
        self._doors = doors
        self._news = anyio.Event()  # another aim, or a wake
        self._connections: dict[LocalConnection, Wait] = {}
        self._held: dict[LocalConnection, anyio.CancelScope | None] = {}
        self._unheard: dict[LocalConnection, asyncio.TimerHandle | None] = {}  # their first request is not whole yet
        self._log = Sparing()
        self._names = host_names([f"{spec.key.service}.{spec.key.cluster}.localhost"])
        self._bytes_in = self._bytes_out = 0  # of closed connections

    # What the forward asks.

    @property
    def held(self) -> int:
        """Connections that wait for a stream."""
        return len(self._held)

    @property
    def streaming(self) -> int:
        """Connections that have, or had, their stream."""
        return len(self._connections) - len(self._held) - len(self._unheard)

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes to local clients and from them, ever."""
        return (
            self._bytes_in + sum(one.bytes_in for one in self._connections),
            self._bytes_out + sum(one.bytes_out for one in self._connections),
        )

    def lead(self, aim: Aim) -> None:
        """Lead somewhere else. Open streams stay; whoever waits is tried there at once."""
        before, self.aim = self.aim, aim
        if not before.leads_as(aim):
            if before.target is None or aim.target is None or before.target.uid != aim.target.uid:
                self.refusal = self.trouble = ""
            self.hurry()

    def hurry(self) -> None:
        """Whoever waits between two tries is tried now."""
        for connection in self._held:
            self._connections[connection] = self._connections[connection].news()
        news, self._news = self._news, anyio.Event()
        news.set()
        self._limit_newcomers()

    def close(self, reason: str, *, orderly: bool) -> None:
        """End every connection, now. `orderly`: those with a stream by FIN, else all by a reset."""
        for connection in list(self._connections):
            (connection.end if orderly else connection.reset)(reason)

    def accept(self, accepted: socket.socket) -> None:
        """Splice a newcomer in this tick if a tunnel is warm, else hold it."""
        loop = asyncio.get_running_loop()
        is_unix = accepted.family == socket.AF_UNIX
        # HTTP services are guarded; their Unix sockets are out of any web page's reach.
        is_guarded = self._ground.guard_web and self._spec.scheme == "http" and not is_unix
        guard = HttpGuard(self._names) if is_guarded else None
        connection = LocalConnection(accepted, self, loop, self._ground.scratch, guard)
        if not self._is_allowed(accepted, is_unix):
            connection.abort("not the user's own")
            return
        self.total += 1
        self._connections[connection] = Wait(loop.time())
        if len(self._connections) >= self._ground.hold.open:
            self._doors.pause()
        if guard is None:
            connection.read_early()
            self._serve(connection)
            return
        self._unheard[connection] = None
        connection.read_early()
        if connection.is_waiting and connection in self._unheard:  # mostly its request is there already
            self._unheard[connection] = loop.call_later(HEAD_SECONDS, connection.abort, "no request came")
            connection.wait()

    def _serve(self, connection: LocalConnection) -> None:
        """A stream at once where a tunnel is warm, else a place among the held."""
        try:
            if not connection.is_closed and not self._open_now(connection):
                self._hold(connection)
        except Exception as error:  # noqa: BLE001 - the wall: this connection ends, no other
            connection.fault(error)
        self._doors.changed()

    def _is_allowed(self, accepted: socket.socket, is_unix: bool) -> bool:
        allowed = self._ground.allowed
        if allowed is None or not (CAN_TELL or is_unix):
            return True
        uid = self._ground.peers.uid_of(accepted)
        if uid in allowed:
            return True
        self.foreign += 1
        whose = "an unknown user" if uid is None else f"another user (uid {uid})"
        self.misfortune(f"a connection of {whose} was refused")
        return False

    # Streams.

    def _open_now(self, connection: LocalConnection) -> bool:
        pool, target = self.aim.pool, self.aim.target
        if pool is None or target is None:
            return False
        stream = pool.open_now(target, self._spec.remote_port, connection, connection.freeze())
        if stream is None:
            return False
        self._attach(connection, stream)
        return True

    def _attach(self, connection: LocalConnection, stream: Stream) -> None:
        """The stream carries the connection from now on."""
        wait = self._connections.get(connection)
        if connection.is_closed or wait is None:
            stream.abort("the local client is gone")
            return
        self._connections[connection] = wait.got_stream(asyncio.get_running_loop().time())
        self.trouble = ""
        stream.on_end = partial(self._stream_ended, connection, stream)
        if stream.result is None:
            connection.splice(stream)
        else:
            self._stream_ended(connection, stream, stream.result)

    def _stream_ended(self, connection: LocalConnection, stream: Stream, end: Ended) -> None:
        stream.on_end = None
        wait = self._connections.get(connection)
        if connection.is_closed or wait is None:
            return
        if end.kind == "reset":  # often how a program ends its talks
            self.last_error = end.message
        elif end.kind != "eof":
            self.misfortune(end.message)
        if end.kind == "refused":
            self.refusal = end.message
        course = after_end(
            end.kind, answered=connection.answered, said=connection.said, finished=connection.client_finished
        )
        stream.peer = None
        if course == "finish":
            connection.finish()
        elif course == "replay":
            self.reconnects += 1
            self._connections[connection] = wait.stream_ended(asyncio.get_running_loop().time(), end.kind)
            connection.unsplice()
            self._hold(connection)
        else:
            connection.abort(end.message)
        self._doors.changed()

    # Waiting.

    def _hold(self, connection: LocalConnection) -> None:
        """Keep a connection that has no stream, within the bounds."""
        if self.tasks is None:
            connection.abort("the forward is closed")
            return
        if len(self._held) >= self._ground.hold.connections:
            self._drop(connection, f"more than {self._ground.hold.connections} connections wait: {self._why()}")
            return
        self._held[connection] = None
        self.waited += 1
        connection.wait()
        self._limit_newcomers()
        self.tasks.start_soon(self._wait_for_stream, connection)

    def _limit_newcomers(self) -> None:
        """While the first dial is under way, newcomers past the bound wait in the backlog; in an outage they go."""
        is_out = self.aim.target is None or bool(self.trouble) or bool(self.refusal)
        is_full = len(self._held) >= self._ground.hold.connections and not is_out
        if is_full or len(self._connections) >= self._ground.hold.open:
            self._doors.pause()
        else:
            self._doors.resume()

    async def _wait_for_stream(self, connection: LocalConnection) -> None:
        if connection.is_closed:
            return
        seconds = self._ground.hold.seconds
        with anyio.move_on_after(self._connections[connection].left(anyio.current_time(), seconds)) as scope:
            self._held[connection] = scope
            try:
                await self._find_stream(connection)
            except KrayneError as error:
                self.refusal = error.message
                self._drop(connection, error.message)
            except Exception as error:  # noqa: BLE001 - the wall: this connection ends, no other
                connection.fault(error)
        if scope.cancelled_caught and not connection.is_closed:
            self._drop(connection, f"waited {seconds:g} s: {self._why()}")

    async def _find_stream(self, connection: LocalConnection) -> None:
        """Return with a stream attached, or once the connection is gone. Raises the error that no retry mends."""
        while not connection.is_closed:
            news = self._news
            pool, target = self.aim.pool, self.aim.target
            if pool is None or target is None:
                await news.wait()
            elif delay := self._connections[connection].delay(self._ground.rand()):
                with anyio.move_on_after(delay):
                    await news.wait()
            if connection.is_closed or news.is_set():
                continue
            if pool is not None and target is not None and await self._try(connection, pool, target):
                return

    async def _try(self, connection: LocalConnection, pool: Opener, target: PodTarget) -> bool:
        try:
            stream = await pool.open(target, self._spec.remote_port, connection, connection.freeze())
        except KrayneError as error:
            self.misfortune(error.message)
            if not (error.retryable or error.kind == "pod-gone"):  # a pod that is gone is replaced: its aim will come
                raise
            self._dial_failed(connection, error.message)
            return False
        # Before the stream is attached: one that ended already puts the connection back among the held.
        self._held.pop(connection, None)
        self._attach(connection, stream)
        self._limit_newcomers()
        self._doors.changed()
        return True

    def _dial_failed(self, connection: LocalConnection, why: str) -> None:
        self.trouble = why
        if not connection.is_closed:
            self._connections[connection] = self._connections[connection].dial_failed()
            connection.wait()
        self._limit_newcomers()
        self._doors.changed()

    def _drop(self, connection: LocalConnection, why: str) -> None:
        """Reset a connection that could not be served, and count it."""
        self.refused += 1
        self.misfortune(why)
        connection.abort(why)

    def _why(self) -> str:
        return self.refusal or self.trouble or self.aim.why or "no connection to the pod yet"

    def misfortune(self, what: str) -> None:
        """Something a user may ask about later: shown as the newest, and logged unless it was a moment ago."""
        self.last_error = what
        if self._log.wants(what, time.monotonic()):
            log.info("forward %s: %s", self._spec.key, what)

    # What the connections tell.

    def answered(self, connection: LocalConnection) -> None:  # noqa: ARG002 - any answer proves the port is served
        """The pod spoke: what was wrong before is over."""
        if self.refusal:
            self.refusal = ""
            self._doors.changed()

    def admitted(self, connection: LocalConnection) -> None:
        """The first request is whole and may pass."""
        timer = self._unheard.pop(connection)
        if timer is not None:  # it may have been opened long ago
            timer.cancel()
            self._connections[connection] = Wait(asyncio.get_running_loop().time())
        self._serve(connection)

    def blocked(self, connection: LocalConnection, why: str) -> bytes:  # noqa: ARG002 - the Owner's word
        """A request that may not pass: counted, shown, answered."""
        self.blocked_requests += 1
        self.misfortune(f"a request was refused: {why}")
        self._doors.changed()
        service = Service(self._spec.key.service, self._spec.remote_port, self._spec.scheme)
        return refusal_answer(why, service_url(service, self._spec.key.cluster, self._spec.local_port))

    def finished_early(self, connection: LocalConnection) -> None:
        """A waiting client sent FIN: one that left without a word (a port scanner) need not be held."""
        if connection in self._unheard:
            connection.abort("the local client is gone")
            return
        if connection.bytes_out:
            return
        if connection.socket.family == socket.AF_UNIX:
            left = is_hung_up(connection.socket)
        else:
            left = self._is_gone(connection)
            if CAN_TELL and not left:
                # A close sends its FIN a moment before the kernel lets go of the socket.
                asyncio.get_running_loop().call_later(GONE_SECONDS, self._look_again, connection)
        if left:
            connection.abort("the local client is gone")

    def _look_again(self, connection: LocalConnection) -> None:
        if connection in self._held and not connection.bytes_out and self._is_gone(connection):
            connection.abort("the local client is gone")

    def _is_gone(self, connection: LocalConnection) -> bool:
        return CAN_TELL and self._ground.peers.uid_of(connection.socket) is None

    def closed(self, connection: LocalConnection) -> None:
        """A connection is over."""
        if self._connections.pop(connection, None) is None:
            return
        self._bytes_in += connection.bytes_in
        self._bytes_out += connection.bytes_out
        scope = self._held.pop(connection, None)
        if scope is not None:
            scope.cancel()
        timer = self._unheard.pop(connection, None)
        if timer is not None:
            timer.cancel()
        if self.tasks is not None:
            self._limit_newcomers()
        self._doors.changed()

    def faulted(self, connection: LocalConnection, error: Exception) -> None:  # noqa: ARG002 - the Owner's word
        """An unknown exception while one connection was served."""
        log.error("forward %s: a connection failed", self._spec.key, exc_info=error)
        self.last_error = f"a connection failed: {type(error).__name__}: {error}"
