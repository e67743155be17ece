"""Ray's autoscaler beside a head: started when the head is ready, again when it ends, ended with the pod.

Decides nothing: Ray counts what is asked for and patches the RayCluster by the sandbox's API, as in any cluster.
"""

import asyncio
import logging
import signal
from pathlib import Path
from typing import Final

from krayne_sandbox.core.rayplan import AUTOSCALER
from krayne_sandbox.node import ray
from krayne_sandbox.node.processes import Process, look, send, start, wait_end
from krayne_sandbox.node.run import Run

LOG: Final = logging.getLogger(__name__)
AGAIN: Final = 10.0  # seconds before it is started again: what ended it may last
PROGRAM: Final = Path(__file__).with_name("autoscaler_program.py")


def wanted(run: Run) -> bool:
    """Whether this pod has one."""
    containers = (run.pod.get("spec") or {}).get("containers") or ()
    return run.is_head and any(one.get("name") == AUTOSCALER for one in containers)


def log_of(run: Run) -> Path:
    """What it says."""
    return run.folder / f"{AUTOSCALER}.log"


async def keep(run: Run) -> None:
    """For ever. One of an earlier process of the sandbox is replaced: the API's port may be another now."""
    if run.autoscaler is not None:
        send(run.autoscaler, signal.SIGKILL)
    while True:
        try:
            child = start(command(run), environment(run), run.folder, log_of(run))
        except OSError as error:
            LOG.warning("pod %s: no autoscaler: %s", run.name, error)
        else:
            run.others.append(child)
            seen = look(child.pid)
            run.autoscaler = Process(child.pid, seen.start if seen else 0)
            run.save()
            code = await wait_end(run.autoscaler, child)
            run.others.remove(child)
            LOG.warning("pod %s: its autoscaler ended with code %s", run.name, code)
        await asyncio.sleep(AGAIN)


def command(run: Run) -> list[str]:
    """Its command line; the token stays in its file."""
    return [
        ray.plain_python(run.short), str(PROGRAM), f"--cluster={run.cluster}", f"--namespace={run.namespace}",
        f"--gcs=127.0.0.1:{run.ports[ray.GCS]}", f"--token={run.home / 'token'}", f"--ca={run.home / 'ca.crt'}",
    ]  # fmt: skip


def environment(run: Run) -> dict[str, str]:
    """The API's address as a pod is told it; no proxy stands between."""
    (port,) = ray.free_ports(1)
    return {
        **run.env(),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT_HTTPS": (run.home / "port").read_text(encoding="ascii").strip(),
        "AUTOSCALER_METRIC_PORT": str(port),
        "RAY_HEAD_POD_NAME": run.name,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
    }
