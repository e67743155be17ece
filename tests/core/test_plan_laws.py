"""The planner over random histories never deletes without every piece of evidence, and never writes what is not ours.

One crafted history per guard shows that taking that guard away is noticed.
"""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kraynd.core.plan import Delete, plan
from tests.core.histories import NAMES, WORLDS, Model
from tests.core.rays import ME

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
