"""The screen on a real terminal: drawn, left for ssh and back, quit."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import anyio
import pytest

from tests.api.conftest import House

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not shutil.which("tmux"), reason="there is no tmux here")]
ROOT = Path(__file__).parents[2]
SECONDS = 50.0


class Terminal:
    """A tmux server of its own with one window of 80x24."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux")

    async def tmux(self, *words: str) -> str:
        done = await anyio.run_process(["tmux", "-S", self._socket, "-f", "/dev/null", *words], check=False)
        return done.stdout.decode()

    async def until(self, *words: str) -> None:
        """Read the screen until it shows all of these."""
        text = ""
        with anyio.move_on_after(SECONDS):
            while True:
                text = await self.tmux("capture-pane", "-p", "-t", "tui")
                if all(word in text for word in words):
                    return
                await anyio.sleep(0.05)
        pytest.fail(f"never came: {words}\n{text}")


async def test_on_a_real_terminal(house: House, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    names = ("KRAYNE_HOME", "KRAYNE_SOCKET")
    env = [f"{name}={os.environ[name]}" for name in names] + [f"PYTHONPATH={ROOT}"]
    command = ["env", *env, sys.executable, "-m", "krayne_client.main", "tui"]
    await terminal.tmux("new-session", "-d", "-s", "tui", "-x", "80", "-y", "24", "sh")
    try:
        await terminal.tmux("send-keys", "-t", "tui", f"{shlex.join(command)}; echo left=$((40+2))", "Enter")
        await terminal.until("demo in default: ready", "q quit")
        house.put("made", "ml")
        await terminal.until("2 clusters", "made")
        await terminal.tmux("send-keys", "-t", "tui", "t")
        await terminal.until("ssh ended with code", "Enter goes back")
        await terminal.tmux("send-keys", "-t", "tui", "Enter")
        await terminal.until("demo in default: ready", "q quit")
        await terminal.tmux("send-keys", "-t", "tui", "q")
        await terminal.until("left=42")
    finally:
        await terminal.tmux("kill-server")
