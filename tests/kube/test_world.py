"""One Kubernetes cluster as the daemon knows it, against an API server that fails on cue: always a state in words."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from kraynd.core.backoff import Backoff
from kraynd.core.model import ClusterKey, Json
from kraynd.kube.watch import WatchSettings
from krayne.errors import KubeRayNotInstalledError
from tests.kube.fake_api import PODS, RAY, FakeApi, Request, cut, held, kubeconfig, refuse, reply, say, status
from tests.kube.running import running

pytestmark = pytest.mark.anyio
AT_ONCE = Backoff(base=0.001, cap=0.001)
QUICK = WatchSettings(unreached=AT_ONCE, refused=AT_ONCE)
DEMO = ClusterKey("default", "demo")
CANARY = "canary-d41d8cd98f00"
settled = partial(running, watching=QUICK, contact=AT_ONCE, refused=AT_ONCE, rand=lambda: 0.0)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi().serving() as made:
        made.put(RAY, "demo")
        made.put(PODS, "demo-head", metadata={"labels": {"ray.io/cluster": "demo"}})
        yield made


@pytest.fixture
def config(api: FakeApi, tmp_path: Path) -> Path:
    return kubeconfig(api, tmp_path, {"token": "good"})


def is_wide(request: Request) -> bool:
    return request.target.startswith((RAY + "?", PODS + "?"))


async def test_clusters_and_their_pods_are_there_once_it_is_ready(api: FakeApi, config: Path) -> None:
    async with settled(config) as run:
        await run.condition("ready")
        assert run.world.id == "world-1"
        assert set(run.world.clusters) == {DEMO}
        assert [one["metadata"]["name"] for one in run.world.pods_of(DEMO)] == ["demo-head"]
        assert run.world.sees("anywhere")
        api.put(PODS, "demo-head", metadata={"labels": {"ray.io/cluster": "other"}})
        await run.until(lambda: not run.world.pods_of(DEMO))
        assert len(run.world.pods_of(ClusterKey("default", "other"))) == 1


async def test_a_head_that_dies_between_two_looks_is_told_once_with_what_it_died_of(api: FakeApi, config: Path) -> None:
    labels = {"ray.io/cluster": "demo", "ray.io/node-type": "head"}
    async with settled(config) as run:
        await run.condition("ready")
        assert not run.world.departed(DEMO)
        for name, phase in (("h1", "Running"), ("h2", "Failed")):
            api.put(PODS, name, metadata={"labels": labels}, status={"phase": phase})
            api.remove(PODS, name)
        api.put(PODS, "w1", metadata={"labels": {**labels, "ray.io/node-type": "worker"}})
        api.remove(PODS, "w1")
        api.put(PODS, "last", metadata={"labels": labels})
        await run.until(lambda: any(one["metadata"]["name"] == "last" for one in run.world.pods_of(DEMO)))
        assert not run.world.departed(ClusterKey("default", "other"))
        gone = run.world.departed(DEMO)
        assert [(one["metadata"]["name"], one["status"]["phase"]) for one in gone] == [
            ("h1", "Running"),
            ("h2", "Failed"),
        ]
        assert not run.world.departed(DEMO)


async def test_the_operators_version_is_read_from_its_pods(api: FakeApi, config: Path) -> None:
    marks = {"labels": {"ray.io/cluster": "demo"}, "annotations": {"ray.io/kuberay-version": "v1.6.2"}}
    api.put(PODS, "demo-head", metadata=marks)
    async with settled(config) as run:
        await run.condition("ready")
        await run.until(lambda: run.world.kuberay.version == "v1.6.2")


async def test_kuberay_may_be_missing_at_first_and_vanish_later(api: FakeApi, config: Path) -> None:
    api.fail("GET /apis/ray.io/v1", refuse(404, "404 page not found"), say({"resources": []}))
    async with settled(config) as run:
        await run.condition("kuberay-missing")
        assert "install the KubeRay operator" in run.world.state.hint
        await run.condition("ready")
        assert run.world.kuberay.installed
        api.fail(f"GET {RAY}?", *[refuse(404, "404 page not found")] * 9)
        run.world.wake()
        await run.condition("kuberay-missing")
        assert set(run.world.clusters) == {DEMO}  # not there is not known
        assert not run.world.synced
        await run.condition("ready")


async def test_create_without_kuberay_says_so(api: FakeApi, config: Path) -> None:
    async with settled(config) as run:
        await run.condition("ready")
        with pytest.raises(KubeRayNotInstalledError):
            await run.world.create({"metadata": {"namespace": "default", "name": "x"}})


async def test_rights_in_one_namespace_are_enough(api: FakeApi, config: Path) -> None:
    api.barred = is_wide
    api.put(RAY, "theirs", "elsewhere")
    async with settled(config) as run:
        await run.condition("ready")
        assert run.world.limited_to == ("default",)
        assert "default" in run.world.state.reason
        assert set(run.world.clusters) == {DEMO}
        assert run.world.sees("default")
        assert not run.world.sees("elsewhere")
        api.barred = lambda _: False  # the right to see all is granted; a wake looks
        run.world.wake()
        await run.until(lambda: ClusterKey("elsewhere", "theirs") in run.world.clusters)


async def test_no_right_to_watch_everywhere_narrows_to_the_namespace(api: FakeApi, config: Path) -> None:
    api.barred = lambda request: is_wide(request) and request.is_watch
    async with settled(config) as run:
        await run.condition("ready")
        assert run.world.limited_to == ("default",)


async def test_one_forbidden_namespace_of_two_is_named_and_the_other_works(api: FakeApi, config: Path) -> None:
    api.barred = lambda request: "/namespaces/closed/" in request.target
    async with settled(config, namespaces=("default", "closed")) as run:
        await run.until(lambda: "closed" in run.world.state.reason and DEMO in run.world.clusters)
        await run.until(lambda: run.world.synced)
        assert run.world.sees("default")
        assert not run.world.sees("closed")


async def test_no_rights_at_all_is_a_state(api: FakeApi, config: Path) -> None:
    api.barred = lambda _: True
    async with settled(config) as run:
        await run.condition("forbidden")
        assert 'User "me" cannot read' in run.world.state.reason
        assert not run.world.synced
        api.barred = lambda _: False
        await run.condition("ready")


async def test_another_cluster_at_the_same_address_is_another_world(api: FakeApi, config: Path) -> None:
    over = asyncio.Event()
    api.fail("rayclusters?watch", held(over, end=False))
    known: dict[str, str] = {}
    async with settled(config, known_worlds=known) as run:
        await run.condition("ready")
        api.fail(f"GET {RAY}?", cut, cut, cut, cut)
        api.identity = "world-2"
        over.set()
        await run.condition("unreachable")
        await run.until(lambda: run.world.synced)
        assert run.world.id == "world-2"


async def test_a_known_world_has_its_id_before_contact_and_is_asked_again(api: FakeApi, config: Path) -> None:
    async with settled(config) as run:
        mark = run.world.fingerprint
    async with settled(config, known_worlds={mark: "world-0"}) as run:
        assert run.world.id == "world-0"
        await run.condition("ready")
        assert run.world.id == "world-1"
    api.barred = lambda request: "kube-system" in request.target
    async with settled(config, known_worlds={mark: "world-1"}) as run:
        await run.condition("ready")
        assert run.world.id == "world-1"
    async with settled(config) as run:
        await run.condition("ready")
        stranger = run.world.id
    assert stranger not in (None, "world-1")
    api.barred = lambda _: False
    async with settled(config, known_worlds={mark: str(stranger)}) as run:
        await run.condition("ready")
        assert run.world.id == stranger  # memory is kept under the name it has


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"server": "https://127.0.0.1:1"}, "connection refused"),
        ({"server": "https://nowhere.invalid"}, "cannot be resolved"),
        ({"certificate-authority": None}, "certificate is not trusted"),
        ({"tls-server-name": "other.example"}, "certificate is not trusted"),
    ],
)
async def test_what_cannot_be_reached_says_why(api: FakeApi, tmp_path: Path, how: Json, words: str) -> None:
    async with settled(kubeconfig(api, tmp_path, {"token": CANARY}, how)) as run:
        await run.condition("unreachable")
        assert words in run.world.state.reason
        assert str(how.get("server", api.address)) in run.world.state.reason
        assert not run.world.synced


async def test_new_credentials_in_the_file_are_tried_at_once(api: FakeApi, tmp_path: Path) -> None:
    api.allowed = lambda request: request.values("Authorization") == ["Bearer better"]
    slow = Backoff(base=1e6, cap=1e6)
    config = kubeconfig(api, tmp_path, {"token": CANARY})
    async with settled(config, refused=slow) as run:
        await run.condition("login-needed")
        config.write_text(config.read_text().replace(CANARY, "better"))
        assert not run.world.stale()
        await run.condition("ready")
        config.write_text(config.read_text().replace("127.0.0.1", "localhost"))
        assert run.world.stale()


@pytest.mark.parametrize("count", [1, 3, 40])
async def test_events_of_few_and_of_many_objects(api: FakeApi, config: Path, count: int) -> None:
    api.events = [{"involvedObject": {"uid": f"u{index}"}, "reason": str(index)} for index in range(50)]
    async with settled(config) as run:
        found = await run.world.events_for("default", [f"u{index}" for index in range(count)])
        assert sorted(int(one["reason"]) for one in found) == list(range(count))


async def test_secrets_never_reach_logs_or_states(
    api: FakeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def echo(request: Request, writer: asyncio.StreamWriter) -> None:
        """A proxy that quotes what it was sent."""
        reply(writer, 500, status(500, f"bad request: {request.headers}"))

    api.fail("GET /api/v1/namespaces/kube-system", echo, refuse(401), refuse(401))
    async with settled(kubeconfig(api, tmp_path, {"token": CANARY})) as run:
        await run.condition("login-needed")
        await run.condition("ready")
        said = [*run.reasons, repr(run.world.transport), repr(run.world.transport.access), repr(run.world.state)]
    assert any(request.values("Authorization") == [f"Bearer {CANARY}"] for request in api.requests)
    assert CANARY not in "\n".join(said)
    assert CANARY not in caplog.text


async def test_whoever_waits_for_whole_caches_is_told_though_the_words_stay(api: FakeApi, config: Path) -> None:
    async with settled(config) as run:
        await run.condition("ready")
        for _ in range(5):
            run.world.wake()
            assert not run.world.synced
            await run.until(lambda: run.world.synced, limit=10)
        assert run.conditions == ["connecting", "ready"]


async def test_nothing_is_left_open(api: FakeApi, config: Path) -> None:
    before = len(asyncio.all_tasks())
    async with settled(config) as run:
        await run.condition("ready")
        run.world.wake()
        await run.until(lambda: run.world.synced)
    await api.empty()
    assert len(asyncio.all_tasks()) == before
