"""What passes between the control socket's server and its methods: a call, a method, an upgrade, a follow-up.

Values only, so that neither side knows the other. Invariant: whatever a call leaves behind (a watch) belongs to its
connection and is closed with it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec
from anyio.abc import ByteStream

from krayne.openrpc import MethodSpec
from krayne.rpc import Id

READ_SECONDS = 60.0  # reads come from memory; this is for the few that ask the API server
MUTATION_SECONDS = 300.0  # a write waits for one reconcile pass, at worst behind an API server that throttles


class Follower(Protocol):
    """Something that lives on after its answer, until it ends or its connection does."""

    async def run(self) -> None:
        """Do it."""

    def close(self) -> None:
        """Let go of what it holds; called once, also when `run` never began."""


class Caller(Protocol):
    """The connection a call came from."""

    async def send(self, line: bytes) -> None:
        """Write one line; a connection that is gone swallows it."""

    def follow(self, follower: Follower) -> int:
        """Take charge of it: closed with the connection, begun by `begin`, ended early by `unfollow`."""

    def begin(self, number: int) -> None:
        """Start a follower."""

    def unfollow(self, number: int) -> bool:
        """End it; False when there is no such one."""

    def cancel(self, call_id: int | str) -> bool:
        """Cancel a reading call; False when there is none."""


@dataclass(slots=True)
class Call:
    """One request being served. `after`: done once its answer is on the wire."""

    id: Id
    caller: Caller
    after: list[Callable[[], None]] = field(default_factory=list)

    def follow(self, follower: Follower) -> int:
        """Run it from the moment the answer is written until the connection ends; its number."""
        number = self.caller.follow(follower)
        self.after.append(lambda: self.caller.begin(number))
        return number


class Upgrade(NamedTuple):
    """An answer after which the connection is raw: `body(stream, first)` owns it then and may return to end it."""

    result: msgspec.Struct
    body: Callable[[ByteStream, bytes], Awaitable[None]]


class Method(NamedTuple):
    """How a method is served. `seconds`: its deadline."""

    spec: MethodSpec
    run: Callable[[Call, Any], Awaitable[Any]]
    seconds: float
