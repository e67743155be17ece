"""List and watch against a server that misbehaves in every way known; after each the cache equals its model."""

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from kraynd.core.backoff import Backoff
from kraynd.core.model import Json
from kraynd.kube.cache import Change
from kraynd.kube.client import KubeClient
from kraynd.kube.refusals import UnreachedError
from kraynd.kube.watch import Reflector, WatchSettings
from krayne.errors import KrayneError
from tests.kube.fake_api import PODS, RAY, FakeApi, cut, endpoint_of, hang, held, refuse, say, status, stream

pytestmark = pytest.mark.anyio
AT_ONCE = Backoff(base=0.001, cap=0.001)
NEVER = Backoff(base=1e6, cap=1e6)
QUICK = WatchSettings(unreached=AT_ONCE, refused=AT_ONCE)


class Run:
    """A reflector that runs, and what it said."""

    def __init__(self, api: FakeApi, reflector: Reflector) -> None:
        self.api, self.reflector = api, reflector
        self.events: list[str] = []
        self.said: list[tuple[bool, str]] = []
        self.changed = anyio.Event()

    def on_changes(self, changes: Sequence[Change]) -> None:
        self.events += [(one.after or one.before or {})["metadata"]["name"] for one in changes]
        self.changed.set()

    def on_health(self) -> None:
        health = self.reflector.health
        self.said.append((health.synced, health.error.message if health.error else ""))
        self.changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait for news of either side after which it holds; a count of restarts has no news, so look now and then."""
        with anyio.fail_after(20):
            while not reached():
                self.changed = anyio.Event()
                news = self.api.news
                with anyio.move_on_after(0.05):
                    async with anyio.create_task_group() as tasks:
                        for one in (self.changed, news):
                            tasks.start_soon(_first, one, tasks.cancel_scope)

    @property
    def is_true(self) -> bool:
        """Whether the cache is the model."""
        cache = {f"{namespace}/{name}": one for (namespace, name), one in self.reflector.objects.items()}
        return cache == self.api.objects[RAY]

    async def settled(self) -> None:
        await self.until(lambda: self.reflector.health.synced and self.is_true)


async def _first(event: Any, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


@asynccontextmanager
async def watching(
    api: FakeApi, folder: Path, settings: WatchSettings = QUICK, *, seconds: float = 10.0
) -> AsyncIterator[Run]:
    client = KubeClient(endpoint_of(api, folder), seconds=seconds)
    made: list[Run] = []
    reflector = Reflector(
        client, RAY, on_changes=lambda changes: made[0].on_changes(changes), on_health=lambda: made[0].on_health(),
        rand=lambda: 0.0, settings=settings,
    )  # fmt: skip
    made.append(Run(api, reflector))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reflector.run)
        try:
            yield made[0]
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await client.close()


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi().serving() as made:
        made.put(RAY, "one")
        made.put(RAY, "two")
        yield made


def line(kind: str, item: Json) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def gone() -> bytes:
    return line("ERROR", status(410, "too old resource version: 1 (2)"))


async def test_changes_arrive_and_the_watch_resumes_where_it_was(api: FakeApi, tmp_path: Path) -> None:
    async with watching(api, tmp_path) as run:
        await run.settled()
        api.put(RAY, "three")
        api.remove(RAY, "one")
        await run.settled()
        assert sorted(run.events) == ["one", "one", "three", "two"]
        api.put(RAY, "two", spec={"suspend": True})
        await run.settled()
        (watch,) = api.watches()
        assert watch.query["allowWatchBookmarks"] == "true"
        assert watch.query["resourceVersion"] == "102"
        assert 300 <= int(watch.query["timeoutSeconds"]) <= 600
        assert len(api.lists()) == 1


async def test_long_lists_come_in_pages(api: FakeApi, tmp_path: Path) -> None:
    for index in range(7):
        api.put(RAY, f"more-{index}")
    api.page = 2
    async with watching(api, tmp_path) as run:
        await run.settled()
        assert len(api.lists()) == 5


async def test_a_bookmark_moves_the_place_to_resume_from(api: FakeApi, tmp_path: Path) -> None:
    mark = line("BOOKMARK", {"metadata": {"resourceVersion": "500"}})
    api.fail("watch=true", stream(mark))
    async with watching(api, tmp_path) as run:
        await run.until(lambda: len(api.watches()) == 2)
        assert api.watches()[1].query["resourceVersion"] == "500"
        assert len(api.lists()) == 1


@pytest.mark.parametrize(
    "how", [refuse(410, "too old"), stream(gone())], ids=["over http", "in the stream"]
)  # fmt: skip
async def test_gone_lists_again_and_keeps_the_cache_until_then(api: FakeApi, tmp_path: Path, how: Any) -> None:
    over = asyncio.Event()
    api.fail("watch=true", held(over), how)
    async with watching(api, tmp_path) as run:
        await run.settled()
        before = dict(run.reflector.objects)
        # The next watch is told that it is outdated; the list after it does not come until the test has looked.
        api.fail("limit=500", hang)
        over.set()
        await run.until(lambda: len(api.lists()) == 2)
        assert run.reflector.objects == before
        assert not run.reflector.health.synced
        assert run.reflector.health.error is None  # a relist is no trouble
        api.remove(RAY, "one")
        run.reflector.wake()
        await run.settled()


async def test_gone_for_ever_is_said_and_paced(api: FakeApi, tmp_path: Path) -> None:
    api.fail("watch=true", *[refuse(410, "too old")] * 40)
    async with watching(api, tmp_path) as run:
        await run.until(lambda: run.reflector.health.error is not None)
        assert "too old" in run.said[-1][1]
        await run.settled()


@pytest.mark.parametrize(
    "ends",
    [stream(), cut, refuse(500, "boom"), refuse(429, "slow down", Retry_After="60")],
    ids=["end", "cut", "500", "429"],
)
async def test_a_watch_that_ends_at_once_is_not_hammered(api: FakeApi, tmp_path: Path, ends: Any) -> None:
    # aiohttp repeats a GET once when a kept-alive connection was closed, so a cut costs two requests at most.
    most = 2 if ends is cut else 1
    api.fail("watch=true", *[ends] * 20)
    async with watching(api, tmp_path, WatchSettings(unreached=NEVER, refused=NEVER)) as run:
        for times in (1, 2, 3):
            await run.until(lambda times=times: run.reflector.restarts == times)  # type: ignore[misc]
            await anyio.wait_all_tasks_blocked()
            assert times <= len(api.watches()) <= times * most
            run.reflector.wake()


async def test_waits_grow_to_their_caps_and_unreached_servers_are_asked_sooner() -> None:
    settings, busy = WatchSettings(), KrayneError("busy", data={"retry_after": 50.0})
    lost = UnreachedError("lost")
    assert [settings.pause(lost, count, 0.1, 0.0) for count in (1, 2, 9)] == [2, 4, 4]
    assert [settings.pause(KrayneError("no"), count, 0.1, 0.0) for count in (1, 3, 9)] == [2, 8, 30]
    assert settings.pause(busy, 1, 0.1, 0.0) == 50
    assert settings.pause(None, 1, 300.0, 0.0) == 0
    assert settings.pause(None, 1, 0.1, 0.9) >= 1.0


async def test_an_outage_keeps_the_cache_and_what_happened_in_it_is_seen(api: FakeApi, tmp_path: Path) -> None:
    over = asyncio.Event()
    api.fail("watch=true", held(over, end=False), *[cut] * 5)
    async with watching(api, tmp_path) as run:
        await run.settled()
        over.set()
        await run.until(lambda: run.reflector.health.error is not None)
        assert api.address in run.said[-1][1]
        assert len(run.reflector.objects) == 2
        api.remove(RAY, "two")
        await run.settled()
        assert len(api.lists()) == 1  # resumed, not listed again


async def test_bytes_may_trickle_and_objects_be_large(api: FakeApi, tmp_path: Path) -> None:
    large = {"metadata": {"name": "large", "namespace": "default", "resourceVersion": "900"}, "data": "x" * 5 * 2**20}
    small = {"metadata": {"name": "small", "namespace": "default", "resourceVersion": "901"}, "data": "é"}
    trickle = [bytes([one]) for one in line("ADDED", small)]
    api.fail("watch=true", stream(line("ADDED", large), *trickle, end=False))
    async with watching(api, tmp_path) as run:
        await run.until(lambda: "small" in run.events)
        assert run.reflector.objects["default", "large"] == large
        assert run.reflector.objects["default", "small"] == small


async def test_an_event_without_end_is_refused(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kraynd.kube.cache.LINE_LIMIT", 100_000)
    api.fail("watch=true", stream(*[b"x" * 20_000] * 9, end=False))
    async with watching(api, tmp_path) as run:
        await run.until(lambda: any("possible size" in text for _, text in run.said))
        await run.settled()


async def test_what_still_comes_after_a_wake_is_no_news(api: FakeApi, tmp_path: Path) -> None:
    old = api.objects[RAY]["default/one"]
    api.put(RAY, "one", spec={"suspend": True})
    async with watching(api, tmp_path) as run:
        await run.settled()
        run.reflector.wake()
        run.reflector._take({"type": "MODIFIED", "object": old})  # it had arrived before the watch could end
        assert run.is_true
        await run.until(lambda: len(api.lists()) == 2)
        await run.settled()


async def test_duplicates_and_old_events_change_nothing(api: FakeApi, tmp_path: Path) -> None:
    first = api.objects[RAY]["default/one"]
    newer = api.put(RAY, "one", spec={"suspend": True})
    api.remove(RAY, "two")
    api.version += 1
    last = api.put(RAY, "three")
    echo = [line("MODIFIED", newer), line("MODIFIED", newer), line("MODIFIED", first)]
    ghost = {"metadata": {"name": "two", "namespace": "default", "resourceVersion": "90"}}
    api.fail("watch=true", stream(*echo, line("ADDED", ghost), line("ADDED", last), line("MODIFIED", last), end=False))
    async with watching(api, tmp_path) as run:
        await run.until(lambda: run.reflector.health.synced)
        api.put(RAY, "late")
        run.reflector.wake()
        await run.settled()
        assert sorted(run.events) == ["late", "one", "three"]


@pytest.mark.parametrize(
    "answer",
    [{}, {"kind": "List", "items": [1]}, {"kind": "Status", "metadata": {}}, b"<html>", b"[" * 100_000,
     {"kind": "RayClusterList", "metadata": {}, "items": [{"metadata": {}}]}],
)  # fmt: skip
async def test_nonsense_is_never_an_empty_list(api: FakeApi, tmp_path: Path, answer: Any) -> None:
    async with watching(api, tmp_path) as run:
        await run.settled()
        api.fail("limit=500", say(answer))
        run.reflector.wake()
        await run.until(lambda: "is there a proxy" in getattr(run.reflector.health.error, "hint", ""))
        assert len(run.reflector.objects) == 2
        await run.settled()


@pytest.mark.parametrize(
    "piece",
    [b"<html>\n", b'{"type": "ADDED"}\n', b'{"type": "ERROR", "object": {"code": "x"}}\n',
     b"[" * 100_000 + b"\n", b"7\n",
     b'{"type": "ADDED", "object": {"metadata": {}}}\n'],
)  # fmt: skip
async def test_nonsense_in_the_stream_ends_in_a_new_list(api: FakeApi, tmp_path: Path, piece: bytes) -> None:
    api.fail("watch=true", stream(piece))
    async with watching(api, tmp_path) as run:
        await run.until(lambda: run.reflector.health.error is not None)
        await run.settled()
        assert len(api.lists()) == (1 if b"ERROR" in piece else 2)  # a server in trouble says nothing of our version


async def test_silence_is_looked_into_and_a_dead_server_said(api: FakeApi, tmp_path: Path) -> None:
    api.fail("watch=true", stream(end=False), hang)
    quick = WatchSettings(unreached=AT_ONCE, refused=AT_ONCE, silence=0.05)
    async with watching(api, tmp_path, quick, seconds=2.0) as run:
        await run.until(lambda: any("no answer in time" in text for _, text in run.said))
        assert run.said[0] == (True, "")
        await run.settled()


async def test_after_sleep_the_open_watch_is_not_trusted(api: FakeApi, tmp_path: Path) -> None:
    api.fail("watch=true", stream(end=False))  # a connection that died in the sleep
    async with watching(api, tmp_path, WatchSettings(unreached=NEVER, refused=NEVER)) as run:
        await run.until(lambda: run.reflector.health.synced)
        api.remove(RAY, "one")
        run.reflector.wake()
        await run.settled()
        assert run.reflector.health.error is None


async def test_what_rbac_refuses_is_said_and_ends_with_the_right(api: FakeApi, tmp_path: Path) -> None:
    no = 'rayclusters.ray.io is forbidden: User "ada" cannot list resource "rayclusters"'
    api.fail("limit=500", refuse(403, no))
    async with watching(api, tmp_path) as run:
        await run.settled()
        assert run.said[0] == (False, no)


async def test_memory_does_not_grow_with_restarts(api: FakeApi, tmp_path: Path) -> None:
    async with watching(api, tmp_path) as run:
        await run.settled()

        async def restart(times: int) -> None:
            for _ in range(times):
                count = run.reflector.restarts
                run.reflector.wake()
                await run.until(lambda count=count: run.reflector.restarts > count)  # type: ignore[misc]
                await run.settled()
            api.requests.clear()

        await restart(20)
        tracemalloc.start()
        sizes = []
        for _ in range(4):
            await restart(20)
            gc.collect()  # what waits for the collector is not growth
            sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    # A leak shows in every stretch; the interpreter's table of names doubles, by 2 MB, in one.
    assert min(later - earlier for earlier, later in pairwise(sizes)) < 100_000
    assert PODS not in {one.target.partition("?")[0] for one in api.requests}
