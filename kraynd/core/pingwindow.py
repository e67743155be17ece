"""Flow control upward, made of PINGs: how much may be in flight towards each of the server's frame workers.

The server deals frames to five workers by stream id modulo 5, and PINGs in turn; each queue holds 50 frames, and a full
one stops the whole connection. A PING waits behind the data queued before it, so its echo says that all of it was taken
by the pod. SETTINGS take their turn with the PINGs and are dropped without an answer, so an empty one passes the turn
of an idle worker. Bounds and turns are those of moby/spdystream (connection.go, Serve); elsewhere a missing echo only
means "add no load here".
"""

from collections import deque
from typing import Final, NamedTuple

from kraynd.core.spdy import MAX_ID, ping, settings

WORKERS: Final = 5
FIRST_WINDOW: Final = 512 * 1024  # bytes in flight to one worker before anything is known of the path
LARGEST_WINDOW: Final = 4 * 1024 * 1024  # bytes a stalled pod process may leave on the node for each worker
DATA_FRAMES: Final = 32  # data frames in flight: the queue of 50 never fills
QUEUE_SAFE: Final = 46  # frames of any kind; at this depth not even a PING may be added
PING_FRAMES: Final = 12  # ask after this many frames, so that small writes do not wait for an answer
PASSES: Final = 12  # turns of one worker that pass before it is asked after all
LAST_PING: Final = MAX_ID // 2 - 16  # then the tunnel is retired
_PASS: Final = settings()


class _Mark(NamedTuple):
    number: int
    sent: int
    frames: int
    queued: int
    at: float


class Worker:
    """One of the server's queues as far as it can be known from here. Times are monotonic seconds."""

    __slots__ = ("acked", "asked", "doubtful", "frames", "frames_acked", "index", "marks", "queued", "queued_acked",
                 "sent", "streams", "window")  # fmt: skip

    def __init__(self, index: int) -> None:
        self.index = index
        self.streams = 0
        self.window = FIRST_WINDOW
        self.sent = 0  # bytes of data, ever
        self.acked = 0
        self.asked = 0  # `sent` when last asked
        self.frames = 0  # data frames, ever
        self.frames_acked = 0
        self.queued = 0  # frames of every kind, ever
        self.queued_acked = 0
        self.marks: deque[_Mark] = deque()
        self.doubtful = False  # it may have stopped, and nothing sent since would tell

    @property
    def in_flight(self) -> int:
        """Bytes sent whose taking is not known yet."""
        return self.sent - self.acked

    @property
    def full(self) -> bool:
        """No more data should be sent now. Without a PING under way nothing would end the wait: then never."""
        if not self.marks:
            return False
        return self.sent - self.acked >= self.window or self.frames - self.frames_acked >= DATA_FRAMES

    @property
    def deep(self) -> bool:
        """The queue may not have room for another PING."""
        return bool(self.marks) and self.queued - self.queued_acked >= QUEUE_SAFE

    @property
    def unasked(self) -> bool:
        """Data was sent since it was last asked, and since its last answer."""
        return self.sent > (self.marks[-1].sent if self.marks else self.acked)

    @property
    def idle(self) -> bool:
        """All it was sent is known to be taken, so its queue is empty. One that is busy would get to SETTINGS last."""
        if self.marks or self.sent != self.acked:
            return False
        return self.queued - self.queued_acked < PASSES

    def owes_since(self) -> float | None:
        """When the oldest unanswered PING left."""
        return self.marks[0].at if self.marks else None


class PingWindow:
    """The five workers of one tunnel and the PINGs that measure them."""

    __slots__ = ("_fastest", "_next", "_unanswered", "in_flight", "workers")

    def __init__(self) -> None:
        self.workers = tuple(Worker(index) for index in range(WORKERS))
        self.in_flight = 0  # bytes of data to all of them whose taking is not known yet
        self._unanswered = 0  # PINGs to all of them
        self._next = 0
        self._fastest = float("inf")

    @property
    def spent(self) -> bool:
        """PING numbers run out: retire the tunnel."""
        return self._next >= LAST_PING

    def sent(self, worker: Worker, size: int, now: float) -> bytes:
        """Count a data frame; returns the PINGs to send right after it, mostly none."""
        worker.sent += size
        self.in_flight += size
        worker.frames += 1
        worker.queued += 1
        unasked = worker.sent - worker.asked
        if unasked < worker.window >> 1:
            last = worker.marks[-1].frames if worker.marks else worker.frames_acked
            if worker.frames - last < PING_FRAMES:
                return b""
        return self.ask(worker, now)

    def ask(self, worker: Worker, now: float) -> bytes:
        """A PING that lands on `worker`, behind one for each busy worker on the way; none when a queue has no room."""
        steps = (worker.index - self._next) % WORKERS + 1
        hit = [self.workers[(self._next + step) % WORKERS] for step in range(steps)]
        if any(one.deep for one in hit) or self.spent:
            return b""
        return b"".join([self._pass(one) if one.idle and one is not worker else self._ping(one, now) for one in hit])

    def burst(self, now: float) -> bytes:
        """One PING for every worker: the probe. None when a queue has no room."""
        if any(worker.deep for worker in self.workers) or self.spent:
            return b""
        return b"".join([self._ping(self.workers[self._next % WORKERS], now) for _ in range(WORKERS)])

    def _ping(self, worker: Worker, now: float) -> bytes:
        """Whose turn it is, is asked."""
        worker.queued += 1
        worker.asked = worker.sent
        worker.doubtful = False
        worker.marks.append(_Mark(self._next, worker.sent, worker.frames, worker.queued, now))
        self._next += 1
        self._unanswered += 1
        return ping(2 * self._next - 1)

    def _pass(self, worker: Worker) -> bytes:
        """Whose turn it is, is not asked."""
        worker.queued += 1
        self._next += 1
        return _PASS

    def echoed(self, number: int, now: float) -> Worker | None:
        """A PING came back; returns the worker it measured, or None for one we never sent."""
        order, odd = divmod(number, 2)
        worker = self.workers[order % WORKERS]
        if not odd or not worker.marks or not worker.marks[0].number <= order <= worker.marks[-1].number:
            return None
        limited = worker.full
        while worker.marks and worker.marks[0].number <= order:
            mark = worker.marks.popleft()
            self._unanswered -= 1
            self.in_flight -= mark.sent - worker.acked
            worker.acked, worker.frames_acked, worker.queued_acked = mark.sent, mark.frames, mark.queued
            self._resize(worker, now - mark.at, limited)
        return worker

    def _resize(self, worker: Worker, took: float, limited: bool) -> None:
        """A full window whose answers come nearly as fast as the fastest is too small; slow answers need no more."""
        self._fastest = min(self._fastest, took)
        if limited and took < 2 * self._fastest + 0.005:
            worker.window = min(2 * worker.window, LARGEST_WINDOW)

    def oldest_debt(self) -> float | None:
        """When the oldest unanswered PING of all left."""
        if not self._unanswered:  # asked of every tunnel for every new connection
            return None
        return min((worker.marks[0].at for worker in self.workers if worker.marks), default=None)

    def best(self) -> Worker:
        """The worker to put a new stream on: no open question, then fewest streams, then least in flight."""
        return min(self.workers, key=_burden)


def _burden(worker: Worker) -> tuple[bool, bool, int, int, int]:
    return worker.full, bool(worker.marks) or worker.doubtful, worker.streams, worker.in_flight, worker.index
