"""The control socket: accepts this user's clients, counts them, and keeps each behind its own wall.

Owns the listening socket and the sessions. Knows methods only as a table. Invariant: only the owner's processes get
past the accept, and a full, slow or broken client never keeps another from being served.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable, Mapping

import anyio
from anyio.abc import TaskGroup, TaskStatus

from kraynd.calls import Method
from kraynd.local.control import (
    ControlStream,
    accept,
    bind_control_socket,
    identity,
    is_hung_up,
    peer_uid,
    remove_if_ours,
)
from kraynd.replies import Replies
from kraynd.session import Session
from krayne import rpc
from krayne.errors import KrayneError, StateError

log = logging.getLogger("kraynd.server")

GRACE_SECONDS = 3.0  # what calls that change something get to finish when the daemon stops
ACCEPT_PAUSE = 0.1  # out of descriptors: no event tells when there are some again
PATH_CHECK_SECONDS = 60.0  # how long a daemon whose socket was replaced may go on unheard
_ACCEPT_FAULTS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}


class SocketLostError(StateError):
    """Our path leads to another socket now: this daemon cannot be reached and must end."""

    kind = "socket-lost"


class Server:
    """Serves `methods` on the Unix socket at `path`, or on an inherited listening socket, whose path is left alone.

    The caller holds the home's lock. `refused` counts other users' attempts, `turned_away` those beyond the limit.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        path: str,
        inherited: socket.socket | None = None,
        keep_path: bool | None = None,
        wants: Callable[[], str] = lambda: "",
    ) -> None:
        self.methods = methods
        self.wants = wants  # of its clients (krayne.rpc.encode_result)
        self.replies = Replies()
        self.refused = 0
        self.turned_away = 0
        self._path = path
        self._inherited = inherited
        self.keep_path = inherited is not None if keep_path is None else keep_path
        self.socket: socket.socket | None = None  # listened on
        self._sessions = 0
        self._buffered = 0
        self._mutations: set[anyio.CancelScope] = set()
        self._quiet = anyio.Event()
        self._accepting = anyio.CancelScope()
        self._drained = anyio.Event()

    @property
    def sessions(self) -> int:
        """Open connections."""
        return self._sessions

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once clients can connect. Raises StateError, SocketLostError."""
        raw = self.socket = self._inherited or bind_control_socket(self._path)
        ours = identity(self._path)
        try:
            raw.setblocking(False)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._check_path, ours)
                task_status.started()
                try:
                    with self._accepting:
                        await self._accept(raw, tasks)
                finally:
                    self._close(raw, ours)
                    await self._finish_mutations()
                    self._drained.set()
        finally:
            self._close(raw, ours)

    async def drain(self) -> None:
        """Let nobody in, and let what changes something finish, within GRACE_SECONDS. `run` lasts until cancelled."""
        self._accepting.cancel()
        await self._drained.wait()

    def _close(self, raw: socket.socket, ours: tuple[int, int] | None) -> None:
        raw.close()
        if not self.keep_path:
            remove_if_ours(self._path, ours)

    def buffer(self, change: int) -> bool:
        """Account for unfinished lines; False when all sessions together hold too many."""
        self._buffered += change
        return change <= 0 or self._buffered <= rpc.BUFFERED_LIMIT

    async def _accept(self, listener: socket.socket, tasks: TaskGroup) -> None:
        while True:
            try:
                stream = await accept(listener)
            except OSError as error:
                if error.errno not in _ACCEPT_FAULTS:
                    raise
                log.warning("a client could not be accepted: %s", os.strerror(error.errno))
                await anyio.sleep(ACCEPT_PAUSE)
                continue
            tasks.start_soon(self._serve, stream)

    async def _serve(self, stream: ControlStream) -> None:
        if not self._is_ours(stream):
            self.refused += 1
            await stream.aclose()
            return
        if is_hung_up(stream.socket):
            # Who came during a restart and left again must not fill the room of who waited.
            await stream.aclose()
            return
        self._sessions += 1
        try:
            if self._sessions > rpc.SESSIONS:
                self.turned_away += 1
                await _turn_away(stream)
            else:
                await Session(stream, self).run()
        finally:
            self._sessions -= 1

    def _is_ours(self, stream: ControlStream) -> bool:
        try:
            uid = peer_uid(stream.socket)
        except OSError:  # unknown is refused
            return False
        if uid != os.getuid():
            log.warning("a process of uid %d tried the control socket and was refused", uid)
            return False
        return True

    async def _check_path(self, ours: tuple[int, int] | None) -> None:
        while ours is not None:
            await anyio.sleep(PATH_CHECK_SECONDS)
            if identity(self._path) != ours and not self._accepting.cancel_called:
                raise SocketLostError(
                    f"the control socket {self._path} was removed or replaced",
                    hint="start the daemon again: krayne daemon start",
                )

    def mutation_begins(self, scope: anyio.CancelScope) -> None:
        """A shielded call runs in `scope`."""
        self._mutations.add(scope)
        self._quiet = anyio.Event()

    def mutation_ended(self, scope: anyio.CancelScope) -> None:
        """It finished."""
        self._mutations.discard(scope)
        if not self._mutations:
            self._quiet.set()

    async def _finish_mutations(self) -> None:
        """Calls that change something are shielded: give them a moment, then end them too."""
        if self._mutations:
            with anyio.move_on_after(GRACE_SECONDS, shield=True):
                await self._quiet.wait()
        for scope in tuple(self._mutations):
            scope.cancel()


async def _turn_away(stream: ControlStream) -> None:
    """Say that there are too many connections, and close."""
    error = KrayneError(
        f"more than {rpc.SESSIONS} clients are connected",
        kind="busy",
        hint="end some of them (krayne wait, watches) and try again",
        retryable=True,
    )
    async with stream:
        with anyio.move_on_after(1.0):
            await stream.send(rpc.encode_error(None, error))
