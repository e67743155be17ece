"""Suspends clusters nobody uses, where their user asked for that: looks, announces, suspends.

Owns the clocks, which a restart of the daemon starts anew; decides nothing itself (core/idle). Never resumes: a
connection to a suspended cluster's port waits and wakes nothing.
"""

import logging
from collections.abc import Mapping
from typing import Protocol

import anyio
import msgspec

from kraynd.core.idle import Idle, Use, judge
from kraynd.core.model import ClusterKey
from krayne.errors import KrayneError

log = logging.getLogger("kraynd.idling")

LOOK_EVERY = 20.0  # seconds; a third of the shortest limit
RUNNING = frozenset({"PENDING", "RUNNING"})


class Idled(Protocol):
    """What this needs of the daemon."""

    def idle_limits(self) -> Mapping[ClusterKey, float]:
        """The clusters that run and are to be suspended when idle, with their seconds."""

    def traffic(self, key: ClusterKey) -> tuple[int, int]:
        """Open connections, and bytes so far, of the forwards people work through."""

    async def jobs_run(self, key: ClusterKey) -> bool | None:
        """Whether a Ray job runs; None when that cannot be known."""

    async def suspend(self, key: ClusterKey, why: str) -> object:
        """Suspend it. Raises KrayneError."""

    def note_idle(self, key: ClusterKey, note: str) -> None:
        """Say this to whoever looks at the cluster; empty for nothing."""


class Idling:
    """The clocks of the clusters that have a limit."""

    def __init__(self, host: Idled) -> None:
        self._host = host
        self._clocks: dict[ClusterKey, Idle] = {}

    async def run(self) -> None:
        """Look at every such cluster from time to time, until cancelled."""
        while True:
            await anyio.sleep(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """One look at all of them, at the same time: a silent one delays nobody."""
        limits = self._host.idle_limits()
        for key in [key for key in self._clocks if key not in limits]:
            del self._clocks[key]
            self._host.note_idle(key, "")
        async with anyio.create_task_group() as tasks:
            for key, limit in limits.items():
                tasks.start_soon(self._look_at, key, limit)

    async def _look_at(self, key: ClusterKey, limit: float) -> None:
        jobs = await self._host.jobs_run(key)
        connections, moved = self._host.traffic(key)  # last: nothing can begin between this and the verdict
        verdict = judge(self._clocks.get(key), Use(connections, moved, jobs), limit, anyio.current_time())
        self._clocks[key] = verdict.idle
        if not verdict.suspend:
            self._host.note_idle(key, verdict.note)
            return
        log.info("%s: %s", key, verdict.note)
        try:
            await self._host.suspend(key, verdict.note)
        except KrayneError as error:
            log.warning("%s is idle and was not suspended: %s", key, error)


def any_runs(body: bytes) -> bool | None:
    """Whether Ray's list of jobs has one that is not over; None for what is no such list."""
    try:
        found = msgspec.json.decode(body, type=list[dict[str, object]])
    except (msgspec.DecodeError, RecursionError):
        return None
    return any(one.get("status") in RUNNING for one in found)
