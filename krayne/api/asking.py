"""One question to the daemon as a value, and a connection that was lost over it."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from krayne.errors import DaemonUnreachableError

ANSWER_SECONDS = 330.0  # a little longer than the daemon gives a call

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """A call of the socket API. `again`: it only reads, so it is asked once more when the connection is lost."""

    method: str
    params: Json
    seconds: float = ANSWER_SECONDS
    on_progress: Callable[[Json], None] | None = None
    again: bool = False


Plan = Generator[Ask, Any, T]


class LostError(DaemonUnreachableError):
    """The daemon ended the connection in the middle of a call: it stopped, or was restarted."""
