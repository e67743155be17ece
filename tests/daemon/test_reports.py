"""Asking the head pods how their services fare, while clusters come and go."""

from typing import Any

import anyio
import pytest

from kraynd.core.model import ClusterKey, PodTarget
from kraynd.reports import Reports

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
