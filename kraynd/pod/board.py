"""What every service of the head pod is doing: kept in memory, copied to files, told to readers.

Invariant: a report holds no password and no control character, and every log has a bound. A folder that cannot be
written costs the copies alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from typing import Any

LOG_LIMIT = 1 << 20  # bytes of log kept for each service, twice
TAIL_LINES, TAIL_CHARS = 8, 300  # of a log in a report


class ServiceError(Exception):
    """Why a service cannot run now; `final` when another try in this pod would end the same way."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def safe(text: str) -> str:
    """Text without passwords in addresses and without control characters, short enough for a report."""
    plain = re.sub(r"//[^/@\s]*@", "//", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    return "".join(char if char.isprintable() else " " for char in plain).strip()[:TAIL_CHARS]


class Board:
    """What every service is doing, for readers in the pod and beyond. Each change raises `revision`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.revision = 0
        self.reports: dict[str, dict[str, Any]] = {}
        self.changed = threading.Condition()

    def log_path(self, name: str) -> str:
        """Where a service's log is."""
        return os.path.join(self.folder, "logs", name + ".log")

    def report(self, name: str, state: str, reason: str = "", **more: str) -> None:
        """Note a state; `since` stays when only the reason changes."""
        with self.changed:
            before = self.reports.get(name, {})
            since = before["since"] if before.get("state") == state else time.time()
            kept = {key: before[key] for key in ("host_key",) if key in before}
            log = self.tail(name) if state == "failed" else []
            self.reports[name] = {**kept, "state": state, "reason": safe(reason), "since": since, "log": log, **more}
            self.revision += 1
            self.changed.notify_all()
            self._write(name)

    def after(self, revision: int, wait: float) -> tuple[int, bytes]:
        """The reports, once they are newer than `revision` or `wait` seconds passed."""
        with self.changed:
            self.changed.wait_for(lambda: self.revision > revision, wait)
            return self.revision, json.dumps(self.reports).encode()

    def tail(self, name: str) -> list[str]:
        """The last lines of a service's log."""
        try:
            with open(self.log_path(name), "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL_LINES * TAIL_CHARS))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        return [safe(line) for line in lines if line.strip()][-TAIL_LINES:]

    def open_log(self, name: str) -> int:
        """A descriptor to append to; the null device where nothing can be written."""
        path = self.log_path(name)
        try:
            if os.path.exists(path) and os.path.getsize(path) > LOG_LIMIT:
                os.replace(path, path + ".1")
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError:
            return os.open(os.devnull, os.O_WRONLY)

    def trim_log(self, name: str) -> None:
        """Bound the log of a service that holds it open: what it appends goes on from the start."""
        path = self.log_path(name)
        try:
            if os.path.getsize(path) > LOG_LIMIT:
                shutil.copyfile(path, path + ".1")
                os.truncate(path, 0)
        except OSError as error:
            say(f"{name}: the log cannot be trimmed: {error}")

    def _write(self, name: str) -> None:
        path = os.path.join(self.folder, "services", name + ".json")
        try:
            with open(path + ".new", "w", encoding="utf-8") as file:
                json.dump(self.reports[name], file)
            os.replace(path + ".new", path)
        except OSError as error:  # a read-only root: the status server still tells
            say(f"{path}: {error}")


def say(text: str) -> None:
    """One line of this program's own log (its stderr)."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {safe(text)}\n")
    sys.stderr.flush()
