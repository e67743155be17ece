"""Listening sockets across a restart: from the service manager's store, or from the process we were before an exec.

What is listened on is never closed in between, so who connects meanwhile waits in the backlog. Owns the names under
which sockets travel; knows nothing of what they serve. A Unix socket's name tells which file leads to it: the kernel
knows only what it was bound as, before it was renamed.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence

from kraynd.local import system

FIRST = 3  # SD_LISTEN_FDS_START
OURS = "KRAYND_HANDED"  # descriptors of the process we were: "NAME=FD,..."
CONTROL = "control"
ACTIVATED = "kraynd.socket"  # a socket unit's default name for what it listens on
FORWARD = "forward"
UNIX = "unix"  # a forward's Unix socket: "unix-DEVICE-INODE"
MOST = 2048  # sockets at once: more than that nobody hands over


Door = tuple[str, socket.socket]  # a forward's listening socket, and the name under which it travels


class Handed:
    """What came with the start: the control socket, if any, and the sockets of forwards; the Unix ones by path."""

    def __init__(
        self,
        control: socket.socket | None = None,
        forwards: Sequence[socket.socket] = (),
        unix: Mapping[str, socket.socket] | None = None,
        *,
        activated: bool = False,
    ) -> None:
        self.control = control
        self.activated = activated  # the control socket is a socket unit's: its path is not ours to remove
        self.forwards = tuple(forwards)
        self.unix = dict(unix or {})


def take(folder: str) -> Handed:
    """Take over what was handed to this process, once; nothing of it reaches the processes we start.

    A forward's Unix socket to which no file of `folder` leads is let go.
    """
    control: socket.socket | None = None
    activated = False
    forwards: dict[tuple[int, str, int], socket.socket] = {}
    unix: dict[str, socket.socket] = {}
    files = _files(folder)
    for name, number in [*_from_exec(os.environ.pop(OURS, "")), *_from_manager()]:
        one = _listening(number)
        if one is None:
            continue
        if one.family == socket.AF_UNIX:
            if name in (CONTROL, ACTIVATED) and control is None:
                control, activated = one, name == ACTIVATED
            elif name in files and files[name] not in unix:
                unix[files[name]] = one
            else:
                one.close()
                if name.startswith(UNIX) and name not in files:
                    forget(name)
            continue
        host, port = one.getsockname()[:2]
        if (one.family, host, port) in forwards:
            one.close()  # the same socket, stored twice
        else:
            forwards[one.family, host, port] = one
    return Handed(control, tuple(forwards.values()), unix, activated=activated)


def forward_name(port: int) -> str:
    """The name of the doors of one local port."""
    return f"{FORWARD}-{port}"


def unix_name(found: tuple[int, int]) -> str:
    """The name of the Unix socket to which this file leads: device and inode."""
    return f"{UNIX}-{found[0]}-{found[1]}"


def keep(control: socket.socket | None, forwards: Iterable[Door]) -> list[tuple[str, int]]:
    """Copies of listening sockets that stay open when their owners close them."""
    named = [(CONTROL, control)] if control is not None else []
    named += forwards
    kept = []
    with contextlib.suppress(OSError):  # out of descriptors: what was kept is kept
        for name, one in named:
            kept.append((name, os.dup(one.fileno())))
    return kept


def give(kept: Iterable[tuple[str, int]]) -> None:
    """Let the program this process is about to become have them."""
    kept = list(kept)
    for _, number in kept:
        os.set_inheritable(number, True)
    os.environ[OURS] = ",".join(f"{name}={number}" for name, number in kept)


def store(name: str, sockets: Sequence[socket.socket]) -> bool:
    """Put sockets into the service manager's store (sd_pid_notify_with_fds(3)); False without a manager."""
    return system.notify(f"FDSTORE=1\nFDNAME={name}", [one.fileno() for one in sockets])


def forget(name: str) -> bool:
    """Take them out of the store, or their port stays bound."""
    return system.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")


def _files(folder: str) -> dict[str, str]:
    """The sockets of a folder by the name they would have here: name to path."""
    found = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for one in entries:
            about = one.stat(follow_symlinks=False)
            if stat.S_ISSOCK(about.st_mode):
                found[unix_name((about.st_dev, about.st_ino))] = one.path
    return found


def _from_exec(text: str) -> list[tuple[str, int]]:
    pairs = (one.partition("=") for one in text.split(",")[:MOST])
    return [(name, int(number)) for name, _, number in pairs if number.isdecimal()]


def _from_manager() -> list[tuple[str, int]]:
    """LISTEN_FDS, when meant for this process (sd_listen_fds(3))."""
    pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    number = min(int(count), MOST)
    named = names.split(":") if names else []
    named += [ACTIVATED] * (number - len(named))  # socket activation without names
    return [(ACTIVATED if name == "unknown" else name, FIRST + at) for at, name in enumerate(named[:number])]


def _listening(number: int) -> socket.socket | None:
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return None
        os.set_inheritable(number, False)
        one = socket.socket(fileno=number)
        if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            one.close()
            return None
    except OSError:
        return None
    one.setblocking(False)
    return one
