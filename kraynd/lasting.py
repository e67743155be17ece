"""What outlasts this process: its listening sockets in the service manager's store, and its successor's version.

Decides nothing of forwards; only keeps the manager's copy of their sockets true. Without a manager it does nothing.
"""

import importlib
import socket
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import anyio

from kraynd.core.model import ForwardKey
from kraynd.forwards import Forwards
from kraynd.local import handover

LEFTOVER_SECONDS = 60.0  # a socket no forward claimed so long after the first look is one whose forward is gone
UPGRADE_CHECK = 60.0  # seconds between two looks at what is installed


class DescriptorStore:
    """The forwards' listening sockets, kept by the manager under the name of their port."""

    def __init__(self, forwards: Forwards) -> None:
        self._forwards = forwards
        self._stored: dict[ForwardKey, tuple[socket.socket, ...]] = {}
        self._ports: dict[ForwardKey, int] = {}
        self._settled = anyio.Event()
        self._left = False

    def put_control(self, control: socket.socket) -> bool:
        """Keep the control socket; whether there is a manager that does."""
        handover.forget(handover.CONTROL)
        return handover.store(handover.CONTROL, [control])

    def follow(self) -> None:
        """Store what was opened, and take out what was closed: else its port stays bound."""
        if self._left:
            return
        now = {
            key: doors
            for key, sockets in self._forwards.sockets().items()
            if (doors := tuple(one for one in sockets if one.family != socket.AF_UNIX))
        }
        for key in [key for key, doors in self._stored.items() if now.get(key) != doors]:
            del self._stored[key]
            handover.forget(_name(self._ports.pop(key)))
        for key, doors in now.items():
            if key not in self._stored:
                self._ports[key] = doors[0].getsockname()[1]
                handover.forget(_name(self._ports[key]))
                handover.store(_name(self._ports[key]), doors)
                self._stored[key] = doors

    def leave(self) -> None:
        """The process ends, and closes its doors: what the manager has is for the next one."""
        self._left = True

    def settle(self) -> None:
        """The forwards that should be on have been looked up once."""
        self._settled.set()

    async def release_leftovers(self) -> None:
        """Close handed sockets whose forward is gone."""
        await self._settled.wait()
        await anyio.sleep(LEFTOVER_SECONDS)
        for port in self._forwards.release_unclaimed():
            handover.forget(_name(port))


async def follow_upgrades(is_idle: Callable[[], bool], restart: Callable[[], None]) -> None:
    """Restart into another installed version, once two looks agree on it and nobody's stream is open."""
    running = before = installed()
    while True:
        await anyio.sleep(UPGRADE_CHECK)
        now = installed()
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


def _name(port: int) -> str:
    return f"{handover.FORWARD}-{port}"
