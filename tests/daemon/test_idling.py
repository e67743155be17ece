"""The loop that suspends idle clusters, in virtual time, over a daemon of values."""

# ruff: noqa: ARG002 - the protocol names them

import anyio
import pytest

from kraynd.core.model import ClusterKey
from kraynd.idling import Idling, any_runs
from krayne.errors import KrayneError

pytestmark = pytest.mark.anyio
DEMO = ClusterKey("default", "demo")


class House:
    """What the loop sees and does."""

    def __init__(self) -> None:
        self.limits = {DEMO: 60.0}
        self.use = (0, 0)
        self.jobs: bool | None = False
        self.suspended: list[str] = []
        self.notes: list[str] = []
        self.fails = False

    def idle_limits(self) -> dict[ClusterKey, float]:
        return self.limits

    def traffic(self, key: ClusterKey) -> tuple[int, int]:
        return self.use

    async def jobs_run(self, key: ClusterKey) -> bool | None:
        await anyio.lowlevel.checkpoint()
        return self.jobs

    async def suspend(self, key: ClusterKey, why: str) -> None:
        if self.fails:
            raise KrayneError("not now")
        self.suspended.append(why)
        self.limits = {}

    def note_idle(self, key: ClusterKey, note: str) -> None:
        self.notes.append(note)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]
    monkeypatch.setattr("kraynd.idling.anyio.current_time", lambda: clock[0])
    return clock


async def looks(house: Idling, now: list[float], times: int) -> None:
    for _ in range(times):
        now[0] += 20.0
        await house.look()


async def test_announced_then_suspended_once(now: list[float]) -> None:
    house = House()
    idling = Idling(house)
    await looks(idling, now, 10)
    assert house.suspended == ["suspended after 1m without use"]
    assert any("suspended in 20s" in note for note in house.notes)
    assert house.notes[-1] == ""


@pytest.mark.parametrize("use", ["connection", "bytes", "job", "unknown"])
async def test_use_of_any_kind_keeps_it(now: list[float], use: str) -> None:
    house = House()
    idling = Idling(house)
    for step in range(20):
        house.use = (1, 0) if use == "connection" else (0, step if use == "bytes" else 0)
        house.jobs = {"job": True, "unknown": None}.get(use, False)
        await looks(idling, now, 1)
    assert house.suspended == []


async def test_a_resumed_cluster_has_a_new_clock_and_a_failure_is_tried_again(now: list[float]) -> None:
    house = House()
    idling = Idling(house)
    await looks(idling, now, 6)
    house.limits = {DEMO: 60.0}
    await looks(idling, now, 3)
    assert len(house.suspended) == 1
    house.fails = True
    await looks(idling, now, 3)
    house.fails = False
    await looks(idling, now, 1)
    assert len(house.suspended) == 2


@pytest.mark.parametrize(
    ("body", "runs"),
    [
        (b"[]", False),
        (b'[{"status":"SUCCEEDED"},{"status":"RUNNING"}]', True),
        (b'[{"status":"STOPPED"}]', False),
        (b"<html>", None),
        (b'{"status":"RUNNING"}', None),
    ],
)
def test_rays_list_of_jobs(body: bytes, runs: bool | None) -> None:
    assert any_runs(body) is runs
