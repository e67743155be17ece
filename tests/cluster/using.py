"""What the failure tests share: facts awaited with a deadline, what the plane was asked, an echo for a pod's port."""

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from tests.cluster.between import TURNS
from tests.cluster.conftest import Krayne, make_krayne
from tests.controlplane.plane import ControlPlane
from tests.controlplane.process import wait_until

LIMIT = 80.0  # seconds for anything that must happen by itself, on a busy machine
COLLECTED = 90.0  # ... by Kubernetes' garbage collector, which knows a CRD only half a minute after its installation
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
CHUNK = 65536

Json = dict[str, Any]


@contextmanager
def home_with(kubeconfig: Path) -> Iterator[Krayne]:
    """`krayne` in another fresh home, by another kubeconfig. Its daemon ends with the block."""
    made = make_krayne(kubeconfig)
    try:
        yield made
    finally:
        made("daemon", "stop", code=None)
        shutil.rmtree(made.home, ignore_errors=True)


def until(what: str, holds: Callable[[], bool], limit: float = LIMIT) -> None:
    """Wait for a fact outside this process. Raises PlaneError."""
    wait_until(what, holds, limit)


def becomes(krayne: Krayne, name: str, holds: Callable[[Json], bool], limit: float = LIMIT) -> Json:
    """`krayne ls`'s row of a cluster, once it is so."""
    seen: list[Json] = []

    def looked() -> bool:
        seen[:] = [one for one in krayne.clusters("-A") if one["name"] == name]
        return bool(seen) and holds(seen[0])

    try:
        until(f"cluster {name}", looked, limit)
    except Exception as error:
        error.add_note(f"last seen: {seen}\n{krayne.log()}")
        raise
    return seen[0]


def status(krayne: Krayne) -> Json:
    """`krayne status`."""
    found: Json = krayne("status", "-o", "json").json()
    return found


def condition(krayne: Krayne, wanted: str) -> Json:
    """The connection's view in `krayne status`, once it is in this condition."""
    until(f"condition {wanted}", lambda: bool(status(krayne)["world"]["condition"] == wanted))
    world: Json = status(krayne)["world"]
    return world


def problems(krayne: Krayne) -> dict[str, str]:
    """What `krayne status` says is wrong with files: source -> sentence."""
    return {one["source"]: one["message"] for one in status(krayne)["problems"]}


def service(row: Json, name: str) -> Json:
    """One service of a row."""
    found: Json = next(one for one in row["services"] if one["name"] == name)
    return found


def declare(krayne: Krayne, name: str, text: str) -> Path:
    """A file in the clusters folder, as an editor writes it."""
    path = krayne.folder / "clusters" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def live(plane: ControlPlane, namespace: str, name: str) -> Json | None:
    """The RayCluster as Kubernetes has it."""
    found = plane.api.get(f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters")["items"]
    return next((one for one in found if one["metadata"]["name"] == name), None)


def workers(plane: ControlPlane, namespace: str, name: str) -> int:
    """The replicas of a cluster's first worker group; -1 without one."""
    found = live(plane, namespace, name) or {"spec": {}}
    groups = found["spec"].get("workerGroupSpecs") or [{"replicas": -1}]
    return int(groups[0]["replicas"])


def writes(plane: ControlPlane, namespace: str, user: str = "admin", *, refused: bool = True) -> list[tuple[str, str]]:
    """What a user wrote to Ray objects of a namespace: (verb, name); `refused` counts what the server refused too."""
    return [
        (one["verb"], one["objectRef"].get("name", ""))
        for one in plane.audit()
        if one["user"].get("username") == user  # nobody, where the login failed
        and one["verb"] in WRITES
        and (refused or one["responseStatus"]["code"] < HTTPStatus.BAD_REQUEST)
        and one.get("objectRef", {}).get("resource") == "rayclusters"
        and one["objectRef"].get("namespace") == namespace
    ]


class Service:
    """A TCP server on loopback, in a thread. `answer`: the whole request, up to its end, to the whole answer."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.port = 0
        self.connections = 0
        self._answer = answer
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serve while the block lasts."""
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._end(server), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()

    async def _start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._one, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        for _ in range(TURNS):  # of the loop: those accepted by now get their tasks
            await asyncio.sleep(0)
        me = asyncio.current_task()
        while rest := [task for task in asyncio.all_tasks() if task is not me]:
            for task in rest:
                task.cancel()
            await asyncio.wait(rest, timeout=1)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
        self._writers.add(writer)  # before its task begins: one that is cancelled before that closes nothing
        return self._talk(reader, writer)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.CancelledError):
            await self._serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self._writers.discard(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._answer(await reader.read()))
        await writer.drain()


class Echo(Service):
    """Sends back what comes, as it comes."""

    def __init__(self) -> None:
        super().__init__(bytes)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()


def opened(
    plane: ControlPlane, namespace: str, krayne: Krayne, server: Service, *, remote: int = 9000, local: int = 0
) -> int:
    """A cluster demo with `server` behind a port of its own: the local port that leads there."""
    if not krayne.clusters("-n", namespace):
        krayne("create", "demo", "-n", namespace, "--wait", "--timeout", "60s")
    plane.node.map_port(namespace, "demo-head-*", remote, server.port)
    krayne("tun-open", "demo", f"{remote}:{local}" if local else str(remote))
    row = becomes(krayne, "demo", lambda row: _leads(service(row, f"port-{remote}"), local))
    return int(service(row, f"port-{remote}")["local_port"])


def _leads(one: Json, local: int) -> bool:
    return one["state"] == "ready" and (not local or one["local_port"] == local)


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Send and receive as much as was sent, both at once."""

    def send() -> None:
        with suppress(OSError):  # of a reset: what it took is missing below
            client.sendall(data)

    sending = threading.Thread(target=send)
    sending.start()
    found = bytearray()
    while len(found) < len(data):
        chunk = client.recv(CHUNK)
        if not chunk:
            break
        found += chunk
    sending.join(LIMIT)
    return bytes(found)


WORDS: dict[str, Callable[[int], bytes]] = {
    "any": lambda number: f"{number:09}".encode(),
    "ssh": lambda number: f"SSH-2.0-knock_{number:09}\r\n".encode(),
    "http": lambda number: f"GET /{number:09} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
}


class Knocking:
    """A client that opens a new connection every 10 ms, each in a thread of its own, and counts what it meets.

    `words`: the protocol whose first words it says and awaits back.
    """

    EVERY = 0.01
    PATIENCE = 60.0  # seconds for one connection: more than a forward holds it

    def __init__(self, port: int, words: str = "any") -> None:
        self.served = 0
        self.refused: list[str] = []  # connects that failed
        self.lost: list[str] = []  # connections that ended without an answer
        self.wrong: list[bytes] = []
        self.times: list[float] = []  # when each was served, by the monotonic clock
        self._port = port
        self._say = WORDS[words]
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(200)
        self._knocker = threading.Thread(target=self._knock)

    def __enter__(self) -> Self:
        self._knocker.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._knocker.join()
        self._pool.shutdown()

    def _knock(self) -> None:
        number = 0
        while not self._done.wait(self.EVERY):
            number += 1
            self._pool.submit(self._once, self._say(number))

    def _once(self, data: bytes) -> None:
        try:
            client = socket.create_connection(("127.0.0.1", self._port), timeout=self.PATIENCE)
        except OSError as error:
            with self._lock:
                self.refused.append(str(error))
            return
        with closing(client):
            try:
                client.sendall(data)
                found = exchange_rest(client, len(data))
            except OSError as error:
                found, why = b"", str(error)
            else:
                why = "closed"
        with self._lock:
            if found == data:
                self.served += 1
                self.times.append(time.monotonic())
            elif not found:
                self.lost.append(why)
            else:
                self.wrong.append(found)


def exchange_rest(client: socket.socket, size: int) -> bytes:
    """Receive so many bytes, or what comes before the end."""
    found = b""
    while len(found) < size and (chunk := client.recv(size - len(found))):
        found += chunk
    return found
