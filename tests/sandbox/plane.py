"""The sandbox in the place of the real control plane: its API, store and operator, and a node that runs no Ray.

Offers what the tests of `tests/cluster` ask of `ControlPlane`, by the same names; what a sandbox has no counterpart of
skips the test that asks for it, and says what that was. One event loop on a thread of its own.
"""

import asyncio
import fnmatch
import json
import logging
import os
import re
import selectors
import shutil
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytest

from krayne_sandbox.api.server import ACCESS, serving
from krayne_sandbox.core import podstatus
from krayne_sandbox.core.meta import Json, is_deleting, metadata, name_of, namespace_of, stamp
from krayne_sandbox.core.rayplan import KUBERAY, NODE_NAME, labels_of, phase_of
from krayne_sandbox.core.statuses import StatusError, not_found
from krayne_sandbox.journal import DELETED, Change
from krayne_sandbox.kinds import NAMESPACES, PODS
from krayne_sandbox.node.executing import LocalExecution
from krayne_sandbox.node.logs import read_log
from krayne_sandbox.operator.loop import operate
from krayne_sandbox.store import Store
from tests.controlplane import configs, pods
from tests.controlplane.api import Api
from tests.controlplane.build import binary
from tests.controlplane.process import PlaneError, wait_until

LIMIT = 60.0  # seconds for anything
LEAVING = 10.0  # seconds for connections whose clients have gone
TURNS = 3  # of a loop until a connection that has ended is closed
STARTING, STOPPING = 0.2, 0.3  # seconds a pod needs to begin and to end, as a kubelet's do


def _lacking(what: str) -> NoReturn:
    pytest.skip(f"a sandbox has no {what}")


class _Rule:
    """What is behind the pods of a namespace whose names match."""

    def __init__(self) -> None:
        self.ports: dict[int, tuple[str, int]] = {}
        self.refused: set[int] = set()
        self.exec: tuple[Path, dict[str, str], list[str]] | None = None
        self.logs: dict[str, Path] = {}


class TestNode:
    """`NodeControl`, and the node itself (krayne_sandbox.node.face): sockets of this machine behind pods' ports."""

    __test__ = False

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rules: dict[tuple[str, str], _Rule] = {}
        self._seen: set[str] = set()
        self._due: dict[tuple[str, float], asyncio.TimerHandle] = {}
        self._open: dict[tuple[str, str], weakref.WeakSet[socket.socket]] = {}
        self._restarts: dict[str, int] = {}

    # What tests say.

    def map_port(self, namespace: str, pod: str, port: int, target: str | int) -> None:
        """Put a local address ("host:port", or a port of 127.0.0.1) behind a pod's port."""
        host, _, number = f"127.0.0.1:{target}".rpartition(":") if isinstance(target, int) else target.rpartition(":")
        self._rule(namespace, pod).ports[port] = (host, int(number))

    def unmap_port(self, namespace: str, pod: str, port: int) -> None:
        """Nothing listens there any more."""
        self._rule(namespace, pod).ports.pop(port, None)

    def fault(self, namespace: str = "", pod: str = "", port: int = 0, *, refuse: bool = False, **more: Any) -> None:
        """New connections are refused, or no longer."""
        if any(more.values()):
            _lacking(f"node that can {' and '.join(sorted(more))}")
        (self._rule(namespace, pod).refused.add if refuse else self._rule(namespace, pod).refused.discard)(port)

    def clear(self, namespace: str = "", pod: str = "", port: int = 0) -> None:
        """No fault there."""
        self.fault(namespace, pod, port)

    def allow_exec(
        self, namespace: str, pod: str, *, root: Path, env: Mapping[str, str] | None = None, wrap: Sequence[str] = ()
    ) -> None:
        """Run commands in this pod in a folder, with this environment, behind `wrap`."""
        self._rule(namespace, pod).exec = (root, dict(env or {}), list(wrap))

    def serve_log(
        self, namespace: str, pod: str, file: Path, *, container: str = "", previous: Path | None = None
    ) -> None:
        """Serve a file as the container's log."""
        if previous is not None:
            _lacking("log of a previous container")
        self._rule(namespace, pod).logs[container] = file

    def set_mode(self, mode: str) -> None:
        """It passes every half-close on, and knows no other way."""
        if mode != "half-close":
            _lacking(mode)

    def thaw(self) -> None:
        """Nothing is ever frozen."""

    def reset(self) -> None:
        """Forget all of it."""
        self._rules.clear()

    def __getattr__(self, name: str) -> Any:
        _lacking(f"node.{name}")

    def _rule(self, namespace: str, pod: str) -> _Rule:
        return self._rules.setdefault((namespace, pod), _Rule())

    def _matching(self, namespace: str, pod: str) -> list[_Rule]:
        return [
            rule
            for (space, pattern), rule in self._rules.items()
            if space in {"", namespace} and fnmatch.fnmatch(pod, pattern or "*")
        ]

    # What the API asks.

    async def connect(self, namespace: str, pod: str, port: int) -> socket.socket:
        """Part of Node."""
        rules = self._matching(namespace, pod)
        targets = [rule.ports[port] for rule in rules if port in rule.ports]
        if not targets or any(rule.refused & {0, port} for rule in rules):
            raise ConnectionRefusedError(111, "Connection refused")
        made = socket.socket()
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, targets[-1])
        except BaseException:
            made.close()
            raise
        self._open.setdefault((namespace, pod), weakref.WeakSet()).add(made)
        return made

    def logs(
        self, namespace: str, pod: str, container: str, *, follow: bool, tail: int | None, since: float | None,
        timestamps: bool, limit: int | None,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        """Part of Node."""
        files = [
            one for rule in self._matching(namespace, pod) for one in [rule.logs.get(container), rule.logs.get("")]
        ]
        found = next((one for one in files if one is not None), Path(os.devnull))
        return read_log(
            found, follow=follow, tail=tail, since=since, timestamps=timestamps, limit=limit,
            is_over=lambda: self._store.find(PODS, namespace, pod) is None,
        )  # fmt: skip

    async def execute(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, tty: bool
    ) -> LocalExecution:
        """Part of Node."""
        allowed = [rule.exec for rule in self._matching(namespace, pod) if rule.exec is not None]
        if not allowed:
            raise not_found(PODS, pod)
        known = self._store.get(PODS, namespace, pod)["spec"]["containers"]
        if container and container not in {one["name"] for one in known}:
            raise StatusError(400, "BadRequest", f"container {container} is not valid for pod {pod}")
        root, env, wrap = allowed[-1]
        return await LocalExecution.begin([*wrap, *command], env, root, tty=tty)

    # The kubelet.

    async def run(self) -> None:
        """Make pods Ready, unless they are held; let deleted ones go."""
        try:
            with self._store.subscribe(PODS) as subscription:
                while True:
                    for change in await subscription.changes():
                        self._see(change)
        finally:
            for timer in self._due.values():
                timer.cancel()

    def _later(self, pod: Json, seconds: float, act: Callable[[Json], None]) -> None:
        """Do it with the pod as it is then; once, however often it is asked for meanwhile."""
        due = str(metadata(pod)["uid"]), seconds

        def now() -> None:
            del self._due[due]
            found = self._store.find(PODS, namespace_of(pod), name_of(pod))
            if found is not None and str(metadata(found)["uid"]) == due[0]:
                act(found)

        if due not in self._due:
            self._due[due] = asyncio.get_running_loop().call_later(seconds, now)

    def _end(self, pod: Json) -> None:
        self._store.remove(PODS, namespace_of(pod), name_of(pod))

    def _begin(self, pod: Json) -> None:
        if is_deleting(pod) or not _is_new(pod):
            return
        if "nodeName" not in pod["spec"]:  # the scheduler's part
            pod = self._store.update(PODS, {**pod, "spec": {**pod["spec"], "nodeName": NODE_NAME}})
        now = stamp(self._store.now)
        self._store.update(PODS, {**pod, "status": podstatus.running(pod, now, now, ready=True)}, subresource="status")

    def _end_connections_of_a_restarted(self, pod: Json) -> None:
        statuses = (pod.get("status") or {}).get("containerStatuses") or []
        now, uid = sum(int(one.get("restartCount") or 0) for one in statuses), str(metadata(pod)["uid"])
        if now > self._restarts.get(uid, 0):
            for one in self._open.pop((namespace_of(pod), name_of(pod)), ()):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self._restarts[uid] = now

    def _see(self, change: Change) -> None:
        space, name = namespace_of(change.object), name_of(change.object)
        pod = self._store.find(PODS, space, name)
        if pod is None or change.type == DELETED:
            return
        if is_deleting(pod):
            self._later(pod, STOPPING, self._end)
            return
        self._end_connections_of_a_restarted(pod)
        notes = metadata(pod).get("annotations") or {}
        if str(metadata(pod)["uid"]) not in self._seen:
            self._seen.add(str(metadata(pod)["uid"]))
            which = labels_of(self._store.get(NAMESPACES, "", space)).get(configs.HOLD_NEW)
            if which is not None and which in {"all", labels_of(pod).get("ray.io/node-type")}:
                self._store.update(
                    PODS, {**pod, "metadata": {**metadata(pod), "annotations": {**notes, configs.HELD: "true"}}}
                )
                return
        if _is_new(pod):
            self._later(pod, STARTING, self._begin)


def _is_new(pod: Json) -> bool:
    """Whether it waits for the node."""
    return configs.HELD not in (metadata(pod).get("annotations") or {}) and phase_of(pod) in {"", "Pending"}


VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
PATH = re.compile(r"/apis?(?:/[^/]+)?/v\w+(?:/namespaces/(?P<space>[^/]+))?/(?P<kind>[^/?]+)(?:/(?P<name>[^/?]+))?")


class Audit(logging.Handler):
    """Every request, as the real API server's audit log tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Json] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Part of logging: `METHOD path HTTP/1.1 status`."""
        method, path, _, status = record.getMessage().split()
        found = PATH.match(path)
        if found is None:
            return
        about = {"resource": found["kind"], "namespace": found["space"] or "", "name": found["name"] or ""}
        verb = "deletecollection" if method == "DELETE" and not found["name"] else VERBS[method]
        answer = {"code": int(status)}
        who = {"username": "admin"}
        self.told.append({"user": who, "verb": verb, "requestURI": path, "objectRef": about, "responseStatus": answer})


class SandboxPlane:
    """A sandbox on loopback, for one test session."""

    operator_version = KUBERAY

    def __init__(self, root: Path) -> None:
        self.root = root
        self._home = root / "sandbox"
        self._selector = selectors.DefaultSelector()
        self._runner = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(self._selector))
        self._loop = self._runner.get_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._parts: dict[str, asyncio.Task[None]] = {}
        self._home.mkdir(parents=True)
        self._thread.start()
        self._store = self.on_loop(lambda: Store.open(str(self._home / "state.db"), clock=time.time))
        self.node = TestNode(self._store)
        self._audit = Audit()
        ACCESS.addHandler(self._audit)
        ACCESS.setLevel(logging.INFO)
        self._begin("node", self.node.run)
        self.start_apiserver()
        self.start_operator()
        self.api = Api(self.port, self.ca_file, token=(self._home / "token").read_text())

    @property
    def port(self) -> int:
        """The API's."""
        return int((self._home / "port").read_text())

    @property
    def server(self) -> str:
        """Its address."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """Who may everything, under the names of the real control plane's."""
        path = self.root / "admin.kubeconfig"
        who = {"token": (self._home / "token").read_text()}
        path.touch(mode=0o600)
        path.write_text(json.dumps(configs.kubeconfig(self.server, str(self.ca_file), who), indent=1))
        return path

    @property
    def ca_file(self) -> Path:
        """Its authority."""
        return self._home / "ca.crt"

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Run it where the store lives."""

        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(LIMIT)

    def stop(self) -> None:
        """End all of it."""
        ACCESS.removeHandler(self._audit)
        for name in reversed(list(self._parts)):
            self._end(name)
        self.on_loop(self._store.close)
        self.on_loop(self._over.set)
        self._thread.join(LIMIT)

    def _run(self) -> None:
        with self._runner:
            self._runner.run(self._until_over())

    async def _until_over(self) -> None:
        await self._over.wait()
        # A connection whose client has just gone is let end: a loop closed under it leaves a socket for the collector.
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVING):
                while len(self._selector.get_map()) > 1:  # more than the loop's own pipe
                    await asyncio.sleep(0.01)
        for _ in range(TURNS):
            await asyncio.sleep(0)

    # Outages.

    def start_apiserver(self) -> None:
        """Serve on the port and data it had."""
        ready: Future[None] = Future()

        async def serve() -> None:
            async with serving(self._store, self.node, home=self._home):
                ready.set_result(None)
                await asyncio.Event().wait()

        self._begin("apiserver", serve)
        ready.result(LIMIT)

    def stop_apiserver(self) -> None:
        """End it in order."""
        self._end("apiserver")

    kill_apiserver = stop_apiserver

    def restart_clients(self) -> None:
        """There are none."""

    def start_operator(self, version: str | None = None) -> None:
        """Let it work."""
        if version is not None:
            _lacking("choice of operators")
        self._begin("operator", lambda: operate(self._store))

    def stop_operator(self) -> None:
        """It rests."""
        self._end("operator")

    pause_operator, resume_operator = stop_operator, start_operator

    def _begin(self, name: str, part: Callable[[], Any]) -> None:
        self._parts[name] = self.on_loop(lambda: self._loop.create_task(part()))

    def _end(self, name: str) -> None:
        task = self._parts.pop(name)

        async def end() -> None:
            task.cancel()
            await asyncio.wait([task], timeout=LIMIT)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(2 * LIMIT)

    # Objects.

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True, kubeconfig: Path | None = None) -> str:
        """Run kubectl and return what it prints, with stderr unless checked."""
        program = binary("kubectl") if binary("kubectl").exists() else shutil.which("kubectl")
        if program is None:
            pytest.skip("there is no kubectl")
        done = subprocess.run(
            [str(program), *args], env=self.environment(kubeconfig), input=stdin, capture_output=True, text=True,
            timeout=LIMIT, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise PlaneError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """Environment for a client program of this plane."""
        return {**os.environ, "KUBECONFIG": str(kubeconfig or self.kubeconfig), "HOME": str(self.root)}

    def pods(self, namespace: str, cluster: str, node_type: str = "head") -> list[Json]:
        """The pods of a Ray cluster, oldest first."""
        found = self.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        wanted = {"ray.io/cluster": cluster, "ray.io/node-type": node_type}.items()
        mine = [pod for pod in found if wanted <= labels_of(pod).items()]
        return sorted(mine, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def wait_pod(self, namespace: str, name: str, *, limit: float = LIMIT) -> Json:
        """Wait until a pod is Ready."""

        def ready() -> bool:
            found = self.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
            told = found.get("status", {}).get("conditions", [])
            return any(one["type"] == "Ready" and one["status"] == "True" for one in told)

        wait_until(f"pod {name}", ready, limit)
        pod: Json = self.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        return pod

    def patch_pod_status(self, namespace: str, pod: str, status: Json) -> None:
        """Report a status as the kubelet would (see `pods`), and keep the node from changing it."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        held = self.api.merge(path, {"metadata": {"annotations": {configs.HELD: "true"}}})
        self.api.merge(f"{path}/status", {"status": pods.merged(held.get("status", {}), status)})

    def audit(self) -> list[Json]:
        """Every request so far that was answered."""
        for _ in range(2):  # turns of the loop: an answer is sent just before it is noted
            self.on_loop(lambda: None)
        return list(self._audit.told)

    def release_pod(self, namespace: str, pod: str) -> None:
        """Give a held pod back to the node, which makes it Ready."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        live = self.api.merge(path, {"metadata": {"annotations": {configs.HELD: None}}})
        status = {"phase": "Pending", "conditions": [pods.condition("Ready", False)]}
        self.api.merge(f"{path}/status", {"status": pods.merged(live.get("status", {}), status)})

    def hold_new_pods(self, namespace: str, which: Literal["all", "head", "worker"] | None = "all") -> None:
        """New pods of a namespace stay as they were made until patched or released; None ends it."""
        self.api.merge(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {configs.HOLD_NEW: which}}})

    def __getattr__(self, name: str) -> Any:
        _lacking({"kubeconfig_for": "second user", "token": "second user"}.get(name, name))


@contextmanager
def sandbox_plane(root: Path) -> Iterator[SandboxPlane]:
    """A sandbox while entered."""
    plane = SandboxPlane(root)
    try:
        yield plane
    finally:
        plane.stop()
