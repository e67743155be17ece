"""Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it.

Use `anyio_backend = ("asyncio", {"loop_factory": VirtualLoop})`. For code with no threads and no sockets.
"""

import asyncio
import selectors


class _Jumping(selectors.SelectSelector):
    """Never waits: what would be waited for is added to the clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or timeout == 0:
            return found
        if timeout is None:
            raise AssertionError("every task waits for something that cannot happen")
        self._loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 1000 s: nothing may take 0 for "never"."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now
