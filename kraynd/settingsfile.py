"""kraynd.yaml while the daemon runs: read again on request and when it changes, a bad one reported.

Applies nothing itself: `on_change` hears of new settings. Invariant: `current` is always the last good file's.
"""

import logging
import os
from collections.abc import Callable

import anyio
from anyio import to_thread

from kraynd.core.rounds import ROUND, until_round
from krayne.config.daemon import DaemonSettings, daemon_settings_file, load_daemon_settings
from krayne.errors import ConfigValidationError
from krayne.messages import FileProblemView

log = logging.getLogger(__name__)

LOOK_EVERY = 3 * ROUND  # seconds between two looks at the file's stamp
AT_START = ("ports", "namespaces")  # what parts were built on: it holds from the next start

Stamp = tuple[int, int, int, int] | None


class SettingsFile:
    """`current` are the settings in force, `problem` what is wrong with the file now, if anything."""

    def __init__(self) -> None:
        self.problem: FileProblemView | None = None
        self.current = DaemonSettings()
        self._on_change: Callable[[], None] | None = None
        self._looking = anyio.Lock()
        self._stamp = _stamp()
        found = _read()
        if isinstance(found, DaemonSettings):
            self.current = found
        else:
            self.problem = found  # told once the log is where it belongs: see `run`
        self.at_start = self.current

    def attach(self, on_change: Callable[[], None]) -> None:
        """Who is told of new settings, in the same tick."""
        self._on_change = on_change

    @property
    def waiting(self) -> tuple[str, ...]:
        """The settings that differ from those the daemon was started with and need a restart."""
        return tuple(name for name in AT_START if getattr(self.current, name) != getattr(self.at_start, name))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the settings in force."""
        said = []
        if not self.current.locks.users:
            said.append("other users of this machine get through the forwards (locks.users is off)")
        if not self.current.locks.web:
            said.append("web pages of elsewhere get through HTTP forwards (locks.web is off)")
        if self.waiting:
            said.append(f"kraynd.yaml: {' and '.join(self.waiting)} changed; krayne daemon restart applies that")
        return tuple(said)

    async def look(self) -> None:
        """Read the file now."""
        async with self._looking:
            self._stamp = await to_thread.run_sync(_stamp)  # before reading: a change while we read is a change
            before, waited = self.current, self.waiting
            self._take(await to_thread.run_sync(_read))
            if self.current == before:
                return
            log.info("kraynd.yaml is read anew: %s", ", ".join(_differences(before, self.current)))
            if self.waiting and self.waiting != waited:
                log.warning("kraynd.yaml: a restart applies %s", " and ".join(self.waiting))
            if self._on_change is not None:
                self._on_change()

    async def run(self) -> None:
        """Follow the file until cancelled."""
        self._complain()
        while True:
            await anyio.sleep(until_round(anyio.current_time(), LOOK_EVERY))
            if await to_thread.run_sync(_stamp) != self._stamp:
                await self.look()

    def _take(self, found: DaemonSettings | FileProblemView) -> None:
        if isinstance(found, DaemonSettings):
            if self.problem is not None:
                log.info("kraynd.yaml is good again")
            self.problem, self.current = None, found
            return
        if found != self.problem:
            self.problem = found
            self._complain()

    def _complain(self) -> None:
        if self.problem is not None:
            log.error("kraynd.yaml is not used, what was in force before stays: %s", self.problem.message)


def _read() -> DaemonSettings | FileProblemView:
    try:
        return load_daemon_settings()
    except ConfigValidationError as error:
        return FileProblemView(source=daemon_settings_file(), message=error.message, hint=error.hint)


def _differences(before: DaemonSettings, after: DaemonSettings) -> list[str]:
    """The names of what differs; values may be addresses with passwords."""
    return [name for name in DaemonSettings.model_fields if getattr(before, name) != getattr(after, name)]


def _stamp() -> Stamp:
    try:
        found = os.stat(daemon_settings_file())
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
