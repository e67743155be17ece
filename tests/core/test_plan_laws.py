"""Laws of the planner over random histories: it never deletes without every piece of evidence, and it comes to rest.

The model is the truth: it knows what really happened to files, worlds and objects, and judges each Delete by that and
not by the guards' own code. One crafted history per guard shows that taking that guard away is noticed.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kraynd.core.model import ClusterKey, Json
from kraynd.core.plan import (
    ClusterMemory,
    Create,
    Declared,
    Delete,
    Inputs,
    Patch,
    asked_to_adopt,
    asked_to_create,
    asked_to_delete,
    asked_to_prune,
    plan,
    remembered,
)
from krayne.config import ClusterConfig
from tests.core.jsonpatch import apply_patch
from tests.core.rays import ME, OTHER, live, manifest

NAMES = ("a", "b", "c", "d")
WORLDS = ("world-a", "world-b")
GRACE = 60.0
Key = tuple[str, str]  # world, name


class Model:
    """A home, two Kubernetes clusters, and what truly happened in them."""

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        self.without = without
        self.clock = 1000.0
        self.world = WORLDS[0]
        self.synced = self.healthy = self.marker = self.prune = True
        self.files: dict[str, int] = {}
        self.broken: set[str] = set()
        self.objects: dict[Key, Json] = {}
        self.memory: dict[Key, ClusterMemory] = {}
        self.missing: dict[str, float] = {}
        self.serial = 0
        self.made_by_us: set[str] = set()  # uids
        self.seen_here: dict[str, str] = {}  # the world in which this run last saw the file, by a pass over it
        self.vanished_in_this_run: dict[str, float] = {}
        self.requested: set[tuple[str, str, str]] = set()  # world, name, uid the user asked to be deleted
        self.confirmed: set[str] = set()
        self.deletes: list[Delete] = []
        self.violations: set[str] = set()

    # The user, the disk and the network

    def write(self, name: str, cpus: int = 1) -> None:
        self.files[name] = cpus
        self.broken.discard(name)
        self.missing.pop(name, None)
        self.vanished_in_this_run.pop(name, None)
        self.confirmed.discard(name)

    def remove(self, name: str) -> None:
        if self.files.pop(name, None) is not None:
            self.broken.discard(name)
            self.missing[name] = self.vanished_in_this_run[name] = self.clock

    def spoil(self, name: str) -> None:
        if name in self.files:
            self.broken.add(name)

    def restart(self) -> None:
        self.missing, self.vanished_in_this_run, self.seen_here = {}, {}, {}

    def switch(self, world: str) -> None:
        self.world = world

    def wait(self, seconds: float) -> None:
        self.clock += seconds

    def lose_memory(self) -> None:
        self.memory = {}
        self.restart()

    def ask_delete(self, name: str, *, force: bool = False) -> None:
        uid = self._uid(name)
        self._put(name, asked_to_delete(self._memory(name), uid=uid, force=force))
        if uid:
            self.requested.add((self.world, name, uid))
        self.remove(name)

    def ask_create(self, name: str) -> None:
        self._put(name, asked_to_create(self._memory(name)))
        self.write(name)

    def confirm(self, name: str) -> None:
        self._put(name, asked_to_prune(self._memory(name), uid=self._uid(name)))
        self.confirmed.add(name)

    def adopt(self, name: str) -> None:
        self._put(name, asked_to_adopt(self._memory(name)))

    # Others in Kubernetes

    def put_object(self, name: str, made: Json) -> str:
        self.serial += 1
        uid = f"uid-{self.serial}"
        made["metadata"] |= {"uid": uid, "resourceVersion": str(self.serial)}
        self.objects[(self.world, name)] = made
        return uid

    def foreign(self, name: str) -> None:
        self.put_object(name, live(manifest(ClusterConfig(name=name), OTHER)))

    def copy_with_our_marks(self, name: str) -> None:
        self.put_object(name, live(manifest(ClusterConfig(name=name))))

    def delete_behind_our_back(self, name: str) -> None:
        self.objects.pop((self.world, name), None)

    def touch(self, name: str, replicas: int) -> None:
        if (thing := self.objects.get((self.world, name))) is not None:
            for group in thing["spec"]["workerGroupSpecs"]:
                group["replicas"] = replicas
            self._bump(thing)

    def strip_version(self, name: str) -> None:
        if (thing := self.objects.get((self.world, name))) is not None:
            thing["metadata"].pop("resourceVersion", None)

    # The daemon

    def pass_over(self, name: str, *, crash: bool = False) -> None:
        """Plan once and carry it out; a crash loses the answer of the write."""
        if self.synced and name in self.files:
            self.seen_here[name] = self.world
        given = self.inputs(name)
        step = plan(given, self.without)
        self._put(name, step.memory)
        if isinstance(step.action, Delete):
            self._judge(name, step.action, given)
            self.objects.pop((self.world, name))
            if not crash:
                self._put(name, step.after)
        elif isinstance(step.action, Create):
            assert (self.world, name) not in self.objects
            uid = self.put_object(name, live(step.action.manifest))
            self.made_by_us.add(uid)
            if not crash and step.after is not None:
                self._put(name, remembered(step.after, self.objects[(self.world, name)], {}))
        elif isinstance(step.action, Patch):
            self._patch(name, step.action)
            if not crash:
                self._put(name, step.after)
        if crash:
            self.restart()

    def _patch(self, name: str, action: Patch) -> None:
        now = self.objects[(self.world, name)]
        uid, adopting = now["metadata"]["uid"], self._memory(name).adopting
        assert uid in self.made_by_us or adopting, "wrote to what is not ours"
        if adopting:
            self.made_by_us.add(uid)
        self.objects[(self.world, name)] = apply_patch(now, action.ops)
        self._bump(self.objects[(self.world, name)])

    def inputs(self, name: str) -> Inputs:
        key = ClusterKey("default", name)
        declared, made = None, None
        if name in self.files:
            made_of = ClusterConfig.model_validate({"name": name, "head": {"cpus": str(self.files[name])}})
            declared = Declared(key, made_of, f"{name}.yaml", "broken" if name in self.broken else "")
            made = manifest(made_of)
        known = [other for (world, other), memory in self.memory.items() if world == self.world and memory.uid]
        missed = self.missing.get(name)
        return Inputs(
            key=key,
            owner=ME,
            memory=self._memory(name),
            live=self.objects.get((self.world, name)),
            declared=declared,
            manifest=made,
            synced=self.synced,
            world=self.world,
            memory_world=self.world,
            seen_world=self.seen_here.get(name, ""),
            healthy=self.healthy,
            marker=self.marker,
            broken_files=len(self.broken),
            missing_for=None if missed is None else self.clock - missed,
            known=len(known),
            missing=sum(other not in self.files for other in known),
            prune=self.prune,
            grace=GRACE,
        )

    def _judge(self, name: str, action: Delete, given: Inputs) -> None:
        """Which of D1-D8 was not true of a deletion that was about to happen."""
        self.deletes.append(action)
        thing = self.objects[(self.world, name)]
        uid = thing["metadata"]["uid"]
        known = {other for (world, other), memory in self.memory.items() if world == self.world and memory.uid}
        gone = {other for other in known if other not in self.files}
        vanished = self.vanished_in_this_run.get(name)
        truths = {
            "D1": self.healthy and self.marker,
            "D2": vanished is not None and self.clock - vanished >= GRACE,
            "D3": not self.broken,
            "D4": gone < known and len(gone) * 2 <= len(known),
            "D5": uid in self.made_by_us and given.memory.uid == uid,
            "D6": self.seen_here.get(name) == self.world,
            "D7": self.synced,
            "D8": action.uid == uid and action.resource_version == thing["metadata"].get("resourceVersion", "?"),
        }
        if given.memory.delete_requested:
            assert (self.world, name, uid) in self.requested, "nobody asked for this object's deletion"
            needed = {"D5", "D8"} - ({"D8"} if given.memory.delete_force and action.uid == uid else set())
        elif name in self.confirmed:
            needed = {"D1", "D3", "D5", "D7", "D8"}
        else:
            assert self.prune, "prune is off"
            needed = set(truths)
        self.violations |= {one for one in needed if not truths[one]}

    def _memory(self, name: str) -> ClusterMemory:
        return self.memory.get((self.world, name), ClusterMemory())

    def _uid(self, name: str) -> str:
        thing = self.objects.get((self.world, name))
        return "" if thing is None else str(thing["metadata"]["uid"])

    def _put(self, name: str, memory: ClusterMemory | None) -> None:
        if memory is None:
            self.memory.pop((self.world, name), None)
        else:
            self.memory[(self.world, name)] = memory

    def _bump(self, thing: Json) -> None:
        self.serial += 1
        thing["metadata"]["resourceVersion"] = str(self.serial)


names = st.sampled_from(NAMES)


class Histories(RuleBasedStateMachine):
    """Anything may happen in any order; nothing is deleted without its evidence, nothing of others is written."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    @rule(name=names, cpus=st.integers(1, 3))
    def write(self, name: str, cpus: int) -> None:
        self.model.write(name, cpus)

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.model.remove(name)

    @rule(name=names)
    def spoil(self, name: str) -> None:
        self.model.spoil(name)

    @rule()
    def restart(self) -> None:
        self.model.restart()

    @rule(world=st.sampled_from(WORLDS))
    def switch(self, world: str) -> None:
        self.model.switch(world)

    @rule(seconds=st.sampled_from([1.0, 59.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.model.wait(seconds)

    @rule(flag=st.sampled_from(["synced", "healthy", "marker", "prune"]), value=st.booleans())
    def flip(self, flag: str, value: bool) -> None:
        setattr(self.model, flag, value)

    @rule(name=names, act=st.sampled_from(["confirm", "adopt", "ask_create", "ask_delete"]))
    def ask(self, name: str, act: str) -> None:
        getattr(self.model, act)(name)

    @rule(name=names, act=st.sampled_from(["foreign", "copy_with_our_marks", "delete_behind_our_back"]))
    def meddle(self, name: str, act: str) -> None:
        if act == "delete_behind_our_back" or (self.model.world, name) not in self.model.objects:
            getattr(self.model, act)(name)
        thing = self.model.objects.get((self.model.world, name))
        if thing is not None and act == "copy_with_our_marks" and not self.model.inputs(name).memory.uid:
            # A2: our marks where no uid is remembered count as ours, by decision.
            self.model.made_by_us.add(thing["metadata"]["uid"])

    @rule(name=names, replicas=st.integers(0, 5))
    def autoscale(self, name: str, replicas: int) -> None:
        self.model.touch(name, replicas)

    @precondition(lambda self: len(self.model.memory) > 2)
    @rule()
    def lose_memory(self) -> None:
        self.model.lose_memory()
        for thing in self.model.objects.values():
            if thing["metadata"]["annotations"].get("krayne.dev/home-id") == ME.home_id:
                self.model.made_by_us.add(thing["metadata"]["uid"])  # their marks are all that is left

    @rule(crash=st.booleans())
    def everything(self, crash: bool) -> None:
        for name in NAMES:
            self.model.pass_over(name, crash=crash and name == "b")

    @rule(name=names)
    def one(self, name: str) -> None:
        self.model.pass_over(name)

    @invariant()
    def no_deletion_without_evidence(self) -> None:
        assert self.model.violations == set()


Histories.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistories = Histories.TestCase


# One history per guard: all other evidence is there.


def _home(model: Model, count: int = 4) -> None:
    for name in NAMES[:count]:
        model.write(name)
        model.pass_over(name)


def _everything_holds(model: Model) -> None:
    _home(model)
    model.remove("a")
    model.wait(61)


def _home_gone_ill(model: Model) -> None:
    _everything_holds(model)
    model.marker = False


def _just_vanished(model: Model) -> None:
    _home(model)
    model.remove("a")
    model.wait(59)


def _vanished_while_down(model: Model) -> None:
    _home(model)
    model.remove("a")
    model.restart()
    model.seen_here["a"] = model.world
    model.wait(1e6)


def _another_file_broken(model: Model) -> None:
    _everything_holds(model)
    model.spoil("b")


def _last_cluster(model: Model) -> None:
    _home(model, 1)
    model.remove("a")
    model.wait(61)


def _most_of_them(model: Model) -> None:
    _home(model)
    for name in ("a", "b", "c"):
        model.remove(name)
    model.wait(61)


def _replaced_by_a_copy(model: Model) -> None:
    _everything_holds(model)
    model.copy_with_our_marks("a")


def _seen_elsewhere(model: Model) -> None:
    _home(model)
    model.switch("world-b")
    _home(model)
    model.remove("a")
    model.wait(61)
    model.switch("world-a")


def _cache_not_whole(model: Model) -> None:
    _everything_holds(model)
    model.synced = False


def _no_version(model: Model) -> None:
    _everything_holds(model)
    model.strip_version("a")


HISTORIES: tuple[tuple[str, Callable[[Model], None]], ...] = (
    ("D1", _home_gone_ill),
    ("D2", _just_vanished),
    ("D2", _vanished_while_down),
    ("D3", _another_file_broken),
    ("D4", _last_cluster),
    ("D4", _most_of_them),
    ("D5", _replaced_by_a_copy),
    ("D6", _seen_elsewhere),
    ("D7", _cache_not_whole),
    ("D8", _no_version),
)


def test_with_all_the_evidence_prune_deletes() -> None:
    model = Model()
    _everything_holds(model)
    model.pass_over("a")
    assert len(model.deletes) == 1
    assert model.violations == set()


def test_without_prune_nothing_is_deleted() -> None:
    model = Model()
    _everything_holds(model)
    model.prune = False
    model.pass_over("a")
    assert model.deletes == []


@pytest.mark.parametrize(("guard", "history"), HISTORIES)
def test_each_guard_refuses_alone_and_its_ablation_is_noticed(guard: str, history: Callable[[Model], None]) -> None:
    whole, ablated = Model(), Model(without=frozenset({guard}))
    for model in (whole, ablated):
        history(model)
        model.pass_over("a")
    assert whole.deletes == []
    assert len(ablated.deletes) == 1
    assert ablated.violations == {guard}


@pytest.mark.parametrize("guard", ["D5", "D8"])
def test_the_guards_of_an_explicit_request_are_each_needed(guard: str) -> None:
    whole, ablated = Model(), Model(without=frozenset({guard}))
    for model in (whole, ablated):
        _home(model)
        model.ask_delete("a")
        if guard == "D5":
            model.copy_with_our_marks("a")
            model.requested.add((model.world, "a", model.objects[(model.world, "a")]["metadata"]["uid"]))
        else:
            model.strip_version("a")
        model.pass_over("a")
    assert whole.deletes == []
    assert ablated.violations == {guard}


def test_a_request_made_in_another_world_is_refused_and_its_ablation_is_noticed() -> None:
    model = Model()
    _home(model)
    model.ask_delete("a")
    elsewhere = msgspec.structs.replace(model.inputs("a"), memory_world="world-b")
    assert plan(elsewhere).action is None
    assert isinstance(plan(elsewhere, frozenset({"D6"})).action, Delete)


# It comes to rest


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
        )  # fmt: skip
    )
    assert step.action is None
