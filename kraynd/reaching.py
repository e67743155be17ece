"""The methods that reach into pods: logs, exec, and ssh's hosts. A group of `kraynd.methods.Methods`.

Owns the frames of an upgraded connection. Invariant: however a stream ends, its client gets one END that says how,
and nothing is left open when either side goes away.
"""

# ruff: noqa: ARG001, ARG002 - handlers have one signature, whether they need all of it or not

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Protocol

import anyio
from anyio.abc import ByteStream

from kraynd.calls import Call, Upgrade
from kraynd.connection import Link
from kraynd.core import logtail, pods
from kraynd.core.model import ClusterKey, Json
from kraynd.kube import podapi
from kraynd.podhttp import ask
from krayne import frames, messages
from krayne.errors import KrayneError, KubeConnectionError, UsageError

log = logging.getLogger("kraynd.reaching")

LOOK_AGAIN = 1.0  # seconds between two looks at a service's log: its server has no event for a new line
READ_SIZE = 65_536
COMMAND_LIMIT = 64 * 1024  # bytes of a command line: it travels in a URL
Relay = Callable[[], Awaitable[dict[str, object] | None]]  # what END is to say; None when nobody hears it
BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError)  # the client's side
GONE = (*BROKEN, OSError)


class Finder(Protocol):
    """Which cluster a user means."""

    def find(self, name: str, namespace: str | None) -> ClusterKey:
        """Raises ClusterNotFoundError."""


class Hosts(Protocol):
    """ssh's view of the clusters (`kraynd.sshhosts`)."""

    def show(self, name: str | None, namespace: str | None) -> messages.SshHosts:
        """The hosts, or the one that is meant."""


class Reaching:
    """`link` gives the connection of the moment."""

    def __init__(self, finder: Finder, link: Callable[[], Link | None], hosts: Hosts) -> None:
        self._finder = finder
        self._link = link
        self._hosts = hosts

    async def ssh_hosts(self, call: Call, params: messages.ListParams) -> messages.SshHosts:
        """Our ssh configuration."""
        return self._hosts.show(params.name, None if params.all_namespaces else params.namespace)

    async def pod_logs(self, call: Call, params: messages.LogParams) -> Upgrade:
        """A log; the connection ends with it."""
        link = self._connected()
        if params.tail is not None and params.tail < 0:
            raise UsageError(f"{params.tail} lines cannot be shown", hint="--tail 100")
        if params.service:
            key = self._finder.find(params.name, params.namespace)
            pod = self._head(link, key)
            pieces = self._service_log(link, key, params)
        else:
            pod = self._pod(link, params)
            place = _place(pod)
            pieces = podapi.log(
                link.world.client, place, follow=params.follow, tail=params.tail, previous=params.previous
            )

        async def body(stream: ByteStream, first: bytes) -> None:
            async def relay() -> dict[str, object]:
                async with aclosing(pieces):
                    async for piece in pieces:
                        await _send(stream, frames.STDOUT, piece)
                return {"exit": 0}

            await _until_gone(stream, relay)

        return Upgrade(messages.Streaming(pod=pods.name_of(pod), container=pods.container_of(pod)), body)

    async def pod_exec(self, call: Call, params: messages.ExecParams) -> Upgrade:
        """A command; the connection ends with it."""
        if not params.command:
            raise UsageError("there is no command to run", hint=f"krayne exec {params.name} -- ls")
        if sum(len(one.encode()) for one in params.command) > COMMAND_LIMIT:
            raise UsageError("the command is longer than 64 KiB", hint="put it into a file: krayne cp")
        link = self._connected()
        pod = self._pod(link, params)
        if pods.phase_of(pod) != "Running" or pods.is_terminating(pod):
            raise KrayneError(
                f"pod {pods.name_of(pod)} does not run commands now: it is {_condition(pod)}",
                kind="rejected", hint=f"krayne wait {params.name}", retryable=True,
            )  # fmt: skip

        async def body(stream: ByteStream, first: bytes) -> None:
            await _Exec(stream, first, link, _place(pod), params).run()

        return Upgrade(messages.Streaming(pod=pods.name_of(pod), container=pods.container_of(pod)), body)

    # Whom to ask.

    def _connected(self) -> Link:
        link = self._link()
        if link is None:
            raise KubeConnectionError("there is no connection to Kubernetes", hint="krayne status")
        return link

    def _pod(self, link: Link, params: messages.PodParams) -> Json:
        """The pod that is meant. Raises KrayneError."""
        key = self._finder.find(params.name, params.namespace)
        if params.worker is None:
            return self._head(link, key)
        found = pods.chosen_worker(link.world.pods_of(key), params.worker)
        if isinstance(found, dict):
            return found
        said = f"there is no worker pod {params.worker}" if params.worker else f"{key.name} has {len(found)} workers"
        raise UsageError(said, hint=f"--worker {' or '.join(found[:8])}" if found else f"krayne describe {key.name}")

    def _head(self, link: Link, key: ClusterKey) -> Json:
        head = pods.newest_head(link.world.pods_of(key))
        if head is None:
            raise KrayneError(
                f"{key.name} has no head pod now", kind="pod-gone", hint=f"krayne wait {key.name}", retryable=True
            )
        return head

    async def _service_log(
        self, link: Link, key: ClusterKey, params: messages.LogParams
    ) -> AsyncGenerator[bytes, None]:
        """From the head's status server: the end of the log, then what is added to it."""
        before = await self._service_text(link, key, params.service)
        yield logtail.last_lines(before, params.tail)
        while params.follow:
            await anyio.sleep(LOOK_AGAIN)
            after = await self._service_text(link, key, params.service)
            yield logtail.added(before, after)
            before = after

    async def _service_text(self, link: Link, key: ClusterKey, service: str) -> bytes:
        target = pods.head_target(link.world.pods_of(key), key)
        if target is None or not target.running:
            raise KrayneError(f"the head of {key.name} does not run now", kind="pod-gone", retryable=True)
        try:
            status, body = await ask(link.pool, target, f"/logs/{service}")
        except TimeoutError:
            status, body = 0, b""
        if status == HTTPStatus.NOT_FOUND:
            raise UsageError(f"{key.name} keeps no service {service}", hint="notebook, ssh or code-server")
        if status != HTTPStatus.OK:
            raise KrayneError(f"the head of {key.name} tells nothing of its services yet", retryable=True)
        return body


class _Exec:
    """One command between a client and a pod."""

    def __init__(
        self, stream: ByteStream, first: bytes, link: Link, place: podapi.Place, params: messages.ExecParams
    ) -> None:
        self._stream = stream
        self._frames = frames.Frames(first)
        self._endpoint = link.world.transport
        self._place = place
        self._params = params
        self._fault: KrayneError | None = None

    async def run(self) -> None:
        """To its end, or its client's."""
        told = await _told(self._relayed)
        if told is not None:
            await _end(self._stream, told)

    async def _relayed(self) -> dict[str, object] | None:
        """How it ended; None when the client went away first."""
        params, ended, gone = self._params, None, False
        async with podapi.run(
            self._endpoint, self._place, params.command, stdin=params.stdin, tty=params.tty
        ) as process:
            if params.tty and params.width > 0 and params.height > 0:
                await process.resize(params.width, params.height)
            async with anyio.create_task_group() as tasks:

                async def feed() -> None:
                    nonlocal gone
                    gone = await self._feed(process)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(feed)
                ended = await self._show(process)
                tasks.cancel_scope.cancel()
        if self._fault is not None:
            raise self._fault
        if gone and ended is None:
            return None
        if ended is None:
            raise KubeConnectionError("the connection to the pod was lost", retryable=True)
        if ended.code is None:
            raise KrayneError(ended.message, kind="rejected", hint="is the program in the image?")
        return {"exit": ended.code}

    async def _show(self, process: podapi.Process) -> podapi.Ended | None:
        """Its output to the client; how it ended."""
        try:
            async for channel, data in process.output():
                if channel == podapi.STATUS:
                    return podapi.ended(data)
                if channel in (podapi.STDOUT, podapi.STDERR):
                    await _send(self._stream, frames.STDOUT if channel == podapi.STDOUT else frames.STDERR, data)
        except KrayneError as error:
            self._fault = error
        except BROKEN:
            return None
        return None

    async def _feed(self, process: podapi.Process) -> bool:
        """The client's input to the command; True once the client is gone."""
        try:
            while True:
                while (one := self._frames.take()) is not None:
                    await self._pass(process, *one)
                self._frames.feed(await self._stream.receive(READ_SIZE))
        except KrayneError as error:
            self._fault = error
            return False
        except ConnectionError:
            # The pod's side is over; what it said last is still to be read, and its reader knows the end.
            await anyio.sleep_forever()
            return False
        except (anyio.EndOfStream, *GONE):
            return True

    async def _pass(self, process: podapi.Process, channel: int, data: bytes) -> None:
        if channel == frames.STDIN and data:
            await process.send(data)
        elif channel == frames.STDIN:
            await process.end_input()
        elif channel == frames.RESIZE:
            size = frames.read_json(data)
            await process.resize(_dimension(size.get("width")), _dimension(size.get("height")))


def _dimension(value: object) -> int:
    return min(max(value, 1), 10_000) if isinstance(value, int) else 80


def _place(pod: Json) -> podapi.Place:
    return podapi.Place(str(pod["metadata"]["namespace"]), pods.name_of(pod), pods.container_of(pod))


def _condition(pod: Json) -> str:
    return "being deleted" if pods.is_terminating(pod) else pods.phase_of(pod).lower()


async def _told(relay: Relay) -> dict[str, object] | None:
    """How a relay ended, as END says it. This is a wall: a fault of ours in one stream ends that stream alone."""
    try:
        return await relay()
    except KrayneError as error:
        return {"kind": error.kind, "message": error.message, "hint": error.hint}
    except BROKEN:
        return None
    except OSError:
        return {"kind": "api-unreachable", "message": "the connection to the pod was lost", "hint": "krayne status"}
    except Exception:
        log.exception("a stream from a pod failed")
        return {"kind": "internal", "message": "the stream failed in the daemon", "hint": "krayne daemon logs"}


async def _until_gone(stream: ByteStream, relay: Relay) -> None:
    """Run it until it ends, or its client does."""
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            try:
                while True:
                    await stream.receive(READ_SIZE)
            except (anyio.EndOfStream, *GONE):
                tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        told = await _told(relay)
        if told is not None:
            await _end(stream, told)
        tasks.cancel_scope.cancel()


async def _send(stream: ByteStream, channel: int, data: bytes) -> None:
    # No deadline: a reader that pauses (a pager) pauses the pod's side too, and nothing piles up.
    for begin in range(0, len(data), frames.PIECE):
        await stream.send(frames.frame(channel, data[begin : begin + frames.PIECE]))


async def _end(stream: ByteStream, told: dict[str, object]) -> None:
    try:
        await stream.send(frames.json_frame(frames.END, told))
    except GONE:
        log.debug("the client of a stream was gone before its end")
