"""Waiting for a cluster and watching all of them: driven by changes, never by a timer.

Owns the conditions of `wait` and the events of `watch`. Invariant: a view is looked up when it is sent, so a slow
client gets fewer events, never old ones.
"""

from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import anyio

from kraynd.calls import Call
from kraynd.changes import Subscription
from kraynd.core.model import ClusterKey
from kraynd.core.text import duration
from krayne import messages, rpc
from krayne.errors import ClusterNotFoundError, ClusterTimeoutError, ConfigValidationError, UsageError
from krayne.messages import ClusterView

WAIT_LIMIT = 86_400.0  # seconds: a day; nobody waits longer for a cluster
CONDITIONS = "ready, deleted, suspended, open or service=NAME"
SETTLED_PORTS = (messages.OFF, messages.PORT_TAKEN)  # their listeners are not waited for


class Board(Protocol):
    """What waiting needs of the daemon."""

    def clusters(self) -> tuple[ClusterView, ...]:
        """Everything known."""

    def cluster(self, key: ClusterKey) -> ClusterView | None:
        """One cluster."""

    def subscribe(self, since: int | None = None) -> AbstractContextManager[Subscription]:
        """Hear of changes."""


def check_condition(condition: str) -> None:
    """Raises UsageError for one we do not know."""
    kind, _, service = condition.partition("=")
    if condition not in ("ready", "deleted", "suspended", "open") and not (kind == "service" and service):
        raise UsageError(f"there is no condition {condition[:40]!r}", hint=f"one of {CONDITIONS}")


def holds(view: ClusterView | None, condition: str) -> bool:
    """Whether the condition is met now. Pure."""
    if condition == "deleted":
        return view is None or (view.phase == "absent" and not view.declared)
    if view is None:
        return False
    if condition == "ready":  # a port that is shown is there: its listener may open a moment after the last pod
        return view.phase == "ready" and not any(one.state == messages.HOLDING for one in view.services)
    if condition == "open":
        return all(one.listening or one.state in SETTLED_PORTS for one in view.services)
    if condition == "suspended":
        return view.phase == "suspended"
    name = condition.partition("=")[2]
    return any(one.name == name and one.state == messages.READY for one in view.services)


def hopeless(view: ClusterView | None, condition: str) -> Exception | None:
    """The error that makes waiting on pointless, if there is one. Pure."""
    if condition == "deleted" or view is None:
        return None
    name = condition.partition("=")[2]
    if view.phase == "invalid":
        return ConfigValidationError(
            f"{view.name} cannot become ready: {view.reason}", hint=f"krayne describe {view.name}"
        )
    offered = [one.name for one in view.services]
    if name and offered and name not in offered:
        return UsageError(f"{view.name} has no service {name}", hint=f"it has {', '.join(offered)}")
    return None


async def wait_for(board: Board, call: Call, key: ClusterKey, condition: str, seconds: float) -> messages.WaitResult:
    """Return when the condition holds; tells the caller of each change. Raises ClusterTimeoutError and others."""
    check_condition(condition)
    seconds = min(max(seconds, 0.0), WAIT_LIMIT)
    with anyio.move_on_after(seconds), board.subscribe() as subscription:
        told: ClusterView | None = None
        while not holds(view := board.cluster(key), condition):
            if view is None:
                raise ClusterNotFoundError(f"the cluster {key} is gone", hint="krayne ls -A")
            fault = hopeless(view, condition)
            if fault is not None:
                raise fault
            if call.id is not None and _differs(view, told):
                told = view
                await call.caller.send(
                    rpc.encode_notification("call.progress", messages.Progress(id=call.id, cluster=view))
                )
            while not any(changed == key for changed, _ in await subscription.changes()):
                if subscription.overflowed:
                    break
        return messages.WaitResult(met=True, cluster=view)
    raise ClusterTimeoutError(
        _what_is_missing(board.cluster(key), key, condition, seconds), hint=f"krayne describe {key.name}"
    )


def _differs(view: ClusterView, told: ClusterView | None) -> bool:
    """Whether a person would see a difference."""
    return told is None or (view.phase, view.reason, view.workers, view.services) != (
        told.phase,
        told.reason,
        told.workers,
        told.services,
    )


def _what_is_missing(view: ClusterView | None, key: ClusterKey, condition: str, seconds: float) -> str:
    waited = f"{key.name} is not {condition} after {duration(seconds)}"
    if condition.startswith("service="):
        waited = f"the service {condition[8:]} of {key.name} is not ready after {duration(seconds)}"
    if view is None:
        return waited
    why = view.phase + (f": {view.reason}" if view.reason else "")
    for one in view.services:
        if condition == f"service={one.name}" or (view.phase == "ready" and one.state == messages.HOLDING):
            why += f"; {one.name} is {one.state}" + (f": {one.reason}" if one.reason else "")
    return f"{waited} ({why})"


class Watch:
    """One `cluster.watch`: a follower that turns changes into events."""

    def __init__(self, board: Board, call: Call, params: messages.WatchParams) -> None:
        self.number = 0
        self._board = board
        self._caller = call.caller
        self._namespace = params.namespace
        self._held = ExitStack()
        self._subscription = self._held.enter_context(board.subscribe(params.since))
        self.resumed = self._subscription.resumed
        self.revision = self._subscription.revision

    def snapshot(self) -> tuple[ClusterView, ...]:
        """What is to be seen now."""
        return tuple(one for one in self._board.clusters() if self._namespace in (None, one.namespace))

    async def run(self) -> None:
        """Send events until closed, or until some were lost: then say `resync` and end."""
        while True:
            for key, revision in await self._subscription.changes():
                if self._namespace in (None, key.namespace):
                    await self._send(key, revision)
            if self._subscription.overflowed:
                event = messages.WatchEvent(watch=self.number, revision=self._subscription.revision, kind="resync")
                await self._caller.send(rpc.encode_notification("watch.event", event))
                return

    def close(self) -> None:
        """Hear of nothing more."""
        self._held.close()

    async def _send(self, key: ClusterKey, revision: int) -> None:
        view = self._board.cluster(key)
        event = messages.WatchEvent(
            watch=self.number,
            revision=revision,
            kind="removed" if view is None else "changed",
            name=key.name,
            namespace=key.namespace,
            cluster=view,
        )
        await self._caller.send(rpc.encode_notification("watch.event", event))
