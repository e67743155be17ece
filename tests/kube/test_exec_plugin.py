"""Credential plugins as real programs: good ones, and every way a bad one has to hurt us."""

import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from kraynd.kube.exec_plugin import Credential, run_plugin
from krayne.errors import LoginNeededError

pytestmark = pytest.mark.anyio
SECRET = "canary-7f3e9a"
NOW = 1_700_000_000.0
V1 = "client.authentication.k8s.io/v1"


def program(folder: Path, body: str) -> dict[str, Any]:
    """An exec section whose command is this Python."""
    path = folder / "plugin"
    path.write_text(f"#!{sys.executable} -IS\nimport json, os, signal, sys, time\n{body}\n")
    path.chmod(0o700)
    return {"command": str(path), "apiVersion": V1}


def says(**status: Any) -> str:
    answer = {"apiVersion": V1, "kind": "ExecCredential", "status": status}
    return f"print({json.dumps(answer)!r})"


async def run(
    plugin: dict[str, Any], folder: Path, *, cluster: Any = None, seconds: float = 30.0, **env: str
) -> Credential:
    environ = {"PATH": "/usr/bin:/bin", **env}
    return await run_plugin(plugin, cluster, environ=environ, cwd=str(folder), seconds=seconds, wall=lambda: NOW)


async def refused(plugin: dict[str, Any], folder: Path, *, seconds: float = 30.0, **env: str) -> LoginNeededError:
    with pytest.raises(LoginNeededError) as met:
        await run(plugin, folder, seconds=seconds, **env)
    assert SECRET not in f"{met.value}{met.value.hint}{met.value.__cause__}"
    return met.value


def zone(offset: float) -> str:
    return datetime.fromtimestamp(NOW + offset, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_token_and_expiry_are_taken(tmp_path: Path) -> None:
    found = await run(program(tmp_path, says(token=SECRET, expirationTimestamp=zone(900))), tmp_path)
    assert (found.token, found.expires) == (SECRET, NOW + 900)
    assert SECRET not in repr(found)
    pair = says(clientCertificateData="CERT", clientKeyData="KEY")
    assert (await run(program(tmp_path, pair), tmp_path)).pair == ("CERT", "KEY")


@pytest.mark.parametrize(
    ("life", "fresh_until"), [(3600.0, 3540.0), (900.0, 840.0), (60.0, 30.0), (10.0, 5.0)]
)  # fmt: skip
async def test_it_is_renewed_before_its_end_but_not_at_once(life: float, fresh_until: float) -> None:
    one = Credential(token=SECRET, expires=NOW + life, fetched=NOW)
    assert one.fresh(NOW)
    assert one.fresh(NOW + fresh_until - 1)
    assert not one.fresh(NOW + fresh_until)
    assert Credential(token=SECRET).fresh(NOW + 1e9)


async def test_it_gets_arguments_environment_and_the_cluster_and_no_terminal(tmp_path: Path) -> None:
    body = """
seen = {"args": sys.argv[1:], "a": os.environ.get("A"), "b": os.environ.get("B"),
        "notify": os.environ.get("NOTIFY_SOCKET"), "info": json.loads(os.environ["KUBERNETES_EXEC_INFO"]),
        "stdin": sys.stdin.read(), "leader": os.getpgid(0) == os.getpid()}
print(json.dumps({"status": {"token": json.dumps(seen)}}))"""
    plugin = program(tmp_path, body) | {"args": ["get", 7], "env": [{"name": "B", "value": "added"}]}
    seen = json.loads((await run(plugin, tmp_path, A="kept", B="lost", NOTIFY_SOCKET="/run/x")).token)
    assert (seen["args"], seen["a"], seen["b"], seen["notify"]) == (["get", "7"], "kept", "added", None)
    assert (seen["stdin"], seen["leader"]) == ("", True)
    assert seen["info"] == {"apiVersion": V1, "kind": "ExecCredential", "spec": {"interactive": False}}
    seen = json.loads((await run(plugin, tmp_path, cluster={"server": "https://x"})).token)
    assert seen["info"]["spec"]["cluster"] == {"server": "https://x"}


async def test_a_relative_command_is_beside_its_kubeconfig(tmp_path: Path) -> None:
    program(tmp_path, says(token=SECRET))
    assert (await run({"command": "./plugin", "apiVersion": V1}, tmp_path)).token == SECRET


async def test_a_missing_program_is_named_with_the_path_searched(tmp_path: Path) -> None:
    error = await refused({"command": "aws-of-no-place", "apiVersion": V1}, tmp_path)
    assert "aws-of-no-place was not found" in error.message
    assert "/usr/bin:/bin" in error.message
    hinted = {"command": "aws-of-no-place", "apiVersion": V1, "installHint": "brew install it"}
    assert (await refused(hinted, tmp_path)).hint == "brew install it"


async def test_a_program_that_cannot_start_is_said(tmp_path: Path) -> None:
    path = tmp_path / "plugin"
    path.write_bytes(b"\x7fELF nonsense")
    path.chmod(0o700)
    assert (
        "cannot be run: Exec format error"
        in (await refused({"command": str(path), "apiVersion": V1}, tmp_path)).message
    )


async def test_a_hung_plugin_ends_with_all_its_children(tmp_path: Path) -> None:
    body = f"""
child = os.fork()
open({str(tmp_path / "pid")!r}, "a").write(f"{{os.getpid()}}\\n")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    time.sleep(60)"""
    error = await refused(program(tmp_path, body), tmp_path, seconds=5.0)
    assert "did not answer within 5 seconds" in error.message
    assert "terminal" in error.hint
    pids = [int(line) for line in (tmp_path / "pid").read_text().split()]
    assert len(pids) == 2
    with anyio.fail_after(10):
        while any(_alive(pid) for pid in pids):
            await anyio.sleep(0.01)  # init reaps the grandchild


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_flood_on_stderr_blocks_nothing(tmp_path: Path) -> None:
    body = f"sys.stderr.write('x' * 300_000); sys.stderr.flush()\n{says(token=SECRET)}\nsys.stderr.write('x' * 300_000)"
    assert (await run(program(tmp_path, body), tmp_path)).token == SECRET


async def test_a_flood_on_stdout_is_bounded_and_no_credential(tmp_path: Path) -> None:
    body = "for _ in range(40): sys.stdout.write('x' * 100_000)"
    assert "something else than an ExecCredential" in (await refused(program(tmp_path, body), tmp_path)).message


async def test_a_child_that_keeps_the_pipes_does_not_keep_us(tmp_path: Path) -> None:
    body = f"""
{says(token=SECRET)}
sys.stdout.flush()
if os.fork() == 0:
    os.setsid()
    open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
    time.sleep(600)
    os._exit(0)
while not os.path.exists({str(tmp_path / "pid")!r}): time.sleep(0.01)
os._exit(0)"""
    with anyio.fail_after(20):
        found = await run(program(tmp_path, body), tmp_path, seconds=60.0)
    assert found.token == SECRET
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)  # it left the group, so it is ours to end


@pytest.mark.parametrize(
    "output",
    ["", "nonsense", "{}", "[]", "null", '{"status": 7}', '{"status": {"token": ""}}', "[" * 100_000,
     '{"status": {"clientCertificateData": "x"}}', '{"status": {"token": "t", "expirationTimestamp": "soon"}}'],
)  # fmt: skip
async def test_junk_is_not_a_credential_and_not_repeated(tmp_path: Path, output: str) -> None:
    error = await refused(program(tmp_path, f"print({output!r} + ' ' * 3)"), tmp_path)
    assert "plugin" in error.message
    quoted = await refused(program(tmp_path, f"print({SECRET + output!r})"), tmp_path)
    assert "something else than an ExecCredential" in quoted.message


async def test_an_expired_credential_is_not_taken(tmp_path: Path) -> None:
    plugin = program(tmp_path, says(token=SECRET, expirationTimestamp=zone(-1)))
    assert "has expired" in (await refused(plugin, tmp_path)).message


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            "first\\nThe SSO session has expired. Run aws sso login\\n\\n",
            "The SSO session has expired. Run aws sso login",
        ),
        ("bad token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln here", "bad token *** here"),
        (f"refused: token={SECRET}", "refused: token=***"),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
        ("\\x1b[31mred\\x07", "[31mred"),
        ("", "exit status 3"),
    ],
)
async def test_its_last_words_are_repeated_without_secrets(tmp_path: Path, words: str, shown: str) -> None:
    error = await refused(
        program(tmp_path, f'{says(token=SECRET)}\nsys.stderr.write("{words}")\nsys.exit(3)'), tmp_path
    )
    assert error.message.endswith(f"failed: {shown}")


async def test_nothing_is_left_when_we_are_cancelled(tmp_path: Path) -> None:
    body = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()) + ' ')\nwhile True: time.sleep(60)"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, program(tmp_path, body), tmp_path)
        with anyio.fail_after(20):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith(" "):
                await anyio.sleep(0.01)  # a file of another process has no event here
        tasks.cancel_scope.cancel()
    assert not _alive(int((tmp_path / "pid").read_text()))
