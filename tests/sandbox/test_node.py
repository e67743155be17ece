"""The sandbox's node with plain small processes in Ray's place: marks, ends, logs, commands, and Ray's absence."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from krayne_sandbox.kinds import EVENTS, PODS
from krayne_sandbox.node import pods, ray
from krayne_sandbox.node.logs import read_log
from krayne_sandbox.node.pods import LocalNode
from krayne_sandbox.node.processes import Process, end_all, family, is_alive, look, start, wait_end
from krayne_sandbox.store import Store

pytestmark = pytest.mark.anyio

LIMIT = 60.0
# It leaves its session and its parent, as Ray's daemons may, and is found by its mark alone.
ESCAPE = (
    "import os,time\nif os.fork()==0:\n os.setsid()\n if os.fork()==0: time.sleep(600)\n os._exit(0)\ntime.sleep(600)"
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store.open(":memory:", clock=time.time)
    yield made
    made.close()


def begin(tmp_path: Path, code: str, mark: str) -> tuple[Process, Any]:
    name, _, value = mark.partition("=")
    child = start([sys.executable, "-c", code], {**os.environ, name: value}, tmp_path, tmp_path / "log")
    seen = look(child.pid)
    assert seen is not None
    return Process(child.pid, seen.start), child


async def test_the_end_of_a_process_is_told_with_its_code(tmp_path: Path) -> None:
    process, child = begin(tmp_path, "import time; time.sleep(600)", "SN_A=1")
    async with asyncio.timeout(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_all, process, "SN_A=1")
            assert await wait_end(process, child) == -signal.SIGKILL
    assert not is_alive(process)


async def test_nothing_of_a_family_is_left(tmp_path: Path) -> None:
    mark = f"SN_B={tmp_path}"
    process, child = begin(tmp_path, ESCAPE, mark)
    async with asyncio.timeout(LIMIT):
        while len(family(None, mark)) < 2:
            await asyncio.sleep(0.05)
        assert await end_all(None, mark) == []
    child.wait()
    assert family(process, mark) == []


async def test_a_pid_alone_is_not_believed(tmp_path: Path) -> None:
    process, child = begin(tmp_path, "import time; time.sleep(600)", f"SN_C={tmp_path}")
    other = Process(process.pid, process.start + 1)
    assert not is_alive(other)
    assert family(other, "SN_NOBODY=1") == []
    child.kill()
    child.wait()


async def read(path: Path, **how: Any) -> bytes:
    given = {"follow": False, "tail": None, "since": None, "timestamps": False, "limit": None, **how}
    return b"".join([piece async for piece in read_log(path, is_over=lambda: True, **given)])


async def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\nthree\n")
    assert await read(log) == b"one\ntwo\nthree\n"
    assert await read(log, tail=2) == b"two\nthree\n"
    assert await read(log, tail=0) == b""
    assert await read(log, tail=9) == b"one\ntwo\nthree\n"
    assert await read(log, limit=5) == b"one\nt"
    assert await read(log, since=time.time() + 100) == b""


def pod() -> dict[str, Any]:
    labels = {"ray.io/cluster": "demo", "ray.io/node-type": "head"}
    spec = {"nodeName": "sandbox", "containers": [{"name": "ray-head", "image": "ray"}]}
    return {"metadata": {"name": "demo-head", "namespace": "default", "labels": labels}, "spec": spec}


async def state_of(store: Store, wanted: str, reason: str = "") -> dict[str, Any]:
    """The pod's container state, once it is of this kind and for this reason."""
    with store.subscribe(PODS) as subscription:
        async with asyncio.timeout(LIMIT):
            while True:
                for change in await subscription.changes():
                    for one in change.object.get("status", {}).get("containerStatuses") or ():
                        if wanted in one["state"] and reason in ("", one["state"][wanted].get("reason")):
                            return {**one["state"][wanted], "phase": change.object["status"]["phase"]}


async def test_without_ray_the_pod_says_what_mends_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ray.PYTHON, str(tmp_path / "bin" / "python"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(LocalNode(store, tmp_path).run)
        store.create(PODS, pod())
        told = await state_of(store, "waiting")
        tasks.cancel_scope.cancel()
    assert told["phase"] == "Pending"
    assert told["reason"] == "RayNotInstalled"
    assert "pip install 'kraynd[sandbox]'" in told["message"]


def fake_ray(folder: Path, code: str) -> None:
    """A program in the place of the Python that has Ray."""
    program = folder / "bin" / "python"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    (folder / "bin" / "ray").touch()


async def test_a_process_that_ends_is_a_failed_pod(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ray(tmp_path, "print('no such thing'); raise SystemExit(3)")
    monkeypatch.setenv(ray.PYTHON, str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(pods, "BACK_OFF", 0.05)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(LocalNode(store, tmp_path).run)
        store.create(PODS, pod())
        told = await state_of(store, "terminated")
        tasks.cancel_scope.cancel()
    assert (told["phase"], told["exitCode"], told["message"]) == ("Failed", 3, "no such thing")
    (event,) = store.list(EVENTS)
    assert (event["type"], event["message"], event["involvedObject"]["kind"]) == ("Warning", "no such thing", "Pod")


async def test_a_head_that_cannot_start_says_why_and_is_not_replaced_at_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ray(tmp_path, "print('no such thing'); raise SystemExit(3)")
    monkeypatch.setenv(ray.PYTHON, str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(pods, "BACK_OFF", 3600.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(LocalNode(store, tmp_path).run)
        store.create(PODS, pod())
        told = await state_of(store, "waiting", "CrashLoopBackOff")
        assert (told["message"], told["phase"]) == ("no such thing", "Pending")
        store.delete(PODS, "default", "demo-head")
        assert await gone(store)
        tasks.cancel_scope.cancel()


async def gone(store: Store) -> bool:
    """Once no pod is left."""
    async with asyncio.timeout(LIMIT):
        while store.list(PODS):
            await anyio.sleep(0.02)
    return True


async def test_a_pod_outlives_the_node_and_is_found_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ray(tmp_path, "import time; time.sleep(600)")
    monkeypatch.setenv(ray.PYTHON, str(tmp_path / "bin" / "python"))
    uid = store.create(PODS, pod())["metadata"]["uid"]
    mark = f"KRAYNE_SANDBOX_POD={uid}"
    async with anyio.create_task_group() as tasks:
        first = LocalNode(store, tmp_path)
        tasks.start_soon(first.run)
        await state_of(store, "running")
        tasks.cancel_scope.cancel()
    before = family(None, mark)
    assert before
    node = LocalNode(store, tmp_path)
    async with asyncio.timeout(LIMIT), anyio.create_task_group() as tasks:
        tasks.start_soon(node.run)
        while True:
            await anyio.sleep(0)
            try:
                running = await node.execute("default", "demo-head", "", ["sh", "-c", "cat; exit 4"], tty=False)
                break
            except Exception:
                await anyio.sleep(0.05)
        await running.write(b"hello")
        await running.close_input()
        assert b"".join([piece async for piece in running.stdout()]) == b"hello"
        assert await running.wait() == 4
        assert family(None, mark) == before
        store.delete(PODS, "default", "demo-head")
        while store.find(PODS, "default", "demo-head") is not None:
            await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    assert family(None, mark) == []
    child = first._runs[uid].child  # ours to bury: in one process there are two nodes here
    assert child is not None
    child.wait()
