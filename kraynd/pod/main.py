"""Runs the services beside Ray on a head pod, each in a thread of its own, and tells how they fare.

Started by hook.sh on the image's own Python (3.9 or newer, standard library alone). Nothing here can end the pod.
"""

from __future__ import annotations

import ctypes
import http.server
import json
import os
import socket
import threading
import time
import urllib.parse
from typing import Any

from kraynd.pod.board import LOG_LIMIT, Board, say
from kraynd.pod.service import STEADY, Service
from kraynd.pod.ssh import Ssh
from kraynd.pod.web import CodeServer, Notebook

CHANGE_WAIT = 25.0  # seconds a reader of /services may wait for a change
SET_CHILD_SUBREAPER = 36  # prctl(2)
OOM_SCORE = "500"  # when memory runs out the services go before Ray does, where the kernel may choose

KINDS: dict[str, type[Service]] = {"notebook": Notebook, "code-server": CodeServer, "ssh": Ssh}


class Status(http.server.BaseHTTPRequestHandler):
    """GET /services[?after=REVISION]: the reports; with `after`, once they are newer. GET /logs/NAME: a log's end."""

    timeout = CHANGE_WAIT * 2
    board: Board

    def do_GET(self) -> None:
        """Answer one request."""
        url = urllib.parse.urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        if parts == ["services"]:
            after = urllib.parse.parse_qs(url.query).get("after", [""])[0]
            known = int(after) if after.isdecimal() else -1
            revision, body = self.board.after(known, CHANGE_WAIT)
            self._reply(200, body, "application/json", revision)
        elif len(parts) == 2 and parts[0] == "logs" and parts[1] in self.board.reports:
            self._reply(200, read_end(self.board.log_path(parts[1])), "text/plain; charset=utf-8")
        else:
            self._reply(404, b"", "text/plain")

    def _reply(self, status: int, body: bytes, kind: str, revision: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{revision}"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Requests are not worth a line."""


def read_end(path: str) -> bytes:
    """The end of a log; nothing when there is none."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_LIMIT))
            return log.read(LOG_LIMIT)
    except OSError:
        return b""


class StatusServer(http.server.ThreadingHTTPServer):
    """On loopback; a reader that does not read holds only its own thread."""

    daemon_threads = True


def answer_for_ever(board: Board, port: int) -> None:
    """Serve the status; a port that something else holds is tried again."""
    handler = type("BoundStatus", (Status,), {"board": board})
    while True:
        try:
            StatusServer(("127.0.0.1", port), handler).serve_forever()
        except OSError as error:
            say(f"status server: {error}")
        time.sleep(STEADY / 2)


def only_one(folder: str) -> socket.socket | None:
    """A name that one process of this pod can hold: the kubelet may call the hook more than once."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind("\0krayne-services:" + folder)
    except OSError:
        return None
    return name


def bury_orphans() -> None:
    """Go on in a child; this process waits for it and for all that outlives its parent, such as a login's rest.

    Otherwise they fall to the pod's first process, which is Ray's and need not bury anybody.
    """
    try:
        adopted = ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except (OSError, AttributeError):
        adopted = False
    if not adopted or os.fork() == 0:
        return
    while True:
        try:
            os.wait()
        except ChildProcessError:
            os._exit(0)


def main() -> None:
    """Keep every service of the settings in KRAYNE_SETTINGS, for ever."""
    told = json.loads(os.environ.pop("KRAYNE_SETTINGS"))
    os.setsid()
    held = only_one(told["folder"])
    if held is None:
        say("already running")
        return
    bury_orphans()
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write(OOM_SCORE)
    except OSError as error:
        say(f"oom_score_adj: {error}")
    board = Board(told["folder"])
    for name in ("services", "logs"):
        try:
            os.makedirs(os.path.join(board.folder, name), mode=0o700, exist_ok=True)
        except OSError as error:
            say(str(error))
    os.environ.setdefault("RAY_ADDRESS", "127.0.0.1:6379")
    os.environ.setdefault("SHELL", "/bin/bash")
    for name, wanted in told["services"].items():
        service = KINDS.get(name, Service)(name, wanted, board)
        service.step("waiting to start")
        threading.Thread(target=service.keep, name=name, daemon=True).start()
    answer_for_ever(board, told["status_port"])
