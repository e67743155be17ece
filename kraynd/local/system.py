"""This machine's ways: the service manager's notify socket, waking from sleep, the descriptor limit.

The loop's clock stands still in suspend, the wall clock does not: a jump between the two is a wake-up.
"""

import contextlib
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Sequence

import anyio

from kraynd.core.rounds import ROUND, until_round

SLEEP_CHECK = 6 * ROUND  # seconds between two looks at the clocks: a wake-up is noticed this late at most
SLEEP_GAP = 3.0  # a gap shorter than this is a loaded machine, not a sleep
WANTED_DESCRIPTORS = 65_536  # 250 forwards with some hundred connections each


def is_managed() -> bool:
    """Whether there is a service manager to tell."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(message: str, descriptors: Sequence[int] = ()) -> bool:
    """Tell the service manager (sd_notify(3)); False without one. `message` is "READY=1", "STATUS=..." and so on."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        with contextlib.suppress(OSError):  # a manager that went away must not end the daemon
            sender.connect(address)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
            sender.sendmsg([message.encode()], rights if descriptors else [])
            return True
    return False


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files as far as allowed; the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def refuse_core_dumps() -> None:
    """A core file would hold tokens."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


async def watch_sleep(
    on_wake: Callable[[float], None],
    *,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = anyio.current_time,
) -> None:
    """Call `on_wake(seconds_asleep)` whenever the wall clock ran ahead of the loop's clock. Runs until cancelled."""
    before = wall() - monotonic()
    while True:
        await anyio.sleep(until_round(anyio.current_time(), SLEEP_CHECK))
        now = wall() - monotonic()
        if now - before > SLEEP_GAP:
            on_wake(now - before)
        before = now


async def feed_watchdog() -> None:
    """Tell the service manager, as often as it wants, that the loop turns (sd_watchdog_enabled(3))."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    if not wanted.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        notify("WATCHDOG=1")
        await anyio.sleep(int(wanted) / 1_000_000 / 3)
