"""A pod's log: the file its process writes to, from a chosen place on, followed while the pod lives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

LOOK_PAUSE: Final = 0.25  # seconds between looks at a file that is followed: its growth is no portable event
CHUNK: Final = 65536


async def read_log(
    path: Path, *, follow: bool, tail: int | None, since: float | None, timestamps: bool, limit: int | None,
    is_over: Callable[[], bool],
) -> AsyncIterator[bytes]:  # fmt: skip
    """Its pieces; whole lines when they are stamped, with the time they are read (the file keeps none)."""
    if not path.exists():
        return
    left = limit
    with path.open("rb") as file:
        stale = since is not None and path.stat().st_mtime < since
        file.seek(0 if tail is None and not stale else _start_of_tail(path, 0 if stale else tail or 0))
        while True:
            over = is_over()
            while data := file.readline() if timestamps else file.read(CHUNK):
                if timestamps:
                    data = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ").encode() + data
                data = data if left is None else data[:left]
                left = None if left is None else left - len(data)
                yield data
                if left == 0:
                    return
            if over or not follow:
                return
            await asyncio.sleep(LOOK_PAUSE)


def _start_of_tail(path: Path, lines: int) -> int:
    """Where the last so many lines begin."""
    with path.open("rb") as file:
        at = file.seek(0, 2)
        if not lines:
            return at
        found = 0
        first = True
        while at > 0:
            size = min(CHUNK, at)
            at -= size
            file.seek(at)
            data = file.read(size)
            end = len(data) - 1 if first and data.endswith(b"\n") else len(data)
            first = False
            while (place := data.rfind(b"\n", 0, end)) >= 0:
                found += 1
                if found == lines:
                    return at + place + 1
                end = place
    return 0
