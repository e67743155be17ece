"""A pod's log: the file its process writes to, from a chosen place on, followed while the pod lives."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

LOOK_PAUSE: Final = 0.25  # seconds between looks at a file that is followed: its growth is no portable event
CHUNK: Final = 65536


async def read_log(
    path: Path, *, follow: bool, tail: int | None, since: float | None, timestamps: bool, limit: int | None,
    is_over: Callable[[], bool],
) -> AsyncIterator[bytes]:  # fmt: skip
    """Its pieces; whole lines when they are stamped, with the time they are read (the file keeps none)."""
    left = limit
    with _opened(path) as file:
        stale = since is not None and os.fstat(file.fileno()).st_mtime < since
        file.seek(0 if tail is None and not stale else _start_of_tail(file, 0 if stale else tail or 0))
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


def _opened(path: Path) -> BinaryIO:
    """The file; nothing to read when it is not there yet."""
    return path.open("rb") if path.exists() else open(os.devnull, "rb")


def _start_of_tail(file: BinaryIO, lines: int) -> int:
    """Where the last so many lines begin."""
    at = file.seek(0, os.SEEK_END)
    if not lines:
        return at
    found, first = 0, True
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
