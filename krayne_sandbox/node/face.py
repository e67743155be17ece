"""What the API needs of the node: streams into pods. The node's half of the contract, as types."""

import socket
from collections.abc import AsyncIterator, Sequence
from typing import Protocol


class Execution(Protocol):
    """One command running in a pod. `close` ends it; everything else may be called in any order."""

    async def write(self, data: bytes) -> None:
        """Bytes for its standard input; dropped once it has ended."""

    async def close_input(self) -> None:
        """End of its standard input."""

    def stdout(self) -> AsyncIterator[bytes]:
        """What it prints; with a tty, everything."""

    def stderr(self) -> AsyncIterator[bytes]:
        """What it complains; nothing with a tty."""

    def resize(self, width: int, height: int) -> None:
        """The terminal's new size; nothing without a tty."""

    async def wait(self) -> int:
        """Its exit code, 128 + N for a signal N."""

    async def close(self) -> None:
        """The client has left: end the command and what it started."""


class Node(Protocol):
    """Streams into pods. An unknown pod or container is a StatusError 404 or 400."""

    async def connect(self, namespace: str, pod: str, port: int) -> socket.socket:
        """A connected loopback socket to what listens on the pod's port. Raises OSError when refused."""

    def logs(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        follow: bool,
        tail: int | None,
        since: float | None,
        timestamps: bool,
        limit: int | None,
    ) -> AsyncIterator[bytes]:
        """A container's log. `container` may be empty; `since`: wall seconds; `limit`: bytes."""

    async def execute(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, tty: bool
    ) -> Execution:
        """Start a command. Raises OSError when it cannot be started."""
