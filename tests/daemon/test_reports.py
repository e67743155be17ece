"""Asking the head pods how their services fare, while clusters come and go."""

from typing import Any

import anyio
import pytest

from kraynd.core.model import ClusterKey, PodTarget
from kraynd.reports import Reports
from krayne.errors import KrayneError

pytestmark = pytest.mark.anyio
LIMIT = 30.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def target(name: str) -> PodTarget:
    return PodTarget("default", name, f"uid-{name}", running=True, ready=True)


async def test_a_cluster_that_goes_while_another_is_asked_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    entered, gate, last = anyio.Event(), anyio.Event(), anyio.Event()

    async def ask(_opener: Any, pod: PodTarget, _path: str) -> tuple[int, bytes]:
        asked.append(pod.pod)
        if pod.pod == "a":
            entered.set()
            await gate.wait()
        if pod.pod == "c":
            last.set()
        return 404, b""

    monkeypatch.setattr("kraynd.reports.ask", ask)
    reports, opener = Reports(lambda _: None), object()
    keys = {name: ClusterKey("default", name) for name in "abc"}
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            for name in "ab":
                reports.aim(keys[name], opener, target(name))  # type: ignore[arg-type]
            tasks.start_soon(reports.run)
            await entered.wait()
            reports.aim(keys["b"], None, None)
            reports.aim(keys["c"], opener, target("c"))  # type: ignore[arg-type]
            gate.set()
            await last.wait()
            tasks.cancel_scope.cancel()
    assert asked == ["a", "c"]
    assert set(reports.latest) <= {keys["a"], keys["c"]}


@pytest.mark.parametrize(("answer", "pauses"), [(None, [60, 120, 240]), ((0, b""), [60, 600, 600])])
async def test_a_pod_without_a_status_server_is_asked_less_often_than_one_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes] | None, pauses: list[float]
) -> None:
    async def ask(_opener: Any, _pod: PodTarget, _path: str) -> tuple[int, bytes]:
        if answer is None:
            raise KrayneError("the tunnel is lost")
        return answer

    monkeypatch.setattr("kraynd.reports.ask", ask)
    monkeypatch.setattr("anyio.current_time", lambda: 1000.0)
    reports, key = Reports(lambda _: None), ClusterKey("default", "a")
    reports.aim(key, object(), target("a"))  # type: ignore[arg-type]
    course = reports._courses[key]
    found = []
    for _ in pauses:
        await reports._ask(key, course)
        found.append(course.due - 1000.0)
    assert found == pauses
