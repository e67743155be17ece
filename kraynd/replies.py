"""A changing call repeated with the same token gets the first one's answer; it is not done twice.

Owns the answers of the last ten minutes, bounded in number. A call that failed is not remembered: repeating it is
what its caller wants.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import anyio

from krayne.errors import UsageError

KEPT = 256  # answers; each is a few KiB
KEPT_SECONDS = 600.0  # longer than any client retries


class _Reply(NamedTuple):
    asked: bytes
    done: anyio.Event
    until: float
    answer: list[Any]


class Replies:
    """Answers by token."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], _Reply] = OrderedDict()

    async def once(self, method: str, token: str, asked: bytes, action: Callable[[], Awaitable[Any]]) -> Any:
        """The answer of `action`, run at most once for this token. Raises UsageError for a token used otherwise."""
        key = (method, token)
        while (known := self._fresh(key)) is not None:
            if known.asked != asked:
                raise UsageError(
                    f"the token {token!r} was used for another {method}", hint="take a new token for each change"
                )
            await known.done.wait()
            if known.answer:
                return known.answer[0]
        return await self._first(key, asked, action)

    def _fresh(self, key: tuple[str, str]) -> _Reply | None:
        known = self._kept.get(key)
        if known is not None and known.until < anyio.current_time():
            del self._kept[key]
            return None
        return known

    async def _first(self, key: tuple[str, str], asked: bytes, action: Callable[[], Awaitable[Any]]) -> Any:
        reply = _Reply(asked, anyio.Event(), anyio.current_time() + KEPT_SECONDS, [])
        self._kept[key] = reply
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        try:
            reply.answer.append(await action())
        finally:
            if not reply.answer and self._kept.get(key) is reply:
                del self._kept[key]
            reply.done.set()
        return reply.answer[0]
