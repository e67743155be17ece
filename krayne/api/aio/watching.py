"""`watch`: every change of every cluster, as typed events, over restarts of the daemon.

Invariant: who applies the events in order has what the daemon has, also when a restart or an overflow lost some: then
a snapshot is compared with what was told, and only the differences are told.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any

from krayne.api.aio.calling import Talk
from krayne.api.asking import Ask, Json, LostError
from krayne.api.types import ClusterEvent, ClusterInfo, cluster_info

Key = tuple[str, str]
MOST_LOSSES = 5  # connections in a row that end before the watch begins: no restart looks like that


async def watch(
    namespace: str | None = None, *, since: int | None = None, lost: Callable[[], None] | None = None
) -> AsyncGenerator[ClusterEvent, None]:
    """Every change of the clusters, beginning with all that are there; it never ends by itself.

    Args:
        namespace: of this Kubernetes namespace alone; None: of all.
        since: the `revision` of the last event seen by an earlier watch: only what changed since is told, where the
            daemon still knows it; else all that is there.
        lost: called when the daemon went away; the next `synced` or change says that it is back.

    Yields:
        ClusterEvent of kind `changed` (with the cluster), `removed`, or `synced` (all that was there has been told).
        A slow reader gets fewer events, never old ones. Break out of the loop to end it.

    Raises:
        DaemonUnreachableError: the daemon is gone and cannot be started.

    Example:
        >>> from anyio import run
        >>> from krayne.api.aio import watch
        >>> async def main() -> None:
        ...     async for event in watch():
        ...         if event.kind == "synced":
        ...             break
        ...         print(event.kind, event.name)
        >>> run(main)
        changed demo
    """
    told, losses = _Told(), 0
    while True:
        talk = await Talk.begin()
        try:
            params = {"namespace": namespace, "since": since}
            started = await talk.call(Ask("cluster.watch", params))
            if started["clusters"] is not None:
                since = int(started["revision"])
                for event in told.snapshot(started["clusters"], since):
                    yield event
                yield ClusterEvent("synced", since)
            losses = 0
            while True:
                line = await talk.line()
                if line.get("method") != "watch.event":
                    continue
                found = line["params"]
                if found["kind"] == "resync":
                    since = None
                    break
                since = found["revision"]
                yield told.event(found)
        except LostError:
            # A new daemon knows other revisions: it sends a snapshot, which is compared.
            losses += 1
            if lost is not None:
                lost()
            if losses > MOST_LOSSES:
                raise
        finally:
            await talk.close()


class _Told:
    """What the reader knows."""

    def __init__(self) -> None:
        self._known: dict[Key, ClusterInfo] = {}

    def event(self, found: Json) -> ClusterEvent:
        """A change as it came."""
        key = (found["namespace"], found["name"])
        if found["cluster"] is None:
            self._known.pop(key, None)
            return ClusterEvent("removed", found["revision"], found["name"], found["namespace"])
        info = self._known[key] = cluster_info(found["cluster"])
        return ClusterEvent("changed", found["revision"], info.name, info.namespace, info)

    def snapshot(self, views: Iterable[Any], revision: int) -> Iterator[ClusterEvent]:
        """What is different from what was told."""
        now = {(info.namespace, info.name): info for info in map(cluster_info, views)}
        before, self._known = self._known, now
        for namespace, name in before.keys() - now.keys():
            yield ClusterEvent("removed", revision, name, namespace)
        for key, info in now.items():
            if before.get(key) != info:
                yield ClusterEvent("changed", revision, info.name, info.namespace, info)
