"""What runs beside Ray in a head pod here: Jupyter and code-server on Unix sockets, ssh, and the report of them.

Unix sockets in a folder of the user's own: this machine's loopback is open to its every user. Installs nothing.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import anyio

from krayne_sandbox.node import ray, ssh
from krayne_sandbox.node.processes import start
from krayne_sandbox.node.run import Run

CODE_SERVER_PORT: Final = 8443
WEB: Final = {"notebook": ray.NOTEBOOK, "code-server": CODE_SERVER_PORT}
START_SECONDS: Final = 180.0  # JupyterLab with many extensions, on a slow machine
LOOK_PAUSE: Final = 0.25
ANSWER_SECONDS: Final = 10.0
LOG_LIMIT: Final = 256 * 1024  # bytes of a log's end that are told
SITE: Final = "lib/python*/site-packages"


class Service(NamedTuple):
    """A service that can run: how."""

    port: int
    argv: list[str]
    path: str


async def begin_services(run: Run) -> None:
    """Start what the pod names and this machine has; say of the rest what is missing."""
    named = {str(one.get("name")) for one in run.container.get("ports") or ()}
    if "ssh" in named:
        await _begin_ssh(run)
    for name in sorted(named & {"notebook", "code-server"}):
        service = _notebook(run) if name == "notebook" else _code_server(run)
        if isinstance(service, str):
            run.report(name, "failed", service)
            continue
        try:
            run.others.append(start(service.argv, run.env(), run.folder, run.folder / f"{name}.log"))
        except OSError as error:
            run.report(name, "failed", f"cannot be started: {error}")
            continue
        run.sockets[service.port] = service.path
        run.report(name, "installing", "starting")
    run.save()


async def watch_services(run: Run) -> None:
    """Tell of each service that is starting whether it answers."""
    async with anyio.create_task_group() as tasks:
        for name, port in WEB.items():
            if port in run.sockets and run.reports.get(name, {}).get("state") == "installing":
                tasks.start_soon(_watch, run, name, run.sockets[port])


async def _watch(run: Run, name: str, path: str) -> None:
    state, reason = "failed", f"it does not answer: krayne logs {run.cluster} --service {name}"
    with anyio.move_on_after(START_SECONDS):
        while not await _answers(path):  # noqa: ASYNC110 - another program's start is no event of ours
            await asyncio.sleep(LOOK_PAUSE)
        state, reason = "running", ""
    run.report(name, state, reason)
    run.save()


async def _answers(path: str) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


async def _begin_ssh(run: Run) -> None:
    try:
        login = await asyncio.to_thread(ssh.prepare, run)
    except ssh.NoSshError as error:
        run.report("ssh", "failed", str(error))
    except (OSError, KeyError, UnicodeError, subprocess.SubprocessError) as error:
        run.report("ssh", "failed", f"it cannot be set up: {error!r}")
    else:
        run.programs[ssh.PORT] = login.argv
        run.report("ssh", "running", host_key=login.host_key, user=login.user)


def _notebook(run: Run) -> Service | str:
    if not _has_jupyter():
        return f"JupyterLab is not installed beside {ray.python()}: {ray.HINT}"
    path = os.path.join(run.short, "notebook.sock")
    hosts = ["localhost", f"notebook.{run.cluster}.localhost"]
    argv = [
        ray.python(), "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.sock={path}",
        "--ServerApp.sock_mode=0600", f"--ServerApp.root_dir={run.folder}", "--IdentityProvider.token=",
        *(f"--ServerApp.local_hostnames={host}" for host in hosts),
    ]  # fmt: skip
    return Service(ray.NOTEBOOK, argv, path)


def _has_jupyter() -> bool:
    root = Path(ray.python()).parent.parent
    return any(root.glob(f"{SITE}/jupyterlab/__main__.py"))


def _code_server(run: Run) -> Service | str:
    program = shutil.which("code-server")
    if program is None:
        return "code-server is not on this machine's PATH"
    path = os.path.join(run.short, "code.sock")
    argv = [program, f"--socket={path}", "--socket-mode=600", "--auth=none", "--disable-telemetry", str(run.folder)]
    return Service(CODE_SERVER_PORT, argv, path)


async def answer_report(run: Run, sock: socket.socket) -> None:
    """One HTTP exchange: the reports, or the end of a service's log."""
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            asked = await reader.readuntil(b"\r\n\r\n")
            writer.writelines(_reply(*_answer(run, asked.split(b" ")[1].decode("ascii", "replace"))))
            await writer.drain()
    except (OSError, TimeoutError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return  # whoever asked has left, or asks no question
    finally:
        writer.close()


def _answer(run: Run, path: str) -> tuple[str, str, bytes]:
    """Status, type and body, as a head pod of ours answers."""
    name = path.removeprefix("/logs/")
    if name == path:
        return "200 OK", "application/json", json.dumps(run.reports).encode()
    if name not in run.reports:
        return "404 Not Found", "text/plain", b""
    return "200 OK", "text/plain; charset=utf-8", _end_of(run.folder / f"{name}.log")


def _end_of(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_LIMIT))
            return file.read(LOG_LIMIT)
    except OSError:
        return b""  # it has said nothing yet


def _reply(status: str, kind: str, body: bytes) -> Iterator[bytes]:
    yield f"HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n".encode()
    yield b"Content-Length: %d\r\n\r\n" % len(body)
    yield body
