"""The store's laws: versions, deletion, cascades, restarts, readers."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krayne_sandbox.journal import HISTORY, StateError
from krayne_sandbox.kinds import CONFIGMAPS, EVENTS, NAMESPACES, PODS, RAYCLUSTERS, SERVICES
from krayne_sandbox.store import FellBehindError, StatusError, Store
from tests.sandbox.things import Clock, opened, owned, pod, thing

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> Iterator[Store]:
    made = opened()
    yield made
    made.close()


class refused:  # noqa: N801 it reads as a function
    """The call within must end in this Status."""

    def __init__(self, code: int, reason: str) -> None:
        self.wanted = (code, reason)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        assert isinstance(error, StatusError), error
        assert (error.code, error.reason) == self.wanted, error
        return True


def test_a_new_object_gets_what_the_server_sets(store: Store) -> None:
    made = store.create(RAYCLUSTERS, thing("demo", spec={"a": 1}, metadata={"uid": "mine", "generation": 9}))
    meta = made["metadata"]
    assert (made["kind"], made["apiVersion"], meta["generation"]) == ("RayCluster", "ray.io/v1", 1)
    assert meta["uid"] != "mine"
    assert meta["creationTimestamp"] == "2026-09-21T14:13:20Z"
    assert int(meta["resourceVersion"]) == store.revision


def test_what_is_read_is_a_copy(store: Store) -> None:
    store.create(CONFIGMAPS, thing("a", data={"k": "v"}))
    store.get(CONFIGMAPS, "default", "a")["data"]["k"] = "changed"
    store.list(CONFIGMAPS)[0]["data"]["k"] = "changed"
    assert store.get(CONFIGMAPS, "default", "a")["data"] == {"k": "v"}


def test_refusals(store: Store) -> None:
    store.create(CONFIGMAPS, thing("a"))
    with refused(409, "AlreadyExists"):
        store.create(CONFIGMAPS, thing("a"))
    with refused(404, "NotFound"):
        store.create(CONFIGMAPS, thing("a", namespace="nowhere"))
    with refused(404, "NotFound"):
        store.get(CONFIGMAPS, "default", "b")
    with refused(409, "Conflict"):
        store.update(CONFIGMAPS, thing("a", metadata={"resourceVersion": "1"}))
    with refused(409, "Conflict"):
        store.delete(CONFIGMAPS, "default", "a", uid="another")
    with refused(403, "Forbidden"):
        store.delete(NAMESPACES, "", "default")


def test_generation_counts_the_spec_alone_and_status_is_a_subresource(store: Store) -> None:
    made = store.create(RAYCLUSTERS, thing("demo", spec={"a": 1}))
    made["status"] = {"state": "x"}
    assert "status" not in store.update(RAYCLUSTERS, made)
    said = store.update(RAYCLUSTERS, {**made, "spec": {"a": 5}}, subresource="status")
    assert (said["spec"], said["status"], said["metadata"]["generation"]) == ({"a": 1}, {"state": "x"}, 1)
    said["spec"] = {"a": 2}
    said["status"] = {}
    after = store.update(RAYCLUSTERS, said)
    assert (after["status"], after["metadata"]["generation"]) == ({"state": "x"}, 2)


def test_an_update_that_changes_nothing_is_no_change(store: Store) -> None:
    made = store.create(CONFIGMAPS, thing("a", data={"k": "v"}))
    assert store.update(CONFIGMAPS, made) == made
    assert store.revision == int(made["metadata"]["resourceVersion"])


def test_finalizers_hold_an_object(store: Store) -> None:
    store.create(CONFIGMAPS, thing("a", metadata={"finalizers": ["x/y"]}))
    left = store.delete(CONFIGMAPS, "default", "a")
    assert left["metadata"]["deletionTimestamp"]
    again = store.delete(CONFIGMAPS, "default", "a")
    assert again["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]
    again["metadata"]["finalizers"] = []
    store.update(CONFIGMAPS, again)
    assert store.find(CONFIGMAPS, "default", "a") is None


def test_a_pod_on_a_node_goes_when_the_node_says_so(store: Store) -> None:
    store.create(PODS, pod("a"))
    left = store.delete(PODS, "default", "a")["metadata"]
    assert (left["deletionGracePeriodSeconds"], left["deletionTimestamp"]) == (30, "2026-09-21T14:13:50Z")
    store.remove(PODS, "default", "a")
    assert store.find(PODS, "default", "a") is None
    store.remove(PODS, "default", "a")


def test_a_pod_nobody_runs_or_that_is_forced_goes_at_once(store: Store) -> None:
    store.create(PODS, pod("unscheduled", spec={"nodeName": ""}))
    store.create(PODS, pod("done", status={"phase": "Succeeded"}))
    store.create(PODS, pod("running"))
    for name in ("unscheduled", "done"):
        store.delete(PODS, "default", name)
    store.delete(PODS, "default", "running")
    store.delete(PODS, "default", "running", grace=0)
    assert store.list(PODS) == []


def test_a_pod_with_a_finalizer_outlives_its_process(store: Store) -> None:
    store.create(PODS, pod("a", metadata={"finalizers": ["x/y"]}))
    store.delete(PODS, "default", "a")
    store.remove(PODS, "default", "a")
    left = store.get(PODS, "default", "a")
    assert left["metadata"]["deletionGracePeriodSeconds"] == 0
    left["metadata"]["finalizers"] = []
    store.update(PODS, left)
    assert store.find(PODS, "default", "a") is None


def test_what_is_owned_goes_with_its_owner_unless_another_is_left(store: Store) -> None:
    one, two = (store.create(RAYCLUSTERS, thing(name)) for name in ("one", "two"))
    store.create(SERVICES, owned("mine", one))
    both = owned("both", one)
    both["metadata"]["ownerReferences"] += owned("x", two)["metadata"]["ownerReferences"]
    store.create(SERVICES, both)
    store.delete(RAYCLUSTERS, "default", "one")
    assert [one["metadata"]["name"] for one in store.list(SERVICES)] == ["both"]
    store.delete(RAYCLUSTERS, "default", "two")
    assert store.list(SERVICES) == []


def test_orphans_stay_without_their_owner(store: Store) -> None:
    owner = store.create(RAYCLUSTERS, thing("one"))
    store.create(SERVICES, owned("mine", owner))
    store.delete(RAYCLUSTERS, "default", "one", propagation="Orphan")
    assert "ownerReferences" not in store.get(SERVICES, "default", "mine")["metadata"]


def test_in_the_foreground_the_owner_waits_for_what_blocks_it(store: Store) -> None:
    owner = store.create(RAYCLUSTERS, thing("one"))
    store.create(PODS, owned("head", owner, block=True, spec={"nodeName": "here"}))
    left = store.delete(RAYCLUSTERS, "default", "one", propagation="Foreground")
    assert left["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert store.get(PODS, "default", "head")["metadata"]["deletionTimestamp"]
    store.remove(PODS, "default", "head")
    assert store.find(RAYCLUSTERS, "default", "one") is None


def test_one_made_for_an_owner_that_went_goes_too(store: Store) -> None:
    owner = store.create(RAYCLUSTERS, thing("one"))
    store.delete(RAYCLUSTERS, "default", "one")
    store.create(SERVICES, owned("late", owner))
    assert store.list(SERVICES) == []


def test_a_namespace_goes_once_it_is_empty(store: Store) -> None:
    store.create(NAMESPACES, thing("mine"))
    store.create(CONFIGMAPS, thing("a", namespace="mine"))
    store.create(PODS, {**pod("p"), "metadata": {"name": "p", "namespace": "mine"}})
    left = store.delete(NAMESPACES, "", "mine")
    assert left["status"]["phase"] == "Terminating"
    with refused(403, "Forbidden"):
        store.create(CONFIGMAPS, thing("b", namespace="mine"))
    store.remove(PODS, "mine", "p")
    assert store.find(NAMESPACES, "", "mine") is None
    assert store.list(CONFIGMAPS, "mine") == []


def test_names_are_generated(store: Store) -> None:
    made = {store.create(EVENTS, {"metadata": {"generateName": "e-", "namespace": "default"}})["metadata"]["name"]
            for _ in range(50)}  # fmt: skip
    assert len(made) == 50
    assert all(name.startswith("e-") and len(name) == 7 for name in made)


def test_all_survives_a_restart(tmp_path: Path) -> None:
    first = opened(tmp_path / "state.db")
    owner = first.create(RAYCLUSTERS, thing("one"))
    first.create(SERVICES, owned("mine", owner))
    revision = first.revision
    first.close()
    second = opened(tmp_path / "state.db")
    assert second.revision == revision
    assert second.get(RAYCLUSTERS, "default", "one") == owner
    second.delete(RAYCLUSTERS, "default", "one")
    assert second.list(SERVICES) == []
    with second.follow(RAYCLUSTERS, revision - 2) as reader:
        assert [one.type for one in asyncio.run(reader.changes())] == ["ADDED", "DELETED"]
    second.close()


def test_what_a_crash_cut_short_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path / "state.db")
    owner = store.create(RAYCLUSTERS, thing("one"))
    store.create(SERVICES, owned("mine", owner))
    store.create(NAMESPACES, thing("mine"))
    store.create(CONFIGMAPS, thing("a", namespace="mine"))
    with monkeypatch.context() as crash:
        crash.setattr(store, "_delete_owned", lambda _: None)
        crash.setattr(store, "_empty", lambda _: None)
        store.delete(RAYCLUSTERS, "default", "one")
        store.delete(NAMESPACES, "", "mine")
    assert store.list(SERVICES)
    store.close()
    again = opened(tmp_path / "state.db")
    assert (again.list(SERVICES), again.list(CONFIGMAPS)) == ([], [])
    assert again.find(NAMESPACES, "", "mine") is None
    again.close()


def test_one_file_serves_one_sandbox(tmp_path: Path) -> None:
    store = opened(tmp_path / "state.db")
    with pytest.raises(StateError, match="another sandbox is using"):
        opened(tmp_path / "state.db")
    store.close()
    opened(tmp_path / "state.db").close()


def test_a_file_that_is_no_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(StateError, match=r"state\.db cannot be read"):
        opened(tmp_path / "state.db")


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path / "state.db")
    store.create(CONFIGMAPS, thing("a", data={"k": "v"}))
    store._journal.limit_pages(1)
    revision = store.revision
    with refused(500, "InternalError"):
        store.create(CONFIGMAPS, thing("big", data={"k": "v" * 1_000_000}))
    assert (store.revision, store.find(CONFIGMAPS, "default", "big")) == (revision, None)
    store._journal.limit_pages(1_000_000)
    store.create(CONFIGMAPS, thing("big"))
    store.close()
    again = opened(tmp_path / "state.db")
    assert [one["metadata"]["name"] for one in again.list(CONFIGMAPS)] == ["a", "big"]
    again.close()


async def test_a_reader_gets_what_is_there_and_what_changes(store: Store) -> None:
    store.create(CONFIGMAPS, thing("a"))
    with store.subscribe(CONFIGMAPS, PODS) as reader:
        assert [(one.type, one.object["metadata"]["name"]) for one in await reader.changes()] == [("ADDED", "a")]
        store.create(PODS, pod("p", spec={"nodeName": ""}))
        store.create(SERVICES, thing("unseen"))
        store.delete(PODS, "default", "p")
        found = await reader.changes()
    assert [(one.type, one.object["metadata"]["name"]) for one in found] == [("ADDED", "p"), ("DELETED", "p")]
    assert found[1].before is not None
    assert int(found[1].object["metadata"]["resourceVersion"]) > int(found[1].before["metadata"]["resourceVersion"])
    assert not store._readers[PODS]


async def test_a_reader_that_sleeps_is_told_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("krayne_sandbox.subscription.QUEUED", 3)
    with store.subscribe(CONFIGMAPS) as reader:
        reader._limit = 3
        for at in range(5):
            store.create(CONFIGMAPS, thing(f"a{at}"))
        with pytest.raises(FellBehindError):
            await reader.changes()


def test_forgotten_versions_are_gone(store: Store) -> None:
    made = store.create(CONFIGMAPS, thing("a"))
    store.compact()
    with refused(410, "Expired"):
        store.follow(CONFIGMAPS, int(made["metadata"]["resourceVersion"]) - 1)
    with store.follow(CONFIGMAPS, store.revision):
        pass


def test_history_is_bounded(tmp_path: Path) -> None:
    store = opened(tmp_path / "state.db")
    made = store.create(CONFIGMAPS, thing("a"))
    for at in range(HISTORY + 500):
        made["data"] = {"k": str(at)}
        made = store.update(CONFIGMAPS, made)
    assert len(store._journal.since(CONFIGMAPS, 0)) <= HISTORY + 200
    store.close()


NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "update", "delete", "finalize", "restart", "compact"]), NAMES, st.integers(0, 3)
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_a_reader_that_follows_knows_the_same(steps: list[tuple[str, str, int]]) -> None:
    """Whatever happens: versions rise, and the changes since any kept version lead to what is there."""
    with tempfile.TemporaryDirectory() as folder:
        path, clock = Path(folder) / "state.db", Clock()
        store = opened(path, clock)
        start, known, seen = store.revision, {}, store.revision
        for verb, name, number in steps:
            if verb == "restart":
                store.close()
                store = opened(path, clock)
            elif verb == "compact":
                store.compact()
                start = store.revision
                known = {one["metadata"]["name"]: one for one in store.list(CONFIGMAPS)}
            else:
                _step(store, verb, name, number)
            assert store.revision >= seen
            seen = store.revision
        for change in store._journal.since(CONFIGMAPS, start):
            place = change.object["metadata"]["name"]
            if change.type == "DELETED":
                assert known.pop(place) == change.before
            else:
                assert known.get(place) == change.before
                known[place] = change.object
        assert known == {one["metadata"]["name"]: one for one in store.list(CONFIGMAPS)}
        store.close()


def _step(store: Store, verb: str, name: str, number: int) -> None:
    found = store.find(CONFIGMAPS, "default", name)
    if verb == "create" and found is None:
        finalizers = ["x/y"] if number % 2 else []
        store.create(CONFIGMAPS, thing(name, data={"n": str(number)}, metadata={"finalizers": finalizers}))
    elif verb == "update" and found is not None:
        store.update(CONFIGMAPS, {**found, "data": {"n": str(number)}})
    elif verb == "delete" and found is not None:
        store.delete(CONFIGMAPS, "default", name)
    elif verb == "finalize" and found is not None:
        found["metadata"]["finalizers"] = []
        store.update(CONFIGMAPS, found)
