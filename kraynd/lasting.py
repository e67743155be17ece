"""What outlasts this process: its listening sockets in the service manager's store, and its successor's version.

Decides nothing of forwards; only keeps the manager's copy of their sockets true. Without a manager it does nothing.
"""

import importlib
import socket
from collections.abc import Callable, Collection, Iterable
from importlib.metadata import PackageNotFoundError, version

import anyio

from kraynd.core.model import ForwardKey
from kraynd.forwards import Forwards
from kraynd.local import handover, system
from kraynd.local.handover import Door

LEFTOVER_SECONDS = 60.0  # a socket no forward claimed so long after the first look is one whose forward is gone
UPGRADE_CHECK = 60.0  # seconds between two looks at what is installed


class DescriptorStore:
    """The forwards' listening sockets, kept by the manager under the name of their port."""

    def __init__(self, forwards: Forwards, *, besides: Collection[str] = ()) -> None:
        self._forwards = forwards
        self._besides = besides  # sockets in the folder of the forwards' that are not theirs
        self._stored: dict[ForwardKey, tuple[Door, ...]] = {}
        self._settled = anyio.Event()
        self._left = not system.is_managed()  # nobody keeps anything

    def put_control(self, control: socket.socket) -> bool:
        """Keep the control socket; whether there is a manager that does."""
        handover.forget(handover.CONTROL)
        return handover.store(handover.CONTROL, [control])

    def follow(self, keys: Iterable[ForwardKey] | None = None) -> None:
        """Store what was opened, and take out what was closed: else its port stays bound. `keys`: these alone."""
        if self._left:
            return
        now = self._forwards.doors() if keys is None else {key: self._forwards.doors_of(key) for key in keys}
        gone = self._stored.keys() if keys is None else now.keys() & self._stored.keys()
        for key in [key for key in gone if now.get(key, ()) != self._stored[key]]:
            for name in _named(self._stored.pop(key)):
                handover.forget(name)
        for key, doors in now.items():
            if doors and key not in self._stored:
                self._store(key, doors)

    def _store(self, key: ForwardKey, doors: tuple[Door, ...]) -> None:
        self._stored[key] = doors
        for name, sockets in _named(doors).items():
            handover.forget(name)
            if handover.store(name, sockets):
                self._forwards.keep_path(key)

    def leave(self) -> None:
        """The process ends, and closes its doors: what the manager has is for the next one."""
        self._left = True

    def settle(self) -> None:
        """The forwards that should be on have been looked up once."""
        self._settled.set()

    async def release_leftovers(self) -> None:
        """Close handed sockets whose forward is gone, and take away the files of those nobody has."""
        await self._settled.wait()
        self._forwards.sweep(self._besides)
        await anyio.sleep(LEFTOVER_SECONDS)
        for name in self._forwards.release_unclaimed():
            handover.forget(name)


async def follow_upgrades(
    is_idle: Callable[[], bool], restart: Callable[[], None], look: Callable[[], str], every: float = UPGRADE_CHECK
) -> None:
    """Restart into another installed version, once two looks agree on it and nobody's stream is open."""
    running = before = look()
    while True:
        await anyio.sleep(every)
        now = look()
        if now and now != running and now == before and is_idle():
            restart()
            return
        before = now


def installed() -> str:
    """The version on disk; empty in the middle of an installation."""
    importlib.invalidate_caches()
    try:
        return version("kraynd")
    except PackageNotFoundError:
        return ""


def _named(doors: Iterable[Door]) -> dict[str, list[socket.socket]]:
    found: dict[str, list[socket.socket]] = {}
    for name, one in doors:
        found.setdefault(name, []).append(one)
    return found
