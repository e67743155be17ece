"""Starting the daemon when nobody answers: lock, look again, spawn detached, wait for its socket.

Invariant: however many clients come at once, at most one daemon is spawned; a daemon that dies at once is reported with
its last words, not waited for.
Where our unit is installed, its service manager starts it.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from krayne import paths
from krayne.errors import DaemonUnreachableError, KrayneError, StateError
from krayne_client.connection import Connection, connect

START_SECONDS = 10.0  # from the first look to giving up
RESTART_SECONDS = 30.0  # for one answer of a daemon that is to begin anew, and for its end
FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.2
QUIET_SECONDS = 0.3  # a start faster than this needs no words
LAST_WORDS = 2000  # bytes of a dead daemon's output that are shown


def daemon_command() -> list[str]:
    """What runs the daemon: this interpreter, and nothing of the current folder on its path."""
    return [sys.executable, "-P", "-m", "kraynd"]


def ensure_daemon(*, command: Sequence[str] | None = None, say: Callable[[str], None] | None = None) -> Connection:
    """A connection to the daemon, started when there is none. Raises DaemonUnreachableError, StateError."""
    return connect() or start_daemon(command=command, say=say)


def start_daemon(*, command: Sequence[str] | None = None, say: Callable[[str], None] | None = None) -> Connection:
    """Spawn one, unless another client just did, and connect. Raises DaemonUnreachableError, StateError."""
    patience = _Patience(say)
    lock = _open_lock()
    try:
        while not _try_lock(lock):
            found = connect()
            if found is not None:
                return found
            patience.pause("another client's start of the daemon takes too long")
        return (
            connect()
            or (None if command else _through_service(patience))
            or _spawn(command or daemon_command(), patience)
        )
    finally:
        os.close(lock)


def _through_service(patience: "_Patience") -> Connection | None:
    """Started by the service manager; None where no unit of ours is installed or no manager runs."""
    from krayne_client import service

    if not service.installed() or not service.reachable():
        return None
    service.start()
    while (found := connect()) is None:
        patience.pause("the service manager started the daemon, but its socket does not open")
    return found


def replace_daemon(mismatch: KrayneError) -> None:
    """Have a daemon that speaks another API begin anew as what is installed now, unless that would end a connection.

    Raises `mismatch` with what keeps it, or when the new one is no better off.
    """
    with _present(mismatch) as found:
        hello = found.call("daemon.hello", seconds=RESTART_SECONDS)
        if streams := hello.get("streams", 0):
            open_ones = f"{streams} connection{'' if streams == 1 else 's'} through its forwards"
            raise KrayneError(
                f"{mismatch.message}; it is not restarted while it carries {open_ones}",
                kind=mismatch.kind, hint="repeat it once they are closed, or: krayne daemon restart",
            )  # fmt: skip
        found.call("daemon.restart", seconds=RESTART_SECONDS)
        if not found.wait_closed(RESTART_SECONDS):
            raise mismatch
    with _present(mismatch) as found:
        found.call("daemon.hello", seconds=RESTART_SECONDS)


def _present(mismatch: KrayneError) -> Connection:
    found = connect()
    if found is None:
        raise mismatch
    return found


class _Patience:
    """Doubling pauses up to START_SECONDS, and one remark when it takes long enough to be noticed."""

    def __init__(self, say: Callable[[str], None] | None) -> None:
        self._say = say
        self._begun = time.monotonic()
        self._next = FIRST_PAUSE

    def pause(self, gave_up: str) -> None:
        waited = time.monotonic() - self._begun
        if waited > START_SECONDS:
            raise DaemonUnreachableError(gave_up, hint="krayne daemon logs")
        if waited > QUIET_SECONDS and self._say is not None:
            self._say("starting the daemon ...")
            self._say = None
        time.sleep(self._next)
        self._next = min(self._next * 2, LONGEST_PAUSE)


def _open_lock() -> int:
    try:
        os.makedirs(paths.home(), mode=0o700, exist_ok=True)
        return os.open(paths.start_lock_file(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateError(
            f"the home folder {paths.home()} cannot be used: {error.strerror}",
            hint="check its permissions, or set KRAYNE_HOME to a folder of your own",
        ) from error


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _spawn(command: Sequence[str], patience: _Patience) -> Connection:
    """Run the daemon detached and wait for its socket, or for its end."""
    output = os.path.join(paths.home(), "start.log")
    with open(output, "wb", opener=_private) as said:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise DaemonUnreachableError(
                f"the daemon cannot be started: {command[0]}: {error.strerror}", hint="reinstall krayne"
            ) from error
    while True:
        code = process.poll()
        found = connect()
        if found is not None:
            _leave(process)
            return found
        if code is not None:
            raise DaemonUnreachableError(
                f"the daemon ended at once with code {code}{_last_words(output)}", hint="krayne daemon run"
            )
        patience.pause(f"the daemon (pid {process.pid}) runs but does not open its socket {paths.socket_path()}")


def _leave(process: "subprocess.Popen[bytes]") -> None:
    """Let the daemon live on. A caller that lives long too must collect it at its end, or it stays a zombie."""
    import threading

    threading.Thread(target=process.wait, name="kraynd-end", daemon=True).start()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _environment() -> dict[str, str]:
    """Ours, with relative paths made whole: the daemon runs in another folder."""
    environ = dict(os.environ)
    for name in ("KRAYNE_HOME", "KRAYNE_SOCKET"):
        if environ.get(name):
            environ[name] = os.path.abspath(environ[name])
    return environ


def _last_words(output: str) -> str:
    with open(output, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - LAST_WORDS))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return ": " + lines[-1].strip() if lines else ""
