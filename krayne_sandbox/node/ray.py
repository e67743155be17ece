"""How Ray is started for a pod: its command line, environment and ports, and whether it answers.

Starts nothing itself. Invariant: everything listens on 127.0.0.1, on ports that were free a moment ago.
"""

import asyncio
import importlib.util
import os
import shlex
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Final

from krayne_sandbox.core.meta import Json
from krayne_sandbox.core.rayplan import START_COMMAND

PYTHON: Final = "KRAYNE_SANDBOX_PYTHON"  # names the Python that has Ray, when it is not ours
GCS, CLIENT, DASHBOARD, NOTEBOOK, REPORTS = 6379, 10001, 8265, 8888, 52399
OBJECT_STORE: Final = 100_000_000  # bytes for each pod: many run side by side; Ray refuses less than 75 MiB
PROBE_PAUSE: Final = 0.25  # seconds between looks at a Ray that is starting: it tells nobody when it is done
PROBE_LIMIT: Final = 2.0  # seconds for one look
HINT: Final = "pip install 'kraynd[sandbox]'"
# What a RayCluster may say of a node that holds here too; its ports and addresses are ours to choose.
PASSED: Final = ("no-monitor", "num-cpus", "num-gpus", "memory", "resources", "labels")
_FLAGS: Final = {"port": GCS, "ray-client-server-port": CLIENT, "dashboard-port": DASHBOARD}
_HIDDEN: Final = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")


def python() -> str:
    """The Python whose Ray is used."""
    return os.environ.get(PYTHON) or sys.executable


def ray_missing() -> str:
    """Why Ray cannot be started, in one sentence; empty when it can."""
    chosen = os.environ.get(PYTHON)
    found = Path(python()).with_name("ray").exists() if chosen else importlib.util.find_spec("ray") is not None
    return "" if found else f"Ray is not installed beside {python()}: {HINT}"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 nobody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def plain_python(folder: str) -> str:
    """The same Python under a path without spaces: Ray splits the command lines of its agents at them."""
    chosen = Path(python())
    if " " not in str(chosen):
        return str(chosen)
    link = Path(folder) / "python"
    if not link.is_symlink():
        link.symlink_to(chosen.parent.parent)
    return str(link / "bin" / chosen.name)


def head_command(container: Json, folder: str) -> tuple[list[str], dict[int, int]]:
    """A head's command line, and where the pod's ports are on this machine."""
    names = [*_FLAGS, *_HIDDEN]
    chosen = dict(zip(names, free_ports(len(names)), strict=True))
    flags = [f"--{name}={port}" for name, port in chosen.items()]
    argv = [*_start(container, folder), "--head", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}", *flags]
    return argv, {port: chosen[name] for name, port in _FLAGS.items()}


def worker_command(container: Json, gcs: int, folder: str) -> list[str]:
    """A worker's command line, joining the head whose GCS is there."""
    flags = [f"--{name}={port}" for name, port in zip(_HIDDEN, free_ports(len(_HIDDEN)), strict=True)]
    # In the head's folder workers that start at one moment would take each other's sockets.
    return [*_start(container, folder), f"--address=127.0.0.1:{gcs}", f"--temp-dir={folder}", *flags]


def _start(container: Json, folder: str) -> list[str]:
    return [
        plain_python(folder), "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1",
        "--disable-usage-stats", f"--object-store-memory={OBJECT_STORE}", "--min-worker-port=0", "--max-worker-port=0",
        *_passed(container),
    ]  # fmt: skip


def _passed(container: Json) -> list[str]:
    line = next((one.get("value", "") for one in container.get("env") or () if one.get("name") == START_COMMAND), "")
    told = [word for word in shlex.split(line) if word.removeprefix("--").partition("=")[0] in PASSED]
    if not any(word.startswith("--num-cpus") for word in told):
        told.append(f"--num-cpus={_cpus(container)}")
    return told


def _cpus(container: Json) -> int:
    asked = str(((container.get("resources") or {}).get("limits") or {}).get("cpu") or "1")
    amount = Decimal(asked[:-1]) / 1000 if asked.endswith("m") else Decimal(asked)
    return max(1, -int(-amount // 1))


def environment(container: Json, marks: Mapping[str, str]) -> dict[str, str]:
    """What a process of a pod sees: ours without Ray's, the template's plain variables, the marks."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "KRAYNE_"))}
    given = {str(one["name"]): str(one["value"]) for one in container.get("env") or () if "value" in one}
    # gRPC's fork handlers kill about one of eight client sessions on a busy machine; titles that overwrite the
    # environment would take the marks with them.
    ours = {
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SCHEDULER_EVENTS": "0",
        "SPT_NOENV": "1",
    }
    path = os.pathsep.join([str(Path(python()).parent), kept.get("PATH", os.defpath)])
    return {**kept, **given, **ours, "PATH": path, **marks}


async def until_ready(ports: Mapping[int, int]) -> None:
    """Wait until a head's GCS, client server and dashboard answer."""
    while not await _answers(ports):  # noqa: ASYNC110 - Ray is another process: it sets no event of ours
        await asyncio.sleep(PROBE_PAUSE)


async def _answers(ports: Mapping[int, int]) -> bool:
    try:
        async with asyncio.timeout(PROBE_LIMIT):
            for pod_port in (GCS, CLIENT):
                _, writer = await asyncio.open_connection("127.0.0.1", ports[pod_port])
                writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[DASHBOARD])
            writer.write(b"GET /api/version HTTP/1.0\r\nHost: localhost\r\n\r\n")
            line = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in line


async def until_joined(log: Path) -> None:
    """Wait until a worker's `ray start` says that it runs."""
    while not _says(log, b"Ray runtime started"):  # noqa: ASYNC110 - as above
        await asyncio.sleep(PROBE_PAUSE)


def _says(log: Path, words: bytes) -> bool:
    return log.exists() and words in log.read_bytes()
