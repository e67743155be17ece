"""Child processes that cannot outlive us, and ports nobody else takes.

Every child is started by one thread that lives as long as the interpreter, because the kernel ties a child's
life to the *thread* that started it. Never kills by name; logs go to files.
"""

import fcntl
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from tests.controlplane.build import binary

STOP_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
POLL = 0.02  # seconds between looks at something that has no event
PORTS = range(25000, 32000)  # below the ephemeral range, so no outgoing connection holds one; above kraynd's own
SPAN = 200  # ports in a block
BLOCKS = range(11000, 15000, SPAN)  # below kraynd's own

_launcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="launcher")


class PlaneError(RuntimeError):
    """The control plane did not do what was asked in time; the text says which part."""


def wait_until(what: str, ready: Callable[[], bool], deadline: float) -> None:
    """Poll something outside this process that offers no event. Raises PlaneError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not ready():
        if time.monotonic() > end:
            raise PlaneError(f"{what}: not within {deadline:g} s")
        time.sleep(POLL)


class Port:
    """A TCP port of 127.0.0.1, held against every other test plane of this user until released.

    As a `block` it is the first of SPAN ports.
    """

    def __init__(self, *, block: bool = False) -> None:
        folder = Path(tempfile.gettempdir()) / f"krayne-ports-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        choices = BLOCKS if block else PORTS
        for number in random.sample(choices, len(choices)):
            lock = (folder / str(number)).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", number))
            except OSError:
                lock.close()
                continue
            self.number, self._lock = number, lock
            return
        raise PlaneError("no free TCP port is left")

    def release(self) -> None:
        """Let others have it."""
        self._lock.close()


class Child:
    """One running program. `guarded` also ends whatever it daemonized."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        guarded: bool = False,
        stdout: int | None = None,
    ) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            self._process = _launcher.submit(
                subprocess.Popen,
                [str(binary("node")), "guard" if guarded else "exec", *argv],
                stdin=subprocess.DEVNULL,
                stdout=sink if stdout is None else stdout,
                stderr=sink,
                env=dict(os.environ if env is None else env),
                start_new_session=True,
            ).result()

    @property
    def pid(self) -> int:
        """Process id; also that of the program itself, unless guarded."""
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        """What it prints, when started with a pipe."""
        if self._process.stdout is None:
            raise PlaneError(f"{self.name} was started without a pipe")
        return self._process.stdout

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise PlaneError with its last words if it has ended."""
        if not self.alive():
            raise PlaneError(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def send(self, number: signal.Signals) -> None:
        """Send one signal, to this process only."""
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, by force after a grace; returns when it is gone."""
        if self.alive():
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
        try:
            self._process.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_GRACE)
        if self._process.stdout is not None:
            self._process.stdout.close()
