"""A real `systemd --user` for a test, in namespaces of its own: needs root, but no systemd as pid 1."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SYSTEMD = Path("/lib/systemd/systemd")
SCRIPT = Path(__file__).with_name("manager.sh")
LIMIT = 120.0  # seconds for anything, on a busy machine
UP_LIMIT = 60.0  # seconds for the manager; a machine where it does not come up cannot run these tests
UNIT = "kraynd.service"

NEEDS_SYSTEMD = pytest.mark.skipif(
    sys.platform != "linux"
    or os.geteuid() != 0
    or not SYSTEMD.exists()
    or not all(shutil.which(one) for one in ("unshare", "nsenter", "systemctl")),
    reason="needs root, systemd, unshare and nsenter",
)


class UserManager:
    """`home` is the user's; commands run where the manager does."""

    def __init__(self, process: "subprocess.Popen[str]", home: Path) -> None:
        self.process = process
        self.home = home
        self.environ = {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": "/run/user/0",
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @property
    def pid(self) -> int:
        """The manager's process, as it is called out here."""
        here = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return int(Path(here).read_text().split()[0])

    @property
    def api(self) -> str:
        """The daemon's socket, as it is called out here."""
        there = json.loads((self.home / ".krayne" / "daemon.json").read_text())["socket"]
        return f"/proc/{self.pid}/root{there}"

    def run(self, *argv: str, code: int | None = 0) -> str:
        """What a command said; `code` is the exit code it must have (None: any)."""
        inside = ["nsenter", "--mount", "--pid", "--cgroup", "-t", str(self.pid)]
        done = subprocess.run(
            [*inside, *argv], env=self.environ, cwd="/", capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert code is None or done.returncode == code, f"{argv}: {done}\n{self.log()}"
        return done.stdout

    def krayne(self, *argv: str, code: int | None = 0) -> str:
        """The same of `krayne`."""
        return self.run(sys.executable, "-m", "krayne_client.main", *argv, code=code)

    def systemctl(self, *argv: str, code: int | None = 0) -> str:
        """The same of `systemctl --user`."""
        return self.run("systemctl", "--user", *argv, code=code)

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.systemctl("show", UNIT, f"--property={name}", "--value").strip()

    def daemon(self) -> int:
        """The daemon's process as it is called inside; 0 for none."""
        return int(self.show("MainPID"))

    def signal(self, name: str) -> None:
        """A signal for the daemon alone."""
        self.run("kill", "-s", name, str(self.daemon()))

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait for something that only asking can tell."""
        end, pause = time.monotonic() + LIMIT, threading.Event()
        while not holds():
            assert time.monotonic() < end, (
                f"{what}: not within {LIMIT:g} s\n{self.systemctl('status', UNIT, code=None)}"
            )
            pause.wait(0.1)

    def log(self) -> str:
        """The daemon's own log."""
        path = self.home / ".krayne" / "logs" / "kraynd.log"
        return path.read_text() if path.exists() else ""

    def is_up(self) -> bool:
        """Whether the manager answers."""
        return "running" in self.systemctl("is-system-running", code=None)


@contextmanager
def user_manager(home: Path) -> Iterator[UserManager]:
    """The manager while the block lasts. Skips the test where none comes up."""
    apart = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child=KILL", "--cgroup",
             "--mount-proc"]  # fmt: skip
    command = [*apart, "sh", str(SCRIPT), str(home)]
    with (home / "manager.log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)
    made = UserManager(process, home)
    try:
        end, pause = time.monotonic() + UP_LIMIT, threading.Event()
        while process.poll() is not None or not _answers(made):
            if process.poll() is not None or time.monotonic() > end:
                pytest.skip(f"no user manager comes up here: {(home / 'manager.log').read_text()[-500:]}")
            pause.wait(0.1)
        yield made
    finally:
        process.kill()
        process.wait()


def _answers(manager: UserManager) -> bool:
    try:
        return manager.is_up()
    except (OSError, IndexError, ValueError, subprocess.TimeoutExpired):  # its process is not there yet, or is stuck
        return False
