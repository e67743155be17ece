"""The sandbox's node: every pod bound to it runs as real processes of this machine, and is told of truly.

Owns the pods' status. Invariant: a pod's object goes only after its last process has; a dead process is a dead pod.
"""

import asyncio
import logging
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import anyio

from krayne_sandbox.core import podstatus
from krayne_sandbox.core.meta import Json, is_deleting, metadata, stamp
from krayne_sandbox.core.rayplan import AUTOSCALER, NODE_NAME, OVER, phase_of
from krayne_sandbox.core.statuses import StatusError, not_found
from krayne_sandbox.journal import DELETED, Change
from krayne_sandbox.kinds import NODES, PODS
from krayne_sandbox.node import autoscaling, ray
from krayne_sandbox.node.executing import LocalExecution
from krayne_sandbox.node.logs import read_log
from krayne_sandbox.node.processes import UNKNOWN_CODE, Process, end_all, look, send, wait_end
from krayne_sandbox.node.run import Run
from krayne_sandbox.node.services import answer_report, begin_services, watch_services
from krayne_sandbox.node.telling import Telling
from krayne_sandbox.store import FellBehindError, Store

LOG: Final = logging.getLogger(__name__)
BACK_OFF: Final = 10.0  # seconds before a pod that could not start is given up, and replaced
LOOK_PAUSE: Final = 5.0  # seconds between looks whether Ray has been installed meanwhile


class End(NamedTuple):
    """How a pod's process ended."""

    code: int
    text: str
    early: bool = False  # it never was what it should be: its successor will hardly do better


class LocalNode:
    """Runs pods; `run` must be running for anything to happen."""

    def __init__(self, store: Store, home: Path) -> None:
        self._store, self._home = store, home
        self._runs: dict[str, Run] = {}
        self._changed = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._telling: Telling | None = None

    async def run(self) -> None:
        """Keep every pod of this node, for ever. Pods outlive this."""
        _register(self._store)
        async with anyio.create_task_group() as self._tasks:
            self._telling = Telling(self._store, self._tasks)
            while True:
                with self._store.subscribe(PODS) as subscription:
                    try:
                        while True:
                            for change in await subscription.changes():
                                self._see(change)
                    except FellBehindError:
                        LOG.warning("the node fell behind and starts anew")

    def _see(self, change: Change) -> None:
        pod = change.object
        if (pod.get("spec") or {}).get("nodeName") != NODE_NAME:
            return
        uid = str(metadata(pod)["uid"])
        run = self._runs.get(uid)
        going = change.type == DELETED or is_deleting(pod)
        if run is None:
            run = self._runs[uid] = Run(pod, self._home)
            run.over = phase_of(pod) in OVER
            if not run.over and self._tasks is not None:
                self._tasks.start_soon(self._live, run)
        if going:
            run.going.set()
        if change.type == DELETED:
            del self._runs[uid]
            if run.over:
                run.forget()
        elif going and run.over and self._telling is not None:
            self._telling.gone(run)

    async def _live(self, run: Run) -> None:
        end = End(UNKNOWN_CODE, "")

        async def follow() -> None:
            nonlocal end
            end = await self._follow(run)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await run.going.wait()
            tasks.cancel_scope.cancel()
        run.ready = False
        left = await end_all(run.process, run.mark)
        if left:
            LOG.error("pod %s: processes %s do not end", run.name, [one.pid for one in left])
        for served in run.served:  # sshd hides its environment, and so our mark
            served.kill()
        for child in (run.child, *run.others, *run.served):
            if child is not None:
                await asyncio.to_thread(child.wait)
        run.over = True
        run.forget()
        self._end_workers(run)
        self._tell_change()
        if run.going.is_set() and self._telling is not None:
            self._telling.gone(run)
        else:
            await self._mourn(run, end)
            self._write(run, podstatus.ended(self._current(run), end.code, end.text, self._now()))

    async def _mourn(self, run: Run, end: End) -> None:
        """Say why it ended. One that never came up is not replaced at once, so that nothing spins."""
        why = end.text or f"its process ended with code {end.code}"
        if end.code and self._telling is not None:
            self._telling.failed(run, why)
        if end.early:
            self._write(run, podstatus.waiting(self._current(run), "CrashLoopBackOff", why, self._now()))
            with anyio.move_on_after(BACK_OFF):
                await run.going.wait()

    def _end_workers(self, head: Run) -> None:
        """A worker whose head is gone computes nothing; Ray alone would notice a minute later."""
        for run in self._runs.values():
            if head.is_head and run.joined == head.uid and run.process is not None:
                send(run.process, signal.SIGKILL)

    async def _follow(self, run: Run) -> End:
        """From the start of its process to its end."""
        if run.recall():
            if not run.is_alive():
                return End(UNKNOWN_CODE, "its process had ended when the sandbox came back")
        else:
            try:
                await self._begin(run)
            except (OSError, ArithmeticError, ValueError) as error:
                return End(UNKNOWN_CODE, f"it cannot be started: {error}", early=True)
        started = self._now()
        self._write(run, podstatus.running(self._current(run), started, self._now(), ready=False))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._await_ready, run, started)
            assert run.process is not None
            code = await wait_end(run.process, run.child)
            tasks.cancel_scope.cancel()
        return End(code, _last_words(run.log), early=bool(code) and not run.ready)

    async def _begin(self, run: Run) -> None:
        while missing := ray.ray_missing():
            self._write(run, podstatus.waiting(self._current(run), "RayNotInstalled", missing, self._now()))
            await asyncio.sleep(LOOK_PAUSE)
        self._write(run, podstatus.waiting(self._current(run), "ContainerCreating", "", self._now()))
        head = None if run.is_head else await self._head_of(run)
        run.joined = head.uid if head is not None else ""
        run.begin(head.ports[ray.GCS] if head is not None else 0)

    async def _head_of(self, worker: Run) -> Run:
        """Its cluster's head, once that is ready."""
        while True:
            for run in self._runs.values():
                mine = (run.namespace, run.cluster) == (worker.namespace, worker.cluster)
                if run.is_head and run.ready and mine:
                    return run
            await self._changed.wait()

    async def _await_ready(self, run: Run, started: str) -> None:
        if run.is_head:
            await ray.until_ready(run.ports)
            if not run.reports:  # an earlier process of the sandbox has not started them
                await begin_services(run)
        else:
            await ray.until_joined(run.log)
        run.ready = True
        self._write(run, podstatus.running(self._current(run), started, self._now(), ready=True))
        self._tell_change()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch_services, run)
            if autoscaling.wanted(run):
                tasks.start_soon(autoscaling.keep, run)

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _now(self) -> str:
        return stamp(self._store.now)

    def _current(self, run: Run) -> Json:
        return self._store.find(PODS, run.namespace, run.name) or run.pod

    def _write(self, run: Run, status: Json) -> None:
        if self._telling is not None:
            self._telling.status(run, status)

    # What the API asks for.

    def _find(self, namespace: str, pod: str) -> Run:
        for run in self._runs.values():
            if (run.namespace, run.name) == (namespace, pod):
                return run
        raise not_found(PODS, pod)

    async def connect(self, namespace: str, pod: str, port: int) -> socket.socket:
        """A connection to what listens on the pod's port. Raises OSError, StatusError 404."""
        run = self._find(namespace, pod)
        if port == ray.REPORTS and run.reports and self._tasks is not None:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            self._tasks.start_soon(answer_report, run, ours)
            return theirs
        if port in run.programs and not run.over and self._tasks is not None:
            return self._serve(run, port, self._tasks)
        path = run.sockets.get(port)
        if run.over or (path is None and port not in run.ports):
            raise ConnectionRefusedError(f"nothing listens on port {port} of pod {pod}")
        sock = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
        sock.setblocking(False)
        try:
            target = ("127.0.0.1", run.ports[port]) if path is None else path
            await asyncio.get_running_loop().sock_connect(sock, target)
        except BaseException:
            sock.close()
            raise
        return sock

    def _serve(self, run: Run, port: int, tasks: anyio.abc.TaskGroup) -> socket.socket:
        sock, child = run.serve(port)
        tasks.start_soon(_bury, run, child)
        return sock

    def logs(
        self, namespace: str, pod: str, container: str, *, follow: bool, tail: int | None, since: float | None,
        timestamps: bool, limit: int | None,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        """What its process says."""
        run = self._find(namespace, pod)
        beside = container == AUTOSCALER and autoscaling.wanted(run)
        if not beside:
            _check_container(run, container)
        log = autoscaling.log_of(run) if beside else run.log
        return read_log(
            log, follow=follow, tail=tail, since=since, timestamps=timestamps, limit=limit,
            is_over=lambda: run.over or run.going.is_set(),
        )  # fmt: skip

    async def execute(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, tty: bool
    ) -> LocalExecution:
        """A command in the pod's folder and environment. Raises OSError, StatusError."""
        run = self._find(namespace, pod)
        _check_container(run, container)
        if run.process is None or run.over:
            raise StatusError(400, "BadRequest", f"pod {pod} does not run")
        return await LocalExecution.begin(command, run.env(), run.folder, tty=tty)


async def _bury(run: Run, child: subprocess.Popen[bytes]) -> None:
    seen = look(child.pid)
    if seen is not None:
        await wait_end(Process(child.pid, seen.start), child)
    else:
        child.wait()
    run.served.discard(child)


def _check_container(run: Run, container: str) -> None:
    if container and container != run.container.get("name"):
        raise StatusError(400, "BadRequest", f"container {container} is not valid for pod {run.name}")


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _register(store: Store) -> None:
    """The one node there is."""
    if store.find(NODES, "", NODE_NAME) is not None:
        return
    now = stamp(store.now)
    ready = {
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "this machine runs the pods",
        "lastTransitionTime": now, "lastHeartbeatTime": now,
    }  # fmt: skip
    address = {"type": "InternalIP", "address": podstatus.ADDRESS}
    store.create(NODES, {
        "metadata": {"name": NODE_NAME, "labels": {"kubernetes.io/hostname": NODE_NAME}},
        "spec": {}, "status": {"conditions": [ready], "addresses": [address]},
    })  # fmt: skip
