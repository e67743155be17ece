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

    async def begin(self, env: dict[str, str]) -> None:
        """The screen in a shell that says left=42 once it is over."""
        given = [f"{name}={value}" for name, value in {**env, "PYTHONPATH": str(ROOT)}.items()]
        command = ["env", *given, sys.executable, "-m", "krayne_client.main", "tui"]
        await self.tmux("new-session", "-d", "-s", "tui", "-x", "80", "-y", "24", "sh")
        await self.press(f"{shlex.join(command)}; echo left=$((40+2))", "Enter")

    async def press(self, *keys: str) -> None:
        """As by hand; a word is typed letter by letter."""
        await self.tmux("send-keys", "-t", "tui", *keys)

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
    env = {name: os.environ[name] for name in ("KRAYNE_HOME", "KRAYNE_SOCKET")}
    try:
        await terminal.begin(env)
        await terminal.until("demo in default: ready", "q quit")
        house.put("made", "ml")
        await terminal.until("2 clusters", "made")
        await terminal.press("t")
        await terminal.until("ssh ended with code", "Enter goes back")
        await terminal.press("Enter")
        await terminal.until("demo in default: ready", "q quit")
        await terminal.press("q")
        await terminal.until("left=42")
    finally:
        await terminal.tmux("kill-server")


async def krayne(env: dict[str, str], *words: str) -> None:
    """A command that must work."""
    command = [sys.executable, "-m", "krayne_client.main", *words]
    with anyio.fail_after(SECONDS):
        await anyio.run_process(command, env={**os.environ, **env}, cwd=ROOT)


@pytest.mark.real
@pytest.mark.timeout(400)
async def test_on_the_sandbox_a_cluster_is_made_seen_and_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is the real thing but for Ray's processes: whether they run, this does not need."""
    for name in ("KRAYNE_SOCKET", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    env = {"HOME": str(tmp_path), "KRAYNE_HOME": str(tmp_path / ".krayne")}
    terminal = Terminal(tmp_path)
    try:
        await krayne(env, "sandbox", "up")
        await terminal.begin(env)
        await terminal.until("q quit", "no cluster here")
        await terminal.press("c")
        await terminal.until("a new cluster", "name must not be empty")
        await terminal.press("fresh")
        await terminal.until("name: fresh")
        await terminal.press("Enter")
        await terminal.until("1 cluster", "fresh in default: ", "q quit")
        await terminal.press("d")
        await terminal.until("delete fresh in default?")
        await terminal.press("fresh", "Enter")
        await terminal.until("no cluster here")
        await terminal.press("q")
        await terminal.until("left=42")
    finally:
        await terminal.tmux("kill-server")
        await krayne(env, "daemon", "stop")
        await krayne(env, "sandbox", "down")
