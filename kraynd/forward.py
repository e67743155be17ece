"""One forward: its doors are open while it is on, whatever happens behind them.

Owns the listener and starts it again after a fault of our own. Its law: nothing that happens here, an unknown exception
included, reaches another forward; and its port is waited for, never changed.
"""

import errno
import logging
import socket
import time

import anyio
from anyio import to_thread

from kraynd.clients import Aim, Clients, Ground
from kraynd.core.backoff import FAULT, PORT_TAKEN, Retry
from kraynd.core.forwarding import ForwardSpec, ForwardState
from kraynd.core.sparing import Sparing
from kraynd.local.handover import Door
from kraynd.local.listen import Listener
from kraynd.local.peer import who_holds

log = logging.getLogger("kraynd.forwards")

WORKING = frozenset({"listening", "connected"})
TROUBLED = frozenset({"refused", "port-taken"})  # states that only something outside mends
ASK_HOLDER_EVERY = 20  # tries for a taken port between two looks at who holds it: procfs is slow


class Forward:
    """See the module. Also the `Doors` of its clients."""

    def __init__(
        self,
        spec: ForwardSpec,
        ground: Ground,
        aim: Aim,
        *,
        path: str | None,
        inherited: tuple[socket.socket, ...] = (),
    ) -> None:
        self.spec = spec
        self._ground = ground
        self._clients = Clients(spec, ground, aim, self)
        self._listener = Listener(
            spec.local_port,
            path,
            on_accept=self._clients.accept,
            on_fault=self._crash,
            on_starved=self._starved,
            inherited=inherited,
        )
        self._scope: anyio.CancelScope | None = None
        self._stopped = False
        self._crashed = anyio.Event()
        self._crash_error: Exception | None = None
        self._woken = anyio.Event()
        self._obstacle = "the port is being opened"  # why the doors are closed
        self._taken = False  # ... and that it is because of somebody else
        self._since = time.time()
        self._troubled = False  # it was, and has not worked since
        self._relief = Sparing()
        self._shown: tuple[str, str, bool] = ("", "", False)

    async def run(self) -> None:
        """Serve until `stop` or cancellation. An unknown exception ends only its connections, and it starts again."""
        retry = Retry()
        with anyio.CancelScope() as self._scope:
            while not self._stopped:
                retry = retry.works(anyio.current_time())
                try:
                    await self._serve()
                except Exception as error:
                    retry = retry.failed(anyio.current_time())
                    log.exception("forward %s failed", self.spec.key)
                    self._obstacle = f"the forward failed and starts again: {_sentence(error)}"
                    self._clients.last_error = self._obstacle
                    self.changed()
                await self._pause(FAULT.delay(retry.failures, self._ground.rand()))

    def stop(self, reason: str) -> None:
        """Close the doors for good and end every connection, now."""
        self._listener.keep_path = False
        self.end(reason)

    def end(self, reason: str) -> None:
        """The same as the process ends: what somebody else goes on with stays reachable."""
        self._stopped = True
        self._close(reason, orderly=True)
        if self._scope is not None:
            self._scope.cancel()

    def end_streams(self, reason: str) -> None:
        """End every connection in order; the doors stay as they are."""
        self._clients.close(reason, orderly=True)

    def aim(self, aim: Aim) -> None:
        """Lead somewhere else."""
        self._clients.lead(aim)
        self.changed()

    def wake(self) -> None:
        """Forget every wait between tries."""
        woken, self._woken = self._woken, anyio.Event()
        woken.set()
        self._clients.hurry()

    def keep_path(self) -> None:
        """Somebody has a copy of the Unix socket and goes on with it: leave its path there, unless stopped."""
        self._listener.keep_path = True

    @property
    def doors(self) -> tuple[Door, ...]:
        """The listening sockets by name, to hand to whoever keeps them across a restart."""
        return self._listener.doors

    async def _serve(self) -> None:
        self._crashed = anyio.Event()
        try:
            async with anyio.create_task_group() as self._clients.tasks:
                await self._open()
                await self._crashed.wait()
                assert self._crash_error is not None
                raise self._crash_error
        finally:
            self._clients.tasks = None
            self._close("the forward is closed", orderly=not self._crashed.is_set())

    async def _open(self) -> None:
        """Return once the port is ours."""
        failures = 0
        while True:
            try:
                self._listener.open()
            except OSError as error:
                failures += 1
                if failures % ASK_HOLDER_EVERY == 1:
                    self._obstacle = await _why_not(self.spec.local_port, error)
                    self._clients.misfortune(self._obstacle)
                    self._taken = True
                    self.changed()
                await self._pause(PORT_TAKEN.delay(failures, self._ground.rand()))
            else:
                self._taken = False
                self._clients.last_error = self._listener.problem or self._clients.last_error
                self.changed()
                return

    async def _pause(self, seconds: float) -> None:
        """Wait, but not past a wake."""
        woken = self._woken
        with anyio.move_on_after(seconds):
            await woken.wait()

    def _close(self, reason: str, *, orderly: bool) -> None:
        self._listener.close()
        self._clients.close(reason, orderly=orderly)

    def _crash(self, error: Exception) -> None:
        self._crash_error = error
        self._crashed.set()

    def _starved(self, error: OSError) -> None:
        self._clients.misfortune(f"connections wait to be let in: {error.strerror or error}")

    # The doors, as the clients know them.

    def pause(self) -> None:
        """Let newcomers wait in the backlog."""
        self._listener.pause()

    def resume(self) -> None:
        """Let them in."""
        self._listener.resume()

    def changed(self) -> None:
        """Tell of a change of state, of its reason, and of the first and the last connection; never of bytes."""
        if self._stopped:
            return
        state, reason = self._situation()
        shown = (state, reason, self._clients.streaming > 0)
        if shown != self._shown:
            if state != self._shown[0]:
                self._since = time.time()
                self._follow_trouble(state)
            self._shown = shown
            self._ground.on_change(self.spec.key)

    def _follow_trouble(self, state: str) -> None:
        """What went wrong is in the log by its own words; that it is over is not."""
        if state in WORKING and self._troubled and self._relief.wants("again", time.monotonic()):
            log.info("forward %s works again", self.spec.key)
        self._troubled = state in TROUBLED or (self._troubled and state not in WORKING)

    def _situation(self) -> tuple[str, str]:
        clients = self._clients
        if not self._listener.is_open:
            return ("port-taken" if self._taken else "holding"), self._obstacle
        if clients.aim.target is None:
            return "holding", clients.aim.why
        if clients.refusal:
            return "refused", clients.refusal
        if clients.held:
            return "holding", clients.trouble or f"connecting to pod {clients.aim.target.pod}"
        return ("connected" if clients.streaming else "listening"), ""

    def state(self) -> ForwardState:
        """The forward as it is now."""
        state, reason = self._situation()
        clients = self._clients
        bytes_in, bytes_out = clients.traffic
        return ForwardState(
            key=self.spec.key,
            remote_port=self.spec.remote_port,
            local_port=self._listener.port,
            state=state,
            reason=reason,
            connections=clients.streaming,
            held=clients.held,
            total=clients.total,
            waited=clients.waited,
            refused=clients.refused,
            foreign=clients.foreign,
            blocked=clients.blocked_requests,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            reconnects=clients.reconnects,
            last_error=clients.last_error,
            since=self._since,
            socket=self._listener.unix_path,
            listening=self._listener.is_open,
        )


async def _why_not(port: int, error: OSError) -> str:
    """Why a local port cannot be had; names the holder."""
    if error.errno != errno.EADDRINUSE:
        return f"local port {port} cannot be opened: {error.strerror or error}"
    holder = await to_thread.run_sync(who_holds, port, abandon_on_cancel=True)
    return f"local port {port} is held by {holder}"


def _sentence(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
