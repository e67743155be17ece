"""Carries out plans, blocking: a connection of its own for each call of the SDK, a daemon started when there is none.

No state outlives a call, so threads and forked processes may all call at once.
"""

from typing import Any, TypeVar

from krayne.api.asking import Ask, LostError, Plan
from krayne.errors import DaemonUnreachableError, KrayneError
from krayne_client.connection import Connection

T = TypeVar("T")


def carry_out(plan: Plan[T]) -> T:
    """The plan's result. Raises KrayneError."""
    link = _Link()
    try:
        ask = next(plan)
        while True:
            try:
                answer = link.ask(ask)
            except KrayneError as error:
                ask = plan.throw(error)
            else:
                ask = plan.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        plan.close()
        link.close()


class _Link:
    """At most one connection, made when it is first needed and anew after it was lost."""

    def __init__(self) -> None:
        self._connection: Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ask(self, ask: Ask) -> Any:
        try:
            return self._once(ask)
        except LostError:
            if not ask.again:
                raise
            return self._once(ask)

    def _once(self, ask: Ask) -> Any:
        if self._connection is None:
            from krayne_client.start import ensure_daemon

            self._connection = ensure_daemon()
        try:
            return self._connection.call(ask.method, ask.params, seconds=ask.seconds, on_progress=ask.on_progress)
        except DaemonUnreachableError as error:
            self.close()
            if error.retryable:  # silent, not gone
                raise
            raise LostError(error.message, hint="krayne status, then call again") from error
        except BaseException as error:
            if not isinstance(error, KrayneError):
                self.close()  # interrupted: the answer would be taken for the next one's
            raise
