"""The pool of tunnels into pods: warm where used, none where not, and never a new connection behind a stalled one.

Owns the tunnels of one world and the tasks that dial them. One tunnel carries all ports of a pod. Dials are shared by
those who wait; a failed dial is their error, and when to try again is theirs to decide.
"""

from collections.abc import Callable

import anyio
import anyio.abc
import msgspec

from kraynd.core.model import PodTarget
from kraynd.core.pipe import End
from kraynd.kube.dial import dial, dial_order
from kraynd.kube.stream import PodStream, StreamEnd
from kraynd.kube.transport import DialLimits, Endpoint
from kraynd.kube.wire import RECEIVE_BUFFER, Wire, WireLimits
from krayne.errors import KrayneError, KubeConnectionError

__all__ = ["PodStats", "PodStream", "StreamEnd", "TunnelPool", "TunnelSettings"]

SHARE = 8  # connections a tunnel may carry while more tunnels may be dialled
WAITERS_FOR_A_DIAL = 16  # this many more waiters are worth one more tunnel at once
STALLED_TOO = 2  # times `per_pod` tunnels, when some of them are stalled


class TunnelSettings(msgspec.Struct, frozen=True):
    """`transport`: auto, spdy or websocket. `idle`: seconds a used pod's tunnel stays warm; `extra_idle`: those
    beyond the spare ones, and those of a pod nobody uses. `spare`: idle tunnels kept ready beside busy ones.
    `per_pod`, `total`: most tunnels."""

    transport: str = "auto"
    idle: float = 600.0
    extra_idle: float = 30.0
    spare: int = 1
    per_pod: int = 8
    total: int = 256
    dial: DialLimits = DialLimits()
    wire: WireLimits = WireLimits()


class PodStats(msgspec.Struct, frozen=True):
    """One pod's tunnels now, by transport; open connections; bytes of all its open tunnels, framing included."""

    pod: str
    tunnels: tuple[str, ...]
    streams: int
    bytes_in: int
    bytes_out: int


class _Dial:
    """A dial under way, and who waits for it."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: KrayneError | None = None


class _Pod:
    """The tunnels of one pod."""

    def __init__(self, target: PodTarget) -> None:
        self.target = target
        self.wires: list[Wire] = []
        self.dials: list[_Dial] = []
        self.waiting = 0
        self.used = False  # by somebody's connection, not by the daemon's own questions alone
        self.gone = False

    def usable(self) -> list[Wire]:
        """Those that take one more connection."""
        return [wire for wire in self.wires if wire.usable]

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.target.namespace}/pods/{self.target.pod}/portforward"


class TunnelPool:
    """One per world. `run` must be running; everything else is called on its event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        remembered: str | None = None,
        on_transport: Callable[[str], None] | None = None,
        settings: TunnelSettings | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._remembered = remembered
        self._on_transport = on_transport
        self._settings = settings or TunnelSettings()
        self._pods: dict[str, _Pod] = {}
        self._wires = 0
        self._buffer = memoryview(bytearray(RECEIVE_BUFFER))
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every tunnel is closed."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._tasks = None
            for pod in list(self._pods.values()):
                pod.gone = True
                for wire in list(pod.wires):
                    wire.close("the daemon lets go of this Kubernetes cluster")

    def open_now(self, target: PodTarget, port: int, local: End, first: bytes = b"") -> PodStream | None:
        """Connect through a warm tunnel within this tick, `first` in the same write; None when one must be dialled."""
        pod = self._pods.get(target.uid)
        if pod is None:
            return None
        pod.used = True
        usable = pod.usable()
        wire = self._place(pod, usable)
        return None if wire is None else self._open_on(pod, usable, wire, port, local, first)

    async def open(
        self, target: PodTarget, port: int, local: End, first: bytes = b"", *, aside: bool = False
    ) -> PodStream:
        """Connect, dialling if needed. `aside`: a question of the daemon's own, for which nothing is kept warm.

        Raises KrayneError: api-unreachable, dial-timeout (retryable), login-needed, forbidden, pod-gone.
        """
        pod = self._pods.get(target.uid)
        if pod is None:
            pod = self._pods[target.uid] = _Pod(target)
        pod.used = pod.used or not aside
        wire = self._place(pod, pod.usable())
        if wire is None:
            pod.waiting += 1
            try:
                wire = await self._dialled(pod)
            finally:
                pod.waiting -= 1
                self._forget_empty(pod)
        return self._open_on(pod, pod.usable(), wire, port, local, first)

    def drop(self, uid: str) -> None:
        """The pod is gone: its tunnels take no more, and end soon."""
        pod = self._pods.pop(uid, None)
        if pod is not None:
            pod.gone = True
            for wire in list(pod.wires):
                wire.retire("the pod is gone", pod_gone=True)

    def probe(self) -> None:
        """Nothing open can be trusted (the machine slept): each tunnel must answer within seconds."""
        for pod in list(self._pods.values()):
            for wire in list(pod.wires):
                wire.probe()

    @property
    def stats(self) -> dict[str, PodStats]:
        """By pod uid."""
        return {uid: _stats(pod) for uid, pod in self._pods.items()}

    # Placement.

    def _place(self, pod: _Pod, usable: list[Wire]) -> Wire | None:
        """The tunnel for one more connection: an idle one, else a shared one, else None for "dial"."""
        if not usable:
            return None if self._may_dial(pod, 0) or pod.dials else self._least(pod.wires)
        best = self._least(usable)
        if best is not None and len(best.streams) >= SHARE and (self._may_dial(pod, len(usable)) or pod.dials):
            return None
        return best

    @staticmethod
    def _least(wires: list[Wire]) -> Wire | None:
        open_ones = [wire for wire in wires if not (wire.lost or wire.session.retiring)]
        return min(open_ones, key=lambda wire: (len(wire.streams), wire.session.in_flight), default=None)

    def _may_dial(self, pod: _Pod, usable: int) -> bool:
        most = self._settings.per_pod
        on_the_way = len(pod.dials)
        return (
            usable + on_the_way < most
            and len(pod.wires) + on_the_way < STALLED_TOO * most
            and self._wires + on_the_way < self._settings.total
        )

    def _open_on(self, pod: _Pod, usable: list[Wire], wire: Wire, port: int, local: End, first: bytes) -> PodStream:
        stream = wire.open(port, local, first)
        if pod.used:
            idle = len(pod.dials) + sum(one.idle for one in usable)
            if idle < self._settings.spare and self._may_dial(pod, len(usable)):
                self._start_dial(pod)
        return stream

    # Dialling.

    async def _dialled(self, pod: _Pod) -> Wire:
        while True:
            attempt = self._join_dial(pod)
            await attempt.done.wait()
            if pod.gone:
                raise KrayneError(f"pod {pod.target.pod} is gone", kind="pod-gone")
            wire = self._place(pod, pod.usable())
            if wire is None and attempt.error is not None:
                wire = self._least(pod.usable())
            if wire is not None:
                return wire
            if attempt.error is not None:
                raise _again(attempt.error)

    def _join_dial(self, pod: _Pod) -> _Dial:
        wanted = 1 + pod.waiting // WAITERS_FOR_A_DIAL
        usable = len(pod.usable())
        if not pod.dials or (len(pod.dials) < wanted and self._may_dial(pod, usable)):
            return self._start_dial(pod)
        return pod.dials[0]

    def _start_dial(self, pod: _Pod) -> _Dial:
        if self._tasks is None:
            raise KrayneError("no tunnels are served", kind="api-unreachable", retryable=True)
        attempt = _Dial()
        pod.dials.append(attempt)
        self._tasks.start_soon(self._dial, pod, attempt)
        return attempt

    async def _dial(self, pod: _Pod, attempt: _Dial) -> None:
        order = dial_order(self._settings.transport, self._remembered)
        try:
            link = await dial(self._endpoint, pod.path, order, self._settings.dial)
            if pod.gone:
                link.upgraded.transport.abort()
                return
            self._learn(link.kind)
            wire = Wire(link, pod.target, self, self._buffer, self._settings.wire)
            pod.wires.append(wire)
            self._wires += 1
            wire.start()
            if wire.lost:
                raise KubeConnectionError("the tunnel broke as soon as it was open", retryable=True)
        except KrayneError as error:
            attempt.error = error
        finally:
            pod.dials.remove(attempt)
            attempt.done.set()
            self._forget_empty(pod)

    def _learn(self, kind: str) -> None:
        if kind != self._remembered:
            self._remembered = kind
            if self._on_transport is not None:
                self._on_transport(kind)

    def keep_idle(self, seconds: float) -> None:
        """How long a used pod's tunnel stays warm, for every tunnel that falls idle from now on."""
        self._settings = msgspec.structs.replace(self._settings, idle=seconds)

    # The tunnels call these.

    def wire_idle(self, wire: Wire) -> float:
        """Part of Owner."""
        pod = self._pods.get(wire.target.uid)
        idle = [one for one in pod.wires if one.idle] if pod is not None and pod.used else []
        keep = idle[: max(1, self._settings.spare)]
        return self._settings.idle if wire in keep else self._settings.extra_idle

    def wire_lost(self, wire: Wire) -> None:
        """Part of Owner."""
        self._wires -= 1
        pod = self._pods.get(wire.target.uid)
        if pod is not None and wire in pod.wires:
            pod.wires.remove(wire)
            self._forget_empty(pod)

    def _forget_empty(self, pod: _Pod) -> None:
        if not (pod.wires or pod.dials or pod.waiting) and self._pods.get(pod.target.uid) is pod:
            del self._pods[pod.target.uid]


def _again(error: KrayneError) -> KrayneError:
    """The same error for one more waiter: an exception object carries one traceback."""
    copy = type(error)(error.message, hint=error.hint, kind=error.kind, retryable=error.retryable, data=error.data)
    copy.__cause__ = error.__cause__
    return copy


def _stats(pod: _Pod) -> PodStats:
    return PodStats(
        pod=f"{pod.target.namespace}/{pod.target.pod}",
        tunnels=tuple(wire.kind for wire in pod.wires),
        streams=sum(len(wire.streams) for wire in pod.wires),
        bytes_in=sum(wire.bytes_in for wire in pod.wires),
        bytes_out=sum(wire.bytes_out for wire in pod.wires),
    )
