"""A stand-in for the head pod: the manifest's startup command, run here with a folder, ports and PATH of its own.

Everything the command leaves behind bears a mark in its environment and is ended with the test.
"""

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kraynd.core.bootstrap import startup_command

LIMIT = 60.0  # seconds for anything awaited here
MARK = "LAB_MARK"

Reports = Mapping[str, Mapping[str, Any]]


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody has, and that was not given before: the kernel may draw the same one twice."""
    while True:
        with closing(socket.socket()) as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


@dataclass
class Pod:
    """A folder, a status port, and the environment of a container."""

    folder: Path
    env: dict[str, str]
    status_port: int
    limit: float = LIMIT

    def start(self, services: Mapping[str, Any], *, as_user: bool = False) -> subprocess.CompletedProcess[bytes]:
        """Run the postStart command to its end. Its output is read to the end: whatever holds it open is awaited."""
        told = {"folder": str(self.folder), "status_port": self.status_port, "services": services}
        # In a user namespace without a map root is nobody, yet owns what root owns.
        argv = ["unshare", "--user"] if as_user and os.geteuid() == 0 else []
        argv += startup_command(told)
        return subprocess.run(
            argv, env=self.env, cwd=self.folder.parent, capture_output=True, timeout=LIMIT, check=False
        )

    def get(self, path: str) -> tuple[int, bytes, str]:
        """A request to the status server: status, body, revision."""
        link = http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=LIMIT)
        with closing(link):
            link.request("GET", path)
            reply = link.getresponse()
            return reply.status, reply.read(), (reply.getheader("ETag") or "").strip('"')

    def await_reports(self, wanted: Callable[[Reports], bool]) -> Reports:
        """The reports once they are as wanted; each change is awaited, not polled for."""
        deadline, revision = time.monotonic() + self.limit, ""
        reports: Reports = {}
        while time.monotonic() < deadline:
            try:
                _, body, revision = self.get(f"/services?after={revision}")
            except ConnectionRefusedError:  # the program is starting, and tells nobody when it listens
                time.sleep(0.05)
                continue
            reports = json.loads(body)
            if wanted(reports):
                return reports
        raise AssertionError(f"never as wanted: {reports}\n{self.log()}")

    def log(self) -> str:
        """The program's own words."""
        path = self.folder / "bootstrap.log"
        return path.read_text() if path.exists() else ""


@contextmanager
def pod(folder: Path, **env: str) -> Iterator[Pod]:
    """An empty pod with the folder `bin` first on its PATH."""
    mark = secrets.token_hex(8)
    own = folder / "bin"
    own.mkdir()
    base = {"PATH": f"{own}:{os.environ['PATH']}", "HOME": str(folder), MARK: mark}
    (own / "python3").symlink_to(sys.executable)
    try:
        yield Pod(folder / "krayne", {**base, **env}, free_port())
    finally:
        _end_marked(f"{MARK}={mark}".encode())


def script(path: Path, text: str, interpreter: str = "/bin/sh") -> None:
    """A program made of text."""
    path.write_text(f"#!{interpreter}\n{text}")
    path.chmod(0o755)


def _end_marked(mark: bytes) -> None:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            with suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
