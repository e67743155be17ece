"""Processes of the sandbox's pods: started, recognised after a restart, ended with all they have started.

Invariant: nothing is signalled whose start time or mark has not been read first; a pid alone proves nothing.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

HOME_MARK: Final = "KRAYNE_SANDBOX_HOME"  # in the environment of every process of a sandbox
POD_MARK: Final = "KRAYNE_SANDBOX_POD"  # and of one pod
END_TRIES: Final = 100  # looks for what is left after SIGKILL
END_PAUSE: Final = 0.05  # seconds between them: a process's end is no event to somebody who is not its parent
UNKNOWN_CODE: Final = 255  # of a process whose parent we are not


class Process(NamedTuple):
    """One process, told apart from a later one of the same pid by its start time (clock ticks since boot)."""

    pid: int
    start: int


class Seen(NamedTuple):
    """A line of the process table."""

    pid: int
    parent: int
    session: int
    start: int


def look(pid: int) -> Seen | None:
    """What the kernel says of a pid; None when it is gone, or dead and not yet buried."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else Seen(pid, int(fields[1]), int(fields[3]), int(fields[19]))


def is_alive(process: Process) -> bool:
    """Whether this very process runs."""
    seen = look(process.pid)
    return seen is not None and seen.start == process.start


def start(
    argv: Sequence[str], env: Mapping[str, str], folder: Path, log: Path, talk: int | None = None
) -> subprocess.Popen[bytes]:
    """A program in a session of its own, which outlives us; it reads and writes `talk` if given. Raises OSError."""
    with log.open("ab") as sink:
        return subprocess.Popen(  # noqa: S603 - our own command, no shell
            argv, stdin=subprocess.DEVNULL if talk is None else talk, stdout=sink if talk is None else talk,
            stderr=sink, env=dict(env), cwd=folder, start_new_session=True,
        )  # fmt: skip


async def wait_end(process: Process, child: subprocess.Popen[bytes] | None) -> int:
    """Wait for its end, told by the kernel; its exit code as Popen has it, UNKNOWN_CODE for one that is not ours."""
    try:
        watched = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return UNKNOWN_CODE if child is None else child.wait()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        if not is_alive(process):
            return UNKNOWN_CODE if child is None else child.wait()
        loop.add_reader(watched, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)
    return UNKNOWN_CODE if child is None else child.wait()


def family(leader: Process | None, mark: str) -> list[Process]:
    """A session's processes, those that bear the mark (`NAME=value` of the environment), and all these have started."""
    table = {seen.pid: seen for name in os.listdir("/proc") if name.isdecimal() and (seen := look(int(name)))}
    chosen = {pid for pid in table if _bears(pid, mark)}
    if leader is not None and leader.pid in table and table[leader.pid].start == leader.start:
        chosen |= {pid for pid, seen in table.items() if leader.pid in (pid, seen.session)}
    while more := {pid for pid, seen in table.items() if seen.parent in chosen and pid not in chosen}:
        chosen |= more
    return [Process(pid, table[pid].start) for pid in sorted(chosen - {os.getpid()})]


def _bears(pid: int, mark: str) -> bool:
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def send(process: Process, number: signal.Signals) -> None:
    """A signal to this very process."""
    with suppress(OSError):
        handle = os.pidfd_open(process.pid)
        try:
            if is_alive(process):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


async def end_all(leader: Process | None, mark: str) -> list[Process]:
    """Kill a family until nothing of it is left; what would not go."""
    left: list[Process] = []
    for _ in range(END_TRIES):
        left = family(leader, mark)
        if not left:
            break
        for one in left:
            send(one, signal.SIGKILL)
        await asyncio.sleep(END_PAUSE)
    return left
