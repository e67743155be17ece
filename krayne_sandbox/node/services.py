"""What runs beside Ray in a head pod here: Jupyter and code-server on Unix sockets, and the report of how they fare.

Unix sockets in a folder of the user's own: this machine's loopback is open to its every user. Installs nothing.
"""

import asyncio
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from krayne_sandbox.node import ray
from krayne_sandbox.node.processes import start
from krayne_sandbox.node.run import Run

CODE_SERVER_PORT: Final = 8443
ANSWER_SECONDS: Final = 10.0
SITE: Final = "lib/python*/site-packages"


class Service(NamedTuple):
    """A service that can run: how."""

    port: int
    argv: list[str]
    path: str


def begin_services(run: Run) -> None:
    """Start what the pod names and this machine has; say of the rest what is missing."""
    named = {str(one.get("name")) for one in run.container.get("ports") or ()}
    if "ssh" in named:
        run.report(
            "ssh", "failed", "a sandbox's pod is no machine to log in to: its processes are your own, on this one"
        )
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
        run.report(name, "running")
    run.save()


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
    """One HTTP exchange: the reports, whatever was asked."""
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await reader.readuntil(b"\r\n\r\n")
            body = json.dumps(run.reports).encode()
            writer.writelines(_reply(body))
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return  # whoever asked has left, or asks no question
    finally:
        writer.close()


def _reply(body: bytes) -> Iterator[bytes]:
    yield b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    yield b"Content-Length: %d\r\n\r\n" % len(body)
    yield body
