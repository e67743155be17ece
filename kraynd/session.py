"""One client's connection: its lines in, its calls, its answers and its watches out.

A wall: whatever a client sends, or fails to read, ends its own connection at worst. Calls that only read end with the
connection; calls that change something are shielded and finish. Everything is bounded: calls, lines, time to write.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup

from kraynd.calls import Call, Follower, Method, Upgrade
from kraynd.local.control import ControlStream, is_hung_up
from kraynd.replies import Replies
from krayne import rpc
from krayne.errors import DaemonUnreachableError, KrayneError
from krayne.messages import API_OLDEST, API_VERSION

log = logging.getLogger("kraynd.server")

READ_SIZE = 65_536
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
# What a client of any version may ask, to have itself another daemon. Their shapes only ever grow.
ANY_VERSION = frozenset({"daemon.hello", "daemon.restart", "daemon.stop", "rpc.discover"})
FOLLOWERS = 16  # watches of one connection; a TUI needs one


class Host(Protocol):
    """What a session shares with the others."""

    methods: Mapping[str, Method]
    replies: Replies
    wants: Callable[[], str]

    def mutation_begins(self, scope: anyio.CancelScope) -> None:
        """A shielded call runs in `scope`."""

    def mutation_ended(self, scope: anyio.CancelScope) -> None:
        """It finished."""

    def buffer(self, change: int) -> bool:
        """Account for buffered bytes; False when all sessions together hold too many."""


@dataclass(slots=True)
class _Running:
    scope: anyio.CancelScope
    mutates: bool
    cancelled: bool = False


class Session:
    """One connection of the control socket."""

    def __init__(self, stream: ControlStream, host: Host) -> None:
        self._stream = stream
        self._host = host
        self._lines = rpc.LineBuffer()
        self._sending = anyio.Lock()
        self._reading = anyio.CancelScope()
        self._input_over = anyio.Event()
        self._upgraded = False
        self._running: dict[rpc.Id | object, _Running] = {}
        self._followers: dict[int, tuple[Follower, anyio.CancelScope]] = {}
        self._started = 0
        self._gone = False
        self._tasks: TaskGroup

    async def run(self) -> None:
        """Serve until the client is gone. Never raises for what a client does."""
        try:
            async with anyio.create_task_group() as self._tasks:
                with self._reading:
                    await self._read()
                self._input_over.set()
                self._after_input()
        finally:
            self._gone = True
            for follower, _ in self._followers.values():
                follower.close()
            self._host.buffer(-len(self._lines))
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()

    # The Caller a method sees.

    async def send(self, line: bytes) -> None:
        """Write one line, or end a connection that takes none of it for too long."""
        if self._gone:
            return
        async with self._sending:
            try:
                with anyio.fail_after(rpc.WRITE_SECONDS):
                    await self._stream.send(line)
            except TimeoutError:  # before GONE: it is an OSError too
                log.info("a client does not read its answers and was dropped")
                self._end()
            except GONE:
                self._end()

    def follow(self, follower: Follower) -> int:
        """Keep `follower` until the connection ends. Raises KrayneError beyond FOLLOWERS."""
        if len(self._followers) >= FOLLOWERS:
            follower.close()
            raise KrayneError(
                f"a connection has at most {FOLLOWERS} watches", kind="busy", hint="end one: cluster.unwatch"
            )
        self._started += 1
        self._followers[self._started] = (follower, anyio.CancelScope())
        return self._started

    def begin(self, number: int) -> None:
        """Start a follower, unless it was ended already."""
        if number in self._followers:
            self._tasks.start_soon(self._follow, number, *self._followers[number])

    def unfollow(self, number: int) -> bool:
        """End a follower; False when there is none of this number."""
        follower, scope = self._followers.pop(number, (None, None))
        if follower is None or scope is None:
            return False
        scope.cancel()
        follower.close()
        return True

    def cancel(self, call_id: int | str) -> bool:
        """Cancel a reading call; False when there is none of this id."""
        running = self._running.get(call_id)
        if running is None or running.mutates:
            return False
        running.cancelled = True
        running.scope.cancel()
        return True

    # Input.

    async def _read(self) -> None:
        deadline = rpc.FIRST_LINE_SECONDS
        try:
            while data := await self._receive(deadline):
                held = len(self._lines)
                lines = self._lines.feed(data)
                if not self._host.buffer(len(self._lines) - held):
                    raise rpc.RequestError(rpc.INVALID_REQUEST, "too much is being sent at once", kind="busy")
                for line in lines:
                    await self._take(line)
                deadline = rpc.PARTIAL_LINE_SECONDS if len(self._lines) else float("inf")
        except KrayneError as error:
            # The framing is lost: one answer, then the end.
            await self.send(rpc.encode_error(None, error))
            self._end()

    async def _receive(self, seconds: float) -> bytes:
        try:
            with anyio.fail_after(seconds):
                return await self._stream.receive(READ_SIZE)
        except TimeoutError:
            raise rpc.RequestError(rpc.INVALID_REQUEST, f"no whole line within {seconds:.0f} s") from None
        except anyio.EndOfStream:
            return b""
        except GONE:
            self._end()
            return b""

    def _after_input(self) -> None:
        """The client will say nothing more: gone, or only done writing (`printf ... | nc -U`)."""
        if self._upgraded:
            return
        for number in list(self._followers):
            self.unfollow(number)
        if is_hung_up(self._stream.socket):
            self._end()

    async def _take(self, line: bytes) -> None:
        try:
            request = rpc.decode_request(line)
            method = self._method(request)
            params = rpc.decode_params(request, method.spec.params)
        except rpc.RequestError as error:
            await self.send(rpc.encode_error(error.id, error))
            return
        key: rpc.Id | object = request.answer_id if request.wants_answer else object()
        running = _Running(anyio.CancelScope(shield=method.spec.mutates), method.spec.mutates)
        self._running[key] = running
        self._tasks.start_soon(self._serve, request, method, params, key, running)

    def _method(self, request: rpc.Request) -> Method:
        """What serves this request. Raises RequestError."""
        if request.method not in ANY_VERSION and not API_OLDEST <= request.meta.api <= API_VERSION:
            says = f"this daemon speaks API {API_OLDEST} to {API_VERSION}, the client asks for {request.meta.api}"
            raise rpc.RequestError(
                rpc.INVALID_REQUEST, says, id=request.answer_id, kind="api-version", hint="krayne daemon restart"
            )
        method = self._host.methods.get(request.method)
        if method is None:
            says = f"no method {request.method[:100]!r}"
            raise rpc.RequestError(rpc.METHOD_NOT_FOUND, says, id=request.answer_id, hint="rpc.discover lists them")
        if request.wants_answer and request.answer_id in self._running:
            raise rpc.RequestError(rpc.INVALID_REQUEST, "a call with this id is running", id=request.answer_id)
        if len(self._running) >= rpc.CALLS_PER_SESSION and method.spec.name != "rpc.cancel":
            says = f"more than {rpc.CALLS_PER_SESSION} calls at once on one connection"
            raise rpc.RequestError(rpc.INVALID_REQUEST, says, id=request.answer_id, kind="busy")
        return method

    # Calls.

    async def _serve(
        self, request: rpc.Request, method: Method, params: Any, key: rpc.Id | object, running: _Running
    ) -> None:
        call = Call(request.answer_id, self)
        upgrade: Upgrade | None = None
        try:
            result = await self._result(call, request, method, params, running)
            if isinstance(result, Upgrade):
                upgrade = self._checked(result)
                result = result.result
            answer = rpc.encode_result(request.answer_id, result, self._host.wants())
        except KrayneError as error:
            answer = rpc.encode_error(request.answer_id, error, self._host.wants())
        except Exception:  # the wall: a fault of ours in one call ends that call alone
            log.exception("%s failed", method.spec.name)
            fault = KrayneError(f"{method.spec.name} failed in the daemon", hint="krayne daemon logs")
            answer = rpc.encode_error(request.answer_id, fault)
        finally:
            del self._running[key]
        try:
            if request.wants_answer:
                with anyio.CancelScope(shield=method.spec.mutates):  # who changed something hears of it
                    await self.send(answer)
        finally:
            for act in call.after:
                act()
        if upgrade is not None:
            await self._upgrade(upgrade)

    async def _result(self, call: Call, request: rpc.Request, method: Method, params: Any, running: _Running) -> Any:
        """The method's result, within its deadline. Raises KrayneError."""
        running.scope.deadline = anyio.current_time() + method.seconds
        if running.mutates:
            self._host.mutation_begins(running.scope)
        try:
            with running.scope:
                return await self._once(call, request, method, params)
        finally:
            if running.mutates:
                self._host.mutation_ended(running.scope)
        if running.cancelled:
            raise KrayneError(f"{method.spec.name} was cancelled", kind="call-cancelled")
        if anyio.current_time() < running.scope.deadline:
            says = f"the daemon stopped before {method.spec.name} had ended"
            raise DaemonUnreachableError(says, hint="krayne status, then repeat the command", retryable=True)
        says = f"{method.spec.name} did not end within {method.seconds:.0f} s"
        raise KrayneError(says, kind="timed-out", retryable=True)

    async def _once(self, call: Call, request: rpc.Request, method: Method, params: Any) -> Any:
        token = getattr(params, "token", "")
        if not (method.spec.mutates and token):
            return await method.run(call, params)
        asked = hashlib.blake2b(request.params, digest_size=16).digest()
        return await self._host.replies.once(method.spec.name, token, asked, lambda: method.run(call, params))

    def _checked(self, upgrade: Upgrade) -> Upgrade:
        """Raw bytes and lines cannot share a connection."""
        if len(self._running) > 1 or self._followers:
            raise KrayneError("this call needs a connection of its own", kind="protocol", hint="open another one")
        return upgrade

    async def _upgrade(self, upgrade: Upgrade) -> None:
        self._upgraded = True
        self._reading.cancel()
        await self._input_over.wait()
        try:
            await upgrade.body(self._stream, self._lines.rest())
        except (*GONE, TimeoutError) as error:
            log.info("a client went away in the middle of its bytes: %s", type(error).__name__)
        finally:
            self._end()

    async def _follow(self, number: int, follower: Follower, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await follower.run()
        except Exception:  # the wall: as for a call, but nobody waits for an answer
            log.exception("a watch failed; its connection is closed")
            self._end()
        self.unfollow(number)

    def _end(self) -> None:
        """Close the connection: what only reads is cancelled, what changes something finishes first."""
        self._gone = True
        self._tasks.cancel_scope.cancel()
