"""init, context, doctor and completion as processes."""

import json
import subprocess
import sys

import anyio
import pytest

from kraynd.doctor import clock_check
from krayne.messages import ForwardView
from krayne_client.cli import parser
from tests.client.test_cli import ROOT, Shell
from tests.daemon.backend import MemoryBackend, some_cluster

pytestmark = pytest.mark.anyio


async def test_init_by_flags_and_in_a_pipe(shell: Shell, backend: MemoryBackend) -> None:
    code, out, _ = await shell.run("init --context two --kubeconfig /k/file")
    assert code == 0
    assert out.startswith("krayne uses the context two (saved in /s/config.yaml)\nready")
    assert backend.setup.used == "two"
    code, out, err = await shell.run("init")
    assert (code, out) == (2, "")
    assert "one, two" in err
    assert (await shell.run("init --context three"))[0] == 1


async def test_init_asks_on_a_terminal(shell: Shell, backend: MemoryBackend) -> None:
    code, said = await shell.on_terminal("init", b"2\n")
    assert code == 0
    assert "Which context? [1]" in said
    assert backend.setup.used == "two"
    assert (await shell.on_terminal("init", b"one\n"))[0] == 0
    assert backend.setup.used == "one"
    assert (await shell.on_terminal("init", b"9\n"))[0] == 2


async def test_init_says_when_it_does_not_connect(shell: Shell, backend: MemoryBackend) -> None:
    backend.setup.condition = "login-needed"
    code, out, err = await shell.run("init --context one")
    assert code == 1
    assert "login-needed: as it is" in out
    assert "try: log in" in err


async def test_context_lists_and_switches(shell: Shell, backend: MemoryBackend) -> None:
    assert [line[:5] for line in (await shell.run("context"))[1].splitlines()] == ["* one", "  two"]
    assert (await shell.run("context two"))[0] == 0
    assert (await shell.run("context -o name"))[1] == "one\ntwo\n"
    used = [one["name"] for one in json.loads((await shell.run("context -o json"))[1])["contexts"] if one["used"]]
    assert used == ["two"]


async def test_doctor_without_a_daemon_and_a_kubeconfig(alone: Shell) -> None:
    done = await anyio.run_process(
        [sys.executable, "-m", "krayne_client.main", "doctor", "-o", "json"],
        env={**alone.env, "KUBECONFIG": "/nowhere", "HOME": str(alone.folder)},
        check=False,
    )
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 1
    assert (found["daemon"]["state"], found["daemon"]["mend"]) == ("warn", "krayne daemon start")
    assert found["kubeconfig"]["state"] == "fail"
    assert "/nowhere" in found["kubeconfig"]["detail"]
    assert found["kubeconfig"]["mend"]
    assert not (alone.folder / "home").exists(), "nothing is started"


async def test_doctor_looks_at_ports_and_versions(shell: Shell, backend: MemoryBackend) -> None:
    backend.put(some_cluster(ray_version="2.52.0", image="rayproject/ray:2.52.0-py311"))
    taken = ForwardView(
        namespace="default", cluster="demo", service="ssh", remote_port=22, local_port=15003, state="port-taken",
        reason="held by sshd",
    )  # fmt: skip
    backend.listed_forwards = (taken,)
    code, out, _ = await shell.run("doctor")
    assert code == 1
    assert "15003 of demo ssh: held by sshd" in out
    assert "versions of demo" in out
    (shell.folder / ".ssh").mkdir()


@pytest.mark.parametrize(
    ("date", "state"),
    [
        ("Thu, 01 Jan 2026 00:00:00 GMT", "ok"),
        ("Thu, 01 Jan 2026 00:05:00 GMT", "fail"),
        ("Wed, 31 Dec 2025 23:50:00 GMT", "fail"),
        ("", "warn"),
        ("soon", "warn"),
    ],
)
def test_the_clock(date: str, state: str) -> None:
    assert clock_check(date, 1_767_225_600.0).state == state


def completed(shell: Shell, line: str) -> list[str]:
    """What bash offers after `line`."""
    words = line.split(" ")
    script = (
        f'krayne() {{ {sys.executable} -m krayne_client.main "$@"; }}\n'
        f"source <(krayne completion bash)\nCOMP_WORDS=({' '.join(repr(word) for word in words)})\n"
        f"COMP_CWORD={len(words) - 1}\n_krayne\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    done = subprocess.run(["bash", "-c", script], env=shell.env, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == ""
    return done.stdout.split()


async def test_bash_completes_words_and_names(shell: Shell, backend: MemoryBackend) -> None:
    backend.put(some_cluster("deep", "team"))

    async def offers(line: str) -> list[str]:
        return await anyio.to_thread.run_sync(completed, shell, line)

    assert {"suspend", "status", "scale"} <= set(await offers("krayne s"))
    assert await offers("krayne describe de") == ["deep", "demo"]
    assert await offers("krayne -n team describe ") == ["deep"]
    assert await offers("krayne ls -n ") == ["default", "team"]
    assert await offers("krayne tun-close demo s") == ["ssh"]
    assert await offers("krayne ls -o j") == ["json"]
    assert await offers("krayne scale demo --group ") == ["worker"]
    assert await offers("krayne logs demo --service n") == ["notebook"]
    assert "--workers" in await offers("krayne create --w")
    assert await offers("krayne daemon rest") == ["restart"]


async def test_names_without_a_daemon_are_none_and_start_nothing(alone: Shell) -> None:
    assert await alone.run("__complete clusters") == (0, "", "")
    assert not (alone.folder / "home").exists()


@pytest.mark.parametrize("which", ["zsh", "fish"])
async def test_other_shells_have_scripts(alone: Shell, which: str) -> None:
    code, out, _ = await alone.run(f"completion {which}")
    assert code == 0
    assert "__complete clusters" in out
    assert "suspend" in out


def test_the_short_way_to_the_help_shows_all_of_it() -> None:
    assert parser(brief=True).format_help() == parser().format_help()
