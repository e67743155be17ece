"""open, env, tun-open --local, ssh-config, and what exec, logs, cp and ssh refuse, as users type them."""

import json
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from krayne_client.sshinclude import MADE, installed, line_for, removed
from tests.client.test_cli import Shell
from tests.daemon.backend import MemoryBackend, serving, some_cluster

pytestmark = pytest.mark.anyio

LINE = line_for("/home/me/.krayne/ssh/config")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def backend() -> MemoryBackend:
    return MemoryBackend(some_cluster())


@pytest.fixture
async def shell(tmp_path: Path, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shell]:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    made = Shell(tmp_path)
    async with serving(backend, made.socket):
        yield made


async def test_open_prints_the_address_where_nothing_can_be_opened(shell: Shell) -> None:
    assert await shell.run("open demo") == (0, "http://dashboard.demo.localhost:15001\n", "")
    code, _, said = await shell.run("open demo notebook")
    assert code == 2
    assert "demo has no notebook" in said


async def test_open_asks_the_browser(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/opened\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    assert await shell.run("open demo dashboard") == (0, "", "")
    assert (tmp_path / "opened").read_text() == "http://dashboard.demo.localhost:15001\n"
    (tmp_path / "opened").unlink()
    assert (await shell.run("open demo --print"))[1] == "http://dashboard.demo.localhost:15001\n"
    assert not (tmp_path / "opened").exists()


async def test_env_is_for_eval(shell: Shell) -> None:
    code, out, _ = await shell.run("env demo")
    assert code == 0
    script = f'{out}\necho "$RAY_ADDRESS $RAY_DASHBOARD_ADDRESS $RAY_API_SERVER_ADDRESS"'
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said == "ray://127.0.0.1:15002 http://127.0.0.1:15001 http://127.0.0.1:15001\n"
    assert "set -gx RAY_ADDRESS 'ray://127.0.0.1:15002';\n" in (await shell.run("env demo --shell fish"))[1]
    assert "setenv RAY_ADDRESS 'ray://127.0.0.1:15002';\n" in (await shell.run("env demo --shell csh"))[1]
    assert json.loads((await shell.run("env demo -o json"))[1])["RAY_ADDRESS"] == "ray://127.0.0.1:15002"


async def test_the_local_port_may_be_an_option(shell: Shell, backend: MemoryBackend) -> None:
    assert (await shell.run("tun-open demo 9000 --local 19000"))[0] == 0
    assert backend.log[-1][-1] == ((9000, 19000),)
    for line in ("tun-open demo --local 1", "tun-open demo 1 2 --local 3", "tun-open demo 1:2 --local 3"):
        code, _, said = await shell.run(line)
        assert code == 2
        assert "--local goes with one PORT" in said


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("exec demo", 2, "there is no command"),
        ("exec demo -- true", 1, "no connection to Kubernetes"),
        ("logs demo", 1, "no connection to Kubernetes"),
        ("logs demo --service ssh --previous", 2, "--service goes with neither"),
        ("cp a b", 2, "one side of a copy is in a pod"),
        ("cp demo:a demo:b", 2, "one side of a copy is in a pod"),
        ("cp /no/such/file demo:", 2, "there is no /no/such/file"),
        ("ssh demo -- true", 1, "told no ssh host key"),
        ("ssh nope", 4, "no cluster nope"),
        ("ls -- x", 2, "takes nothing behind --"),
    ],
)
async def test_what_cannot_be_done_is_said(shell: Shell, line: str, code: int, says: str) -> None:
    found, out, said = await shell.run(line)
    assert (found, out) == (code, "")
    assert says in said
    assert said.count("\n") == 2


@pytest.mark.parametrize("before", ["", "Host *\n  User me\n", "Host a\r\n  Port 1\r\n", "# no end"])
def test_the_line_goes_in_once_and_out_again(before: str) -> None:
    there = installed(before, LINE)
    assert there == LINE + before
    assert installed(there, LINE) == there
    assert removed(there, LINE) == before


def test_a_file_of_ours_goes_with_the_line() -> None:
    there = installed(None, LINE)
    assert there == MADE + LINE
    assert installed(there, LINE) == there
    assert removed(there, LINE) is None
    assert removed(there + "Host a\n", LINE) == "Host a\n"


def test_a_line_that_is_not_at_the_top_is_moved_there() -> None:
    assert installed("Host a\n" + LINE + "  Port 1\n", LINE) == LINE + "Host a\n  Port 1\n"


async def test_the_users_file_keeps_its_mode_its_link_and_its_bytes(shell: Shell, tmp_path: Path) -> None:
    real, linked = tmp_path / "dotfiles" / "config", tmp_path / "me" / ".ssh" / "config"
    for path in (real, linked):
        path.parent.mkdir(parents=True)
    text = b"# caf\xe9\nHost *\n  User me"
    real.write_bytes(text)
    real.chmod(0o640)
    linked.symlink_to(real)

    code, out, _ = await shell.run("ssh-config --install --dry-run")
    line = line_for(str(tmp_path / "home" / "ssh" / "config"))
    assert code == 0
    assert f"+{line}" in out
    assert real.read_bytes() == text
    assert (await shell.run("ssh-config --install"))[0] == 0
    assert real.read_bytes() == line.encode() + text
    assert linked.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert "already" in (await shell.run("ssh-config --install"))[2]
    assert real.read_bytes() == line.encode() + text
    assert (await shell.run("ssh-config --remove"))[0] == 0
    assert real.read_bytes() == text
    assert linked.is_symlink()


async def test_a_file_that_was_not_there_is_gone_again(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "me" / ".ssh" / "config"
    assert (await shell.run("ssh-config --install"))[0] == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (await shell.run("ssh-config --remove"))[0] == 0
    assert not path.exists()


async def test_print_has_json(shell: Shell) -> None:
    found = json.loads((await shell.run("ssh-config --print -o json"))[1])
    assert found["hosts"][0]["aliases"] == ["krayne-demo"]
    assert (await shell.run("ssh-config --print -o name"))[1] == "krayne-demo\n"
