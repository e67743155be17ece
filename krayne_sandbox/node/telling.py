"""What the node writes of its pods, owed and paid later while the disk takes nothing.

Invariant: the newest word of a pod is the one that is written in the end; a pod that is gone is owed nothing.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Final

import anyio.abc

from krayne_sandbox.core.meta import Json, metadata
from krayne_sandbox.core.statuses import StatusError
from krayne_sandbox.kinds import PODS
from krayne_sandbox.node.run import Run
from krayne_sandbox.operator.loop import note
from krayne_sandbox.store import Store

LOG: Final = logging.getLogger(__name__)
AGAIN: Final = 5.0  # seconds between two tries at a disk that was full


class Telling:
    """`tasks` carries what is owed."""

    def __init__(self, store: Store, tasks: anyio.abc.TaskGroup) -> None:
        self._store, self._tasks = store, tasks
        self._owed: dict[str, Json | None] = {}

    def status(self, run: Run, status: Json) -> None:
        """Its new status."""
        self._tell(run, status)

    def failed(self, run: Run, why: str) -> None:
        """An event that outlives the pod: a head that cannot start is replaced at once, and its status with it."""
        try:
            note(self._store, run.pod, "Failed", why, kind="Warning", by="sandbox")
        except StatusError as error:
            LOG.warning("pod %s: %s: %s", run.name, why, error.message)

    def gone(self, run: Run) -> None:
        """Nothing of it runs any more: its object goes."""
        self._tell(run, None)

    def _tell(self, run: Run, word: Json | None) -> None:
        if run.uid in self._owed:
            self._owed[run.uid] = word
        elif not self._try(run, word):
            self._owed[run.uid] = word
            self._tasks.start_soon(self._pay, run)

    async def _pay(self, run: Run) -> None:
        while not self._try(run, self._owed[run.uid]):  # noqa: ASYNC110 - room on a disk is no event of ours
            await asyncio.sleep(AGAIN)
        del self._owed[run.uid]

    def _try(self, run: Run, word: Json | None) -> bool:
        """False when it must be tried again."""
        try:
            current = self._store.find(PODS, run.namespace, run.name)
            if current is None or metadata(current)["uid"] != run.uid:
                return True
            if word is None:
                self._store.remove(PODS, run.namespace, run.name)
            else:
                self._store.update(PODS, {**current, "status": word}, subresource="status")
        except StatusError as error:
            if error.code != HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            LOG.warning("pod %s: %s; tried again", run.name, error.message)
            return False
        return True
