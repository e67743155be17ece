"""A headless Chromium for tests: a page as it is once it is quiet."""

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-headless-shell")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.example 127.0.0.1",  # any name of .example leads here, as a rebound one would
    "--dump-dom",
)


def dump_dom(url: str, profile: Path, *, limit: float, budget_ms: int = 10_000) -> str:
    """The document after `budget_ms` of the page's own time. `limit`: seconds for the browser. A fresh profile."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--virtual-time-budget={budget_ms}", url]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=limit, check=False)
    return done.stdout.decode(errors="replace")
