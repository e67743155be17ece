"""The control socket as a file: bound so that nobody meets it half ready, and who is at the other end.

Never unlinks what is not ours. The caller holds the home's lock: that alone makes taking over a stale socket safe.
"""

import contextlib
import os
import secrets
import select
import socket
import stat
import struct
import sys

import anyio
from anyio.abc import ByteStream

from krayne import paths
from krayne.errors import StateError

BACKLOG = 512  # clients that come while the loop is busy
_MACOS_SOL_LOCAL = 0
_MACOS_LOCAL_PEERCRED = 1
_MACOS_XUCRED = struct.Struct("=IIh")  # cr_version, cr_uid, cr_ngroups; then the groups


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end of a Unix socket, as the kernel knows it. Raises OSError."""
    if sys.platform == "darwin":
        found = connection.getsockopt(_MACOS_SOL_LOCAL, _MACOS_LOCAL_PEERCRED, 76)
        return int(_MACOS_XUCRED.unpack_from(found)[1])
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[1])


def is_hung_up(connection: socket.socket) -> bool:
    """Whether the peer closed both ways; a peer that only stopped writing still reads."""
    poller = select.poll()
    poller.register(connection, 0)
    return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poller.poll(0))


def bind_control_socket(path: str) -> socket.socket:
    """A listening 0600 socket at `path`, put in place of a stale one in one step. Raises StateError."""
    if len(os.fsencode(path)) > paths.SOCKET_PATH_LIMIT:
        raise StateError(
            f"the socket path {path} is longer than the {paths.SOCKET_PATH_LIMIT} bytes a Unix socket may have",
            hint="set KRAYNE_SOCKET to a shorter path",
        )
    folder = os.path.dirname(path)
    _check_folder(folder)
    _check_free(path)
    temporary = os.path.join(folder, f".{secrets.token_hex(3)}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Under the ordinary mask the socket would be open to others until a chmod.
        mask = os.umask(0o177)
        try:
            listener.bind(temporary)
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
        os.rename(temporary, path)
    except OSError as error:
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise StateError(f"the control socket {path} cannot be made: {error.strerror}") from error
    listener.setblocking(False)
    return listener


class ControlStream(ByteStream):
    """One accepted connection. Tries first, waits only when the kernel has nothing; one reader and one writer."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Some bytes. Raises EndOfStream, BrokenResourceError."""
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                data = self.socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self.socket)
            except OSError as error:
                raise anyio.BrokenResourceError from error
            else:
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        """All of `item`. Raises BrokenResourceError; cancelled in the middle, part of it is sent."""
        await anyio.lowlevel.checkpoint()
        left = memoryview(item)
        while left:
            try:
                left = left[self.socket.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self.socket)
            except OSError as error:
                raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """Nothing more will be sent."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Let go of the connection."""
        self.socket.close()


async def accept(listener: socket.socket) -> ControlStream:
    """The next client. Raises OSError, also for a shortage of descriptors."""
    while True:
        try:
            return ControlStream(listener.accept()[0])
        except BlockingIOError:
            await anyio.wait_readable(listener)


def identity(path: str) -> tuple[int, int] | None:
    """Which file is at `path` now: device and inode; None when there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove_if_ours(path: str, ours: tuple[int, int] | None) -> None:
    """Unlink `path` if it is still the file we made."""
    if ours is not None and identity(path) == ours:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _check_folder(folder: str) -> None:
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        os.mkdir(folder, 0o700)
    if not paths.is_private_dir(folder):
        raise StateError(
            f"the control socket's folder {folder} is not a private folder of yours",
            hint=f"make it yours alone (chmod 700 {folder}), or set KRAYNE_SOCKET to a path in such a folder",
        )


def _check_free(path: str) -> None:
    """Nothing is there, or a socket nobody listens on."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StateError(f"{path} is in the way: it is not a socket", hint="move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:  # a full backlog: somebody is there
            pass
    raise StateError(
        f"another daemon serves on {path}",
        hint="stop it, or set KRAYNE_SOCKET to another path for this home",
    )
