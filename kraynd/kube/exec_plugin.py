"""Runs a kubeconfig's exec credential plugin, with the care kubernetes_asyncio's provider lacks.

No standard input, both pipes drained at once, a deadline, a process group of its own that is killed whole. Returns the
credential and never logs it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from kraynd.core.model import Json
from krayne.errors import LoginNeededError

PLUGIN_SECONDS = 60.0  # what kubectl users wait for a cloud CLI; a hung one must not hold the daemon for ever
LINGER = 0.2  # seconds for the last bytes of a plugin that has ended while a grandchild holds its pipes
REAP_SECONDS = 2.0  # for a killed plugin to be gone; one stuck in the kernel must not hold the loop
EXPIRY_MARGIN = 60.0  # seconds before a credential's end at which a new one is fetched
OUR_OWN = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"})
MISSING = "missing_plugin"  # in an error's data: the program that was not found
OUTPUT_LIMIT = 1024 * 1024  # bytes kept of each pipe; a credential is some KiB
# A JWT anywhere, and whatever follows a word that announces a secret.
TOKENS = re.compile(
    r"eyJ[\w-]{8,}[\w.-]*|(?<=bearer )\S+|(?<=token=)\S+|(?<=password=)\S+|(?<=secret=)\S+", re.IGNORECASE
)


class Credential(msgspec.Struct, frozen=True):
    """What a plugin answered. `expires` and `fetched`: unix seconds; None is for ever."""

    token: str = ""
    client_certificate: str = ""
    client_key: str = ""
    expires: float | None = None
    fetched: float = 0.0

    def fresh(self, now: float) -> bool:
        """Whether to use it still: until EXPIRY_MARGIN before its end, or half of a life shorter than twice that."""
        if self.expires is None:
            return True
        return now < max(self.expires - EXPIRY_MARGIN, self.fetched + (self.expires - self.fetched) / 2)

    @property
    def pair(self) -> tuple[str, str] | None:
        """Certificate and key in PEM; None when a token is all there is."""
        return (self.client_certificate, self.client_key) if self.client_certificate and self.client_key else None

    def __repr__(self) -> str:
        return "Credential(...)"


async def run_plugin(
    plugin: Json,
    cluster: Json | None,
    *,
    environ: Mapping[str, str],
    cwd: str,
    seconds: float = PLUGIN_SECONDS,
    wall: Callable[[], float] = time.time,
) -> Credential:
    """The credential of a kubeconfig's `exec` section. Raises LoginNeededError with the plugin's last words."""
    argv, env = _command(plugin, cluster, environ, cwd)
    name = plugin["command"]
    try:
        process = _start(argv, env)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise LoginNeededError(f"the credential plugin {name} cannot be run: {why}") from error
    out, err = bytearray(), bytearray()
    status = await _watched(process, out, err, seconds)
    if status is None:
        raise LoginNeededError(
            f"the credential plugin {name} did not answer within {seconds:g} seconds",
            hint=f"run it in a terminal, it may be waiting for you: {name}",
        )
    if status != 0:
        words = err.decode("utf-8", "replace").strip().splitlines()
        raise LoginNeededError(
            f"the credential plugin {name} failed: {_said(words[-1]) if words else f'exit status {status}'}"
        )
    return _credential(name, bytes(out), wall())


def finds(plugin: Json, environ: Mapping[str, str], cwd: str) -> bool:
    """Whether the plugin's program is there in this environment."""
    return _program(plugin, {**environ, **_added(plugin)}, cwd) is not None


def _program(plugin: Json, environ: Mapping[str, str], cwd: str) -> str | None:
    name = plugin["command"]
    path = os.path.join(cwd, name) if "/" in name and not name.startswith("/") else name
    return shutil.which(path, path=environ.get("PATH"))


def _added(plugin: Json) -> dict[str, str]:
    return {str(one["name"]): str(one["value"]) for one in plugin.get("env") or ()}


def _said(line: str) -> str:
    """A plugin's last words, without what looks like a token among them."""
    return TOKENS.sub("***", "".join(one for one in line if one.isprintable()))[:300]


def _start(argv: list[str], env: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - the command is the user's own kubeconfig's
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, start_new_session=True
    )


async def _watched(process: "subprocess.Popen[bytes]", out: bytearray, err: bytearray, seconds: float) -> int | None:
    """Its exit status, None past the deadline; both pipes are in `out` and `err`. Nothing of it is left running.

    Not asyncio's own process: its end waits for every holder of the pipes.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    ended = False
    with process.stdout, process.stderr:
        try:
            with anyio.move_on_after(seconds):
                async with anyio.create_task_group() as pipes:
                    pipes.start_soon(_drain, process.stdout.fileno(), out)
                    pipes.start_soon(_drain, process.stderr.fileno(), err)
                    # The deadline leaves the thread behind; it ends with the process that is killed below.
                    await anyio.to_thread.run_sync(_await_end, process, abandon_on_cancel=True)
                    ended = True
                    # Done at the end of both pipes; for a grandchild that keeps one this is the bound.
                    pipes.cancel_scope.deadline = anyio.current_time() + LINGER
        finally:
            _kill_group(process.pid)
            with anyio.CancelScope(shield=True), anyio.move_on_after(REAP_SECONDS):
                await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
    return process.returncode if ended else None


def _await_end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for its end; where the system can, without reaping: its number stays its own until its group is killed."""
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()


async def _drain(pipe: int, kept: bytearray) -> None:
    os.set_blocking(pipe, False)
    while True:
        try:
            chunk = os.read(pipe, 65536)
        except BlockingIOError:
            await anyio.wait_readable(pipe)
            continue
        if not chunk:
            return
        kept += chunk[: max(0, OUTPUT_LIMIT - len(kept))]
        await anyio.lowlevel.checkpoint()


def _command(
    plugin: Json, cluster: Json | None, environ: Mapping[str, str], cwd: str
) -> tuple[list[str], dict[str, str]]:
    name = plugin["command"]
    arguments = [str(one) for one in plugin.get("args") or ()]
    # What a service manager told us is not for the plugin: it must not speak in our name.
    env = {name: value for name, value in environ.items() if name not in OUR_OWN} | _added(plugin)
    found = _program(plugin, env, cwd)
    if found is None:
        raise LoginNeededError(
            f"the credential plugin {name} was not found; searched {env.get('PATH', '')}",
            hint=str(plugin.get("installHint") or f"install {name}, or use krayne in a shell that has it on its PATH"),
            data={MISSING: name},
        )
    info: Json = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": {"interactive": False}}
    if cluster is not None:
        info["spec"]["cluster"] = cluster
    env["KUBERNETES_EXEC_INFO"] = json.dumps(info)
    return [found, *arguments], env


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # nobody is left in it, or nobody whom we may end


def _credential(name: str, out: bytes, now: float) -> Credential:
    try:
        status = json.loads(out)["status"]
        until = status.get("expirationTimestamp")
        made = Credential(
            token=str(status.get("token") or ""),
            client_certificate=str(status.get("clientCertificateData") or ""),
            client_key=str(status.get("clientKeyData") or ""),
            expires=_wall(until) if until else None,
            fetched=now,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise LoginNeededError(
            f"the credential plugin {name} printed something else than an ExecCredential",
            hint=f"run it in a terminal: {name}",
        ) from None
    if not made.token and not (made.client_certificate and made.client_key):
        raise LoginNeededError(f"the credential plugin {name} gave neither a token nor a certificate with its key")
    if made.expires is not None and made.expires <= now:
        raise LoginNeededError(f"the credential plugin {name} gave a credential that has expired")
    return made


def _wall(text: str) -> float:
    """RFC 3339 to unix seconds; a plugin that forgets the zone means UTC."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
