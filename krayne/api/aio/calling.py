"""Carries out plans on anyio: a connection of its own for each call, a daemon started when there is none.

Invariant: a cancelled call closes its connection, so the daemon ends what only reads.
"""

import json
from typing import Any, Self, TypeVar

import anyio
from anyio import to_thread

from krayne import paths
from krayne.api.asking import Ask, Json, LostError, Plan
from krayne.errors import DaemonUnreachableError, KrayneError, ProtocolError
from krayne_client.connection import API_VERSION, LINE_LIMIT, result_of
from krayne_client.pluginpath import give_path

T = TypeVar("T")
GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
READ_SIZE = 65_536


async def carry_out(plan: Plan[T]) -> T:
    """The plan's result. Raises KrayneError."""
    link = _Link()
    try:
        ask = next(plan)
        while True:
            try:
                answer = await link.ask(ask)
            except KrayneError as error:
                ask = plan.throw(error)
            else:
                ask = plan.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        plan.close()
        await link.close()


class _Link:
    """At most one connection, made when it is first needed and anew after it was lost."""

    def __init__(self) -> None:
        self._talk: Talk | None = None

    async def close(self) -> None:
        if self._talk is not None:
            talk, self._talk = self._talk, None
            await talk.close()

    async def ask(self, ask: Ask) -> Any:
        try:
            return await self._once(ask)
        except LostError:
            if not ask.again:
                raise
        return await self._once(ask)

    async def _once(self, ask: Ask) -> Any:
        self._talk = self._talk or await Talk.begin()
        try:
            return await self._talk.call(ask)
        except DaemonUnreachableError:
            await self.close()
            raise


class Talk:
    """One connection to the daemon."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._rest = bytearray()
        self._calls = 0
        self._gives_path = True  # once, to a daemon that asks for it

    @classmethod
    async def begin(cls) -> Self:
        """A connection, to a new daemon when there is none. Raises DaemonUnreachableError, StateError."""
        for attempt in range(2):
            try:
                return cls(await anyio.connect_unix(paths.socket_path()))
            except (FileNotFoundError, ConnectionRefusedError):
                if attempt:
                    break
                await to_thread.run_sync(_start, abandon_on_cancel=False)
            except OSError as error:
                why = error.strerror or str(error)
                raise DaemonUnreachableError(
                    f"the daemon's socket cannot be opened: {why}", hint="krayne daemon restart"
                ) from error
        raise DaemonUnreachableError("the daemon was started and is gone again", hint="krayne daemon logs")

    async def close(self) -> None:
        """End it."""
        await anyio.aclose_forcefully(self._stream)

    async def call(self, ask: Ask) -> Any:
        """The answer. Raises KrayneError."""
        self._calls += 1
        request = {"jsonrpc": "2.0", "id": self._calls, "method": ask.method, "params": ask.params}
        try:
            with anyio.fail_after(ask.seconds):
                await self._send(json.dumps({**request, "meta": {"api": API_VERSION}}).encode() + b"\n")
                while True:
                    line = await self.line()
                    if line.get("method") == "call.progress" and ask.on_progress is not None:
                        ask.on_progress(line["params"]["cluster"])
                    elif "method" not in line and line.get("id") in (self._calls, None):
                        break
        except TimeoutError:
            raise DaemonUnreachableError(
                "the daemon does not answer", hint="krayne daemon restart", retryable=True
            ) from None
        if await self._gave_path(line) and "error" in line:
            return await self.call(ask)
        return result_of(line)

    async def _gave_path(self, answer: Json) -> bool:
        """Whether the daemon lacked a credential plugin that is on our PATH, and has it now."""
        if not self._gives_path or answer.get("meta") != {"wants": "path"}:
            return False
        self._gives_path = False
        return await to_thread.run_sync(give_path, abandon_on_cancel=True)

    async def line(self) -> Json:
        """The next line that comes, however long that takes. Raises LostError, ProtocolError."""
        searched = 0
        while (end := self._rest.find(b"\n", searched)) < 0:
            searched = len(self._rest)
            if searched > LINE_LIMIT:
                raise _strange()
            try:
                self._rest += await self._stream.receive(READ_SIZE)
            except GONE as error:
                raise _lost() from error
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise _strange()
        return found

    async def _send(self, line: bytes) -> None:
        try:
            await self._stream.send(line)
        except GONE as error:
            raise _lost() from error


def _start() -> None:
    from krayne_client.start import ensure_daemon

    ensure_daemon().close()


def _lost() -> LostError:
    return LostError("the daemon went away before it answered", hint="krayne status, then call again")


def _strange() -> ProtocolError:
    return ProtocolError("what answers on the socket does not speak as kraynd does", hint="krayne daemon restart")
