"""The home folder: its shape, its owner, its lock, its id, and files that are whole or absent.

Creates ~/.krayne (0700) and the marker that proves the clusters folder is the real one and not an empty mount point.
Never deletes the lock file (that would split the lock) and never follows a link out of the folder.
"""

import errno
import fcntl
import os
import secrets
import socket
import stat

from krayne import paths
from krayne.errors import KrayneError, StateError

MARKER = ".krayne-home"
ID_FILE = "home-id"
OTHERS_MAY_WRITE = 0o022


class AlreadyRunningError(KrayneError):
    """Another daemon holds this home's lock."""

    kind = "already-running"


def atomic_write(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` with `data`, whole or not at all, also across a power cut. Raises OSError.

    Temporary file, sync, rename, sync of the directory; a failed sync is never retried on the same descriptor.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        remove_quietly(temporary)
        raise
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Make a rename or an unlink in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_quietly(path: str) -> None:
    """Unlink `path` if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def private_dir(path: str, what: str) -> None:
    """Make `path` a directory that is ours and closed to others, or raise StateError saying what is wrong."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path)
    except OSError as error:
        raise StateError(
            f"{what} {path} cannot be made: {os.strerror(error.errno or 0)}",
            hint="check the disk and the permissions of the folder above, or set KRAYNE_HOME",
        ) from error
    if found.st_uid != os.getuid():
        raise StateError(
            f"{what} {path} belongs to uid {found.st_uid}, not to you (uid {os.getuid()})",
            hint="move it away or set KRAYNE_HOME to a folder of your own",
        )
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)


class Home:
    """An opened home folder. `id` tells this home's clusters from another's with the same names."""

    def __init__(self, path: str, home_id: str) -> None:
        self.path = path
        self.id = home_id
        self.pid = os.getpid()
        self.clusters = paths.clusters_dir()
        self._lock_fd: int | None = None

    @classmethod
    def open(cls) -> "Home":
        """Create what is missing and read the home's id. Raises StateError."""
        where = paths.home()
        private_dir(where, "the home folder")
        private_dir(paths.run_dir(), "the run folder")
        home = cls(where, _read_or_make_id(os.path.join(where, ID_FILE)))
        private_dir(home.clusters, "the clusters folder")
        # An empty, unmarked folder in a home that has a history may be an unmounted disk: it stays unmarked, and
        # nothing is concluded from its emptiness until something is written there.
        if not os.path.exists(paths.state_file()) or os.listdir(home.clusters):
            home.mark()
        return home

    def lock(self) -> None:
        """Become this home's one daemon. Raises AlreadyRunningError naming the holder."""
        fd = os.open(paths.lock_file(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 64, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StateError(f"{paths.lock_file()} cannot be locked: {error.strerror}") from error
            raise AlreadyRunningError(
                f"kraynd is already running for {self.path} (pid {holder})",
                hint="krayne status",
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        self._lock_fd = fd

    def unlock(self) -> None:
        """Let a successor in; the file stays."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def mark(self) -> None:
        """Put the marker into the clusters folder, making the folder where it is missing."""
        private_dir(self.clusters, "the clusters folder")
        marker = os.path.join(self.clusters, MARKER)
        if not os.path.exists(marker):
            atomic_write(marker, self.id.encode() + b"\n")

    def healthy(self) -> bool:
        """D1: the clusters folder is there, ours, and carries our marker."""
        marker = os.path.join(self.clusters, MARKER)
        try:
            folder = os.stat(self.clusters)
            with open(marker, "rb") as file:
                return folder.st_uid == os.getuid() and file.read(64).strip() == self.id.encode()
        except OSError:
            return False


def _read_or_make_id(path: str) -> str:
    try:
        with open(path, "rb") as file:
            found = file.read(64).decode("ascii", "replace").strip()
        if found.isalnum():
            return found
    except FileNotFoundError:
        pass
    made = secrets.token_hex(8)
    atomic_write(path, made.encode() + b"\n")
    return made


class UnsafeFileError(Exception):
    """A file in the home that must not be read: a link, a pipe, another user's, or too large."""


def read_own_file(path: str, limit: int) -> tuple[bytes, os.stat_result]:
    """A regular file of ours, whole, without following a link or blocking on a pipe.

    Raises UnsafeFileError with a phrase that follows the file's name, or OSError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeFileError("is a link, and links are not followed") from error
        raise
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise UnsafeFileError("is not a regular file")
        if found.st_uid != os.getuid():
            raise UnsafeFileError(f"belongs to uid {found.st_uid}, not to you")
        if found.st_mode & OTHERS_MAY_WRITE:
            raise UnsafeFileError("can be written by other users (chmod go-w mends it)")
        if found.st_size > limit:
            raise UnsafeFileError(f"is larger than {limit // 1024} KiB")
        with open(fd, "rb", closefd=False) as file:
            return file.read(limit), found
    finally:
        os.close(fd)
