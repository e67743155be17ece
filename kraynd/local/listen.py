"""A forward's local doors: 127.0.0.1 and ::1 on one port, bound together or not at all, and a Unix socket.

Accepts and hands each socket on, in the same tick. Never moves to another port, and never dies of a lack of
descriptors: it stops accepting for `STARVED_SECONDS`, and the kernel's backlog keeps who comes meanwhile.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import stat
import sys
from collections.abc import Callable, Container, Iterable, Iterator

from kraynd.local import handover
from kraynd.local.control import identity, remove_if_ours
from kraynd.local.handover import Door
from kraynd.local.home import private_dir
from krayne import paths
from krayne.errors import StateError

BACKLOG = 4096  # connections that come while the loop is busy, descriptors lack or the daemon restarts
ACCEPTS_AT_ONCE = 64  # a flood of newcomers must not starve the connections there are
STARVED_SECONDS = 0.1
STARVED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# The listener's own faults; any other error of accept is that of one connection that is gone already (accept(2)).
_BROKEN = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.EFAULT})
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class Listener:
    """The doors of one forward. `on_accept` gets each accepted socket, non-blocking, and owns it."""

    def __init__(
        self,
        port: int,
        path: str | None,
        *,
        on_accept: Callable[[socket.socket], None],
        on_fault: Callable[[Exception], None],
        on_starved: Callable[[OSError], None] = lambda _: None,
        inherited: Iterable[socket.socket] = (),
    ) -> None:
        self.port = port
        self.path = path
        self.problem = ""  # why there is no Unix socket
        self.sockets: list[socket.socket] = []
        self._on_accept = on_accept
        self._on_fault = on_fault
        self._on_starved = on_starved
        self._inherited = tuple(inherited)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._identity: tuple[int, int] | None = None
        self._paused = False
        self._starved: asyncio.TimerHandle | None = None
        self._doors: tuple[Door, ...] | None = None
        self.keep_path = False  # somebody has a copy of the Unix socket and goes on with it: its path stays

    @property
    def is_open(self) -> bool:
        """Whether the port is ours."""
        return bool(self.sockets)

    @property
    def unix_path(self) -> str:
        """Where the Unix socket is; empty when there is none."""
        return self.path if self.path is not None and self._identity is not None else ""

    @property
    def doors(self) -> tuple[Door, ...]:
        """The listening sockets, and the names under which they are handed on."""
        if self._doors is None:  # asked for at every change of any forward
            self._doors = tuple(self._named())
        return self._doors

    def _named(self) -> Iterator[Door]:
        file = self._identity or (identity(self.path) if self.path is not None else None)
        port = handover.forward_name(self.port)
        for one in (*self.sockets, *self._inherited):
            if one.family != socket.AF_UNIX:
                yield port, one
            elif file is not None:
                yield handover.unix_name(file), one

    def open(self) -> None:
        """Bind, listen, accept. Raises OSError when the port cannot be had on every loopback address there is."""
        self._loop = asyncio.get_running_loop()
        self._doors = None
        # Taken once: sockets that do not help are closed, and bound anew by the next try.
        inherited = [one for one in self._inherited if one.family != socket.AF_UNIX]
        self._inherited = tuple(one for one in self._inherited if one.family == socket.AF_UNIX)
        self.sockets = bind_loopback(self.port, inherited)
        self.port = self.sockets[0].getsockname()[1]
        if self.path is not None:
            self._open_unix(self.path)
        self._watch()

    def pause(self) -> None:
        """Leave newcomers in the backlog."""
        if not self._paused:
            self._paused = True
            self._unwatch()

    def resume(self) -> None:
        """Accept again."""
        if self._paused:
            self._paused = False
            if self._starved is None:
                self._watch()

    def close(self) -> None:
        """Give the port back. Who waits in the backlog is reset."""
        if self._starved is not None:
            self._starved.cancel()
            self._starved = None
        self._unwatch()
        for one in (*self.sockets, *self._inherited):
            one.close()
        self.sockets = []
        self._inherited = ()
        self._doors = None
        if self.path is not None:
            if not self.keep_path:
                remove_if_ours(self.path, self._identity)
            self._identity = None

    def _open_unix(self, path: str) -> None:
        """Without its Unix socket a forward still serves; `problem` says why it lacks it."""
        self.problem = ""
        given, self._inherited = self._inherited, ()
        try:
            if given and identity(path) is None:  # nobody reaches it any more
                given[0].close()
                given = ()
            self.sockets.append(given[0] if given else bind_unix(path))
            self._identity = identity(path)
        except (OSError, StateError) as error:
            self.problem = f"no Unix socket at {path}: {error}"

    def _watch(self) -> None:
        if self._loop is not None:
            for one in self.sockets:
                self._loop.add_reader(one.fileno(), self._on_readable, one)

    def _unwatch(self) -> None:
        if self._loop is not None:
            for one in self.sockets:
                self._loop.remove_reader(one.fileno())

    def _on_readable(self, listener: socket.socket) -> None:
        try:
            for _ in range(ACCEPTS_AT_ONCE):
                if self._paused or self._starved is not None or not self.sockets or not self._accept(listener):
                    return
        except Exception as error:  # noqa: BLE001 - the wall: this forward starts again, no other
            self._on_fault(error)

    def _accept(self, listener: socket.socket) -> bool:
        """Take one connection; whether there may be more."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _BROKEN:
                raise
            if error.errno in STARVED:
                self._starve(error)
            return error.errno not in STARVED
        try:
            connection.setblocking(False)
            if listener.family != socket.AF_UNIX and sys.platform != "linux":
                # Linux hands the listener's option down.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._on_accept(connection)
        except BaseException:
            connection.close()
            raise
        return True

    def _starve(self, error: OSError) -> None:
        assert self._loop is not None
        self._unwatch()
        self._starved = self._loop.call_later(STARVED_SECONDS, self._feed)
        self._on_starved(error)

    def _feed(self) -> None:
        self._starved = None
        if not self._paused:
            self._watch()


def bind_loopback(port: int, inherited: Iterable[socket.socket] = ()) -> list[socket.socket]:
    """Listening sockets on 127.0.0.1 and, where the machine has it, ::1. Raises OSError, and then holds neither.

    Sockets of `inherited` that listen there already are taken instead of bound.
    """
    given = {(one.family, one.getsockname()[0]): one for one in inherited if one.family != socket.AF_UNIX}
    bound: list[socket.socket] = []
    try:
        bound.append(given.get((socket.AF_INET, "127.0.0.1")) or _bind(socket.AF_INET, "127.0.0.1", port))
        port = bound[0].getsockname()[1]
        try:
            bound.append(given.get((socket.AF_INET6, "::1")) or _bind(socket.AF_INET6, "::1", port))
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
        for one in bound:
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.listen(BACKLOG)
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


def _bind(family: int, host: str, port: int) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of the daemon before us linger in TIME_WAIT; Linux still refuses a port that is listened on.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((host, port))
    except BaseException:
        one.close()
        raise
    return one


def sweep(folder: str, keep: Container[str]) -> None:
    """Take away the sockets in our folder that nobody listens on, those of daemons before us."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for one in entries:
            if one.path in keep or not stat.S_ISSOCK(one.stat(follow_symlinks=False).st_mode):
                continue
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                if probe.connect_ex(one.path) == errno.ECONNREFUSED:
                    os.unlink(one.path)


def bind_unix(path: str) -> socket.socket:
    """A listening 0600 socket at `path`, in a 0700 folder of ours, put over whatever an earlier daemon left there."""
    if len(os.fsencode(path)) > paths.SOCKET_PATH_LIMIT:
        raise OSError(errno.ENAMETOOLONG, "the path is too long for a Unix socket")
    folder = os.path.dirname(path)
    private_dir(folder, "the folder of the forwards' sockets")
    temporary = os.path.join(folder, f".{secrets.token_hex(3)}")
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)
        try:
            one.bind(temporary)
        finally:
            os.umask(mask)
        one.listen(BACKLOG)
        one.setblocking(False)
        os.rename(temporary, path)
    except BaseException:
        one.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return one
