"""The planner comes to rest: applied once there is nothing left to do, and others' writes are no reason to write."""

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from kraynd.core.model import ClusterKey, Json
from kraynd.core.plan import ClusterMemory, Declared, Inputs, Patch, plan
from krayne.config import ClusterConfig
from tests.core.jsonpatch import apply_patch
from tests.core.rays import ME, live, manifest


def groups() -> st.SearchStrategy[list[dict[str, Any]]]:
    one = st.fixed_dictionaries(
        {
            "name": st.sampled_from(["w", "x", "y", "z"]),
            "min_replicas": st.integers(0, 2),
            "replicas": st.integers(2, 4),
            "max_replicas": st.integers(4, 6),
            "cpus": st.sampled_from(["1", "2", "500m"]),
            "gpus": st.integers(0, 1),
            "pod": fragments(),
        }
    )
    return st.lists(one, max_size=3, unique_by=lambda group: group["name"])


def fragments() -> st.SearchStrategy[dict[str, Any]]:
    env = st.dictionaries(st.sampled_from(["A", "B", "C"]), st.sampled_from(["1", "2"]), min_size=1)
    labels = st.dictionaries(st.sampled_from(["l/m", "n-o", "p.q/r"]), st.sampled_from(["1", "2"]), min_size=1)
    keys = st.lists(st.sampled_from(["t1", "t2", "t3"]), unique=True, min_size=1)
    return st.fixed_dictionaries(
        {},
        optional={
            "env": env.map(lambda pairs: [{"name": name, "value": value} for name, value in pairs.items()]),
            "labels": labels,
            "annotations": labels,
            "nodeSelector": st.dictionaries(st.sampled_from(["disk", "zone"]), st.sampled_from(["a", "b"]), min_size=1),
            "tolerations": keys.map(lambda names: [{"key": name, "operator": "Exists"} for name in names]),
            "serviceAccountName": st.sampled_from(["one", "two"]),
        },
    )


def configs() -> st.SearchStrategy[ClusterConfig]:
    return st.fixed_dictionaries(
        {
            "name": st.just("demo"),
            "head": st.fixed_dictionaries({"cpus": st.sampled_from(["1", "2"]), "pod": fragments()}),
            "worker_groups": groups(),
            "services": st.fixed_dictionaries({"notebook": st.booleans(), "ssh": st.booleans()}),
            "autoscaler": st.fixed_dictionaries({"enabled": st.booleans(), "idle_timeout_seconds": st.integers(1, 3)}),
        }
    ).map(ClusterConfig.model_validate)


@st.composite
def meddled(draw: st.DrawFn, made: Json) -> Json:
    """The object after others had their way with it."""
    thing = copy.deepcopy(made)
    if draw(st.booleans()):
        thing["metadata"].setdefault("labels", {})["queue"] = "x"
    template = thing["spec"]["headGroupSpec"]["template"]["spec"]
    if draw(st.booleans()):
        template.setdefault("tolerations", []).insert(0, {"key": "theirs", "operator": "Exists"})
    if draw(st.booleans()):
        template["containers"][0].setdefault("env", []).insert(0, {"name": "THEIRS", "value": "x"})
    for group in thing["spec"]["workerGroupSpecs"]:
        group |= draw(st.fixed_dictionaries({}, optional={"replicas": st.integers(0, 9), "maxReplicas": st.just(8)}))
    if draw(st.booleans()):
        thing["spec"]["workerGroupSpecs"].append({"groupName": "theirs", "template": {}, "maxReplicas": 3})
    return thing


@given(st.data(), configs(), configs(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_applied_once_there_is_nothing_left_to_do(
    data: st.DataObject, old: ClusterConfig, new: ClusterConfig, crashed: bool
) -> None:
    before = data.draw(meddled(live(manifest(old))))
    memory = ClusterMemory(uid="u1", ours=True, last_applied=manifest(old), applying=manifest(new) if crashed else {})
    key = ClusterKey("default", "demo")
    given_ = Inputs(
        key=key, owner=ME, memory=memory, live=before, declared=Declared(key, new, "demo.yaml"), manifest=manifest(new),
        synced=True, world="w", memory_world="w",
    )  # fmt: skip
    step = plan(given_)
    after, remains = before, step.memory
    if isinstance(step.action, Patch):
        check_no_whole_lists(step.action, before)
        after, remains = apply_patch(before, step.action.ops), step.after
    else:
        assert step.action is None
    assert remains is not None
    rest = plan(msgspec.structs.replace(given_, live=after, memory=remains))
    assert rest.action is None, rest.action
    assert rest.memory == remains
    assert_declared(manifest(new), after)
    assert_others_kept(before, after)


def check_no_whole_lists(action: Patch, before: Json) -> None:
    """Nothing PUT-like: no list of elements with names is ever replaced, no group is ever taken out of the list."""
    for op in action.ops:
        assert not (op["op"] == "replace" and isinstance(op["value"], list)), op
        if op["path"] == "/spec/workerGroupSpecs":
            assert op == {"op": "add", "path": "/spec/workerGroupSpecs", "value": []}
            assert "workerGroupSpecs" not in before["spec"]
        if op["path"].startswith("/spec/workerGroupSpecs/") and op["path"].count("/") == 3:
            assert op["op"] == "add"
            assert op["path"].endswith("/-")


def assert_declared(wanted: Any, found: Any, member: str = "", autoscaled: bool = False) -> None:
    """Every leaf that is declared is there."""
    if isinstance(wanted, dict):
        autoscaled = autoscaled or bool(wanted.get("enableInTreeAutoscaling"))
        for key, value in wanted.items():
            if not (autoscaled and key == "replicas"):
                assert_declared(value, found[key], key, autoscaled)
    elif isinstance(wanted, list) and wanted and isinstance(wanted[0], dict):
        names = ("name", "groupName", "key", "containerPort")
        for one in wanted:
            name = next((name for name in names if name in one), None)
            assert_declared(one, next(other for other in found if other.get(name) == one[name]), member, autoscaled)
    elif wanted not in ([], {}):
        assert wanted == found, member


def assert_others_kept(before: Json, after: Json) -> None:
    assert [group["groupName"] for group in after["spec"]["workerGroupSpecs"]][
        : len(before["spec"]["workerGroupSpecs"])
    ] == [group["groupName"] for group in before["spec"]["workerGroupSpecs"]]
    assert list(_theirs(before)) == list(_theirs(after))


def _theirs(thing: Any) -> Iterator[str]:
    if isinstance(thing, dict):
        if "theirs" in thing.values() or "THEIRS" in thing.values():
            yield str(sorted(thing.items(), key=str))
        for value in thing.values():
            yield from _theirs(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from _theirs(value)


@given(configs(), st.lists(st.integers(0, 20), max_size=4))
@settings(max_examples=200, deadline=None)
def test_whatever_the_autoscaler_writes_is_no_reason_to_write(made_of: ClusterConfig, writes: list[int]) -> None:
    if not made_of.autoscaler.enabled:
        return
    key = ClusterKey("default", "demo")
    now = live(manifest(made_of))
    for index, replicas in enumerate(writes[: len(now["spec"]["workerGroupSpecs"])]):
        now["spec"]["workerGroupSpecs"][index] |= {
            "replicas": replicas,
            "scaleStrategy": {"workersToDelete": [f"w{replicas}"]},
        }
    memory = ClusterMemory(uid="u1", ours=True, last_applied=manifest(made_of))
    step = plan(
        Inputs(
            key=key,
            owner=ME,
            memory=memory,
            live=now,
            declared=Declared(key, made_of, "demo.yaml"),
            manifest=manifest(made_of),
            synced=True,
            world="w",
            memory_world="w",
        )
    )
    assert step.action is None
