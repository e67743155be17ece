"""Runs a kubeconfig's exec credential plugin, with the care kubernetes_asyncio's provider lacks.

No standard input, both pipes drained at once, a deadline, a process group of its own that is killed whole. Returns the
credential and never logs it.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import anyio
import msgspec

from kraynd.core.model import Json
from krayne.errors import LoginNeededError

PLUGIN_SECONDS = 60.0  # what kubectl users wait for a cloud CLI; a hung one must not hold the daemon for ever
OUTPUT_LIMIT = 1024 * 1024  # bytes kept of each pipe; a credential is some KiB


class Credential(msgspec.Struct, frozen=True):
    """What a plugin answered. `expires`: unix seconds, None for ever."""

    token: str = ""
    client_certificate: str = ""
    client_key: str = ""
    expires: float | None = None

    def __repr__(self) -> str:
        return "Credential(...)"


async def run_plugin(
    plugin: Json, cluster: Json | None, *, environ: Mapping[str, str], cwd: str, seconds: float = PLUGIN_SECONDS
) -> Credential:
    """The credential of a kubeconfig's `exec` section. Raises LoginNeededError with the plugin's last words."""
    argv, env = _command(plugin, cluster, environ, cwd)
    name = plugin["command"]
    try:
        process = await anyio.open_process(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise LoginNeededError(f"the credential plugin {name} cannot be run: {error.strerror}") from error
    out, err = bytearray(), bytearray()

    async def drain(stream: Any, kept: bytearray) -> None:
        async for chunk in stream:
            kept += chunk[: OUTPUT_LIMIT - len(kept)]

    status: int | None = None
    try:
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as pipes:
                pipes.start_soon(drain, process.stdout, out)
                pipes.start_soon(drain, process.stderr, err)
                status = await process.wait()
                # A grandchild may keep the pipes open: the answer is there once the plugin itself has ended.
                with anyio.move_on_after(0.2):
                    await anyio.sleep_forever()
                pipes.cancel_scope.cancel()
    finally:
        _kill_group(process.pid)
        with anyio.CancelScope(shield=True):
            await process.aclose()
    if status is None:
        raise LoginNeededError(
            f"the credential plugin {name} did not answer within {seconds:g} seconds",
            hint=f"run it in a terminal, it may be waiting for you: {name}",
        )
    if status != 0:
        words = err.decode("utf-8", "replace").strip().splitlines()
        raise LoginNeededError(
            f"the credential plugin {name} failed: {words[-1][:300] if words else f'exit status {status}'}",
            hint="log in again in a terminal; krayne goes on by itself",
        )
    return _credential(name, bytes(out))


def _command(
    plugin: Json, cluster: Json | None, environ: Mapping[str, str], cwd: str
) -> tuple[list[str], dict[str, str]]:
    name = str(plugin["command"])
    env = {**environ, **{one["name"]: one["value"] for one in plugin.get("env") or ()}}
    path = os.path.join(cwd, name) if "/" in name and not name.startswith("/") else name
    found = shutil.which(path, path=env.get("PATH"))
    if found is None:
        raise LoginNeededError(
            f"the credential plugin {name} was not found; searched {env.get('PATH', '')}",
            hint=str(plugin.get("installHint") or f"install {name}, or put its folder on the PATH of kraynd"),
        )
    info: Json = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": {"interactive": False}}
    if plugin.get("provideClusterInfo") and cluster is not None:
        info["spec"]["cluster"] = cluster
    env["KUBERNETES_EXEC_INFO"] = json.dumps(info)
    return [found, *map(str, plugin.get("args") or ())], env


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _credential(name: str, out: bytes) -> Credential:
    try:
        status = json.loads(out)["status"]
        expires = status.get("expirationTimestamp")
        made = Credential(
            token=status.get("token") or "",
            client_certificate=status.get("clientCertificateData") or "",
            client_key=status.get("clientKeyData") or "",
            expires=datetime.fromisoformat(expires).timestamp() if expires else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise LoginNeededError(
            f"the credential plugin {name} printed something else than an ExecCredential",
            hint=f"run it in a terminal: {name}",
        ) from None
    if not made.token and not made.client_certificate:
        raise LoginNeededError(f"the credential plugin {name} gave neither a token nor a certificate")
    return made
