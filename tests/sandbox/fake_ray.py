#!/usr/bin/env python3
"""Stands for the Python that has Ray: `-m ray.scripts.scripts start ...` listens where a head would, and says so.

A worker only says that it runs. Standard library alone.
"""

import http.server
import shutil
import signal
import socketserver
import sys
from pathlib import Path
from threading import Thread


class Answer(http.server.BaseHTTPRequestHandler):
    """Every GET is answered, as /api/version is by Ray's dashboard."""

    def do_GET(self) -> None:
        """Answer one request."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Requests are not worth a line."""


def main() -> None:
    """Until a signal."""
    flags = dict(one.removeprefix("--").partition("=")[::2] for one in sys.argv[1:] if one.startswith("--"))
    for name in ("port", "ray-client-server-port", "dashboard-port") if "head" in flags else ():
        server = socketserver.ThreadingTCPServer(("127.0.0.1", int(flags[name])), Answer)
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
    print("Ray runtime started.", flush=True)
    signal.pause()


def install(folder: Path) -> Path:
    """A `python` with a `ray` beside it in that folder; its path, for KRAYNE_SANDBOX_PYTHON."""
    folder.mkdir(parents=True)
    program = folder / "python"
    text = Path(__file__).read_text(encoding="utf-8").partition("\n")[2]
    program.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
    program.chmod(0o755)
    shutil.copy(program, folder / "ray")
    return program


if __name__ == "__main__":
    main()
