"""The sandbox's process: store, operator, node and API in one event loop, and its word to the world that it runs.

Owns the folder's lock and `sandbox.json`. Invariant: one process per folder; its end leaves the pods running.
"""

import asyncio
import errno
import fcntl
import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Final

import anyio

from krayne_sandbox.api.server import serving
from krayne_sandbox.node.pods import LocalNode
from krayne_sandbox.node.processes import look
from krayne_sandbox.operator.loop import operate
from krayne_sandbox.store import Store

STATE: Final = "sandbox.json"
LOG: Final = logging.getLogger(__name__)


class RunningError(Exception):
    """Another process serves this folder."""


async def live(home: Path) -> None:
    """Serve until SIGTERM or SIGINT. Raises RunningError, OSError."""
    os.makedirs(home, mode=0o700, exist_ok=True)
    held = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunningError(f"a sandbox serves {home} already") from None
        await _serve(home)
    finally:
        os.close(held)


async def _serve(home: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = Store.open(str(home / "state.db"), clock=time.time)
    try:
        node = LocalNode(store, home)
        try:
            await _serve_at(store, node, home, 0, stop)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            LOG.warning("the port of last time is taken (%s): a new one is chosen", error)
            (home / "port").unlink(missing_ok=True)
            await _serve_at(store, node, home, 0, stop)
    finally:
        store.close()
        (home / STATE).unlink(missing_ok=True)


async def _serve_at(store: Store, node: LocalNode, home: Path, port: int, stop: asyncio.Event) -> None:
    async with serving(store, node, home=home, port=port) as served, anyio.create_task_group() as tasks:
        tasks.start_soon(operate, store)
        tasks.start_soon(node.run)
        seen = look(os.getpid())
        told = {"pid": os.getpid(), "start": seen.start if seen else 0, "url": served.url}
        told["kubeconfig"] = str(served.kubeconfig)
        new = home / f"{STATE}.new"
        new.write_text(json.dumps(told), encoding="utf-8")
        os.replace(new, home / STATE)
        await stop.wait()
        tasks.cancel_scope.cancel()
