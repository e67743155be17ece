"""Vanished and broken files, and what the user asks to be deleted: the planner, rule by rule."""

import copy

import msgspec
import pytest

from kraynd.core.model import Json
from kraynd.core.plan import (
    FILE_GONE,
    ClusterMemory,
    Create,
    Delete,
    asked_to_create,
    asked_to_delete,
    asked_to_prune,
    plan,
)
from tests.core.rays import OTHER, config, inputs, live, manifest, settled


def test_a_vanished_file_leaves_the_cluster_alone_and_says_so() -> None:
    step = plan(inputs(now=live(), memory=settled(), missing_for=1e6))
    assert step.action is None
    assert step.notes == (FILE_GONE,)


def test_a_broken_file_keeps_its_last_good_spec() -> None:
    given = inputs(wanted=config(), now=live(), memory=settled(), broken_files=1)
    assert given.declared is not None
    broken = msgspec.structs.replace(given.declared, problem="demo.yaml:3: not YAML")
    assert plan(msgspec.structs.replace(given, declared=broken)).action is None


# Deleting


def test_krayne_delete_deletes_exactly_this_object() -> None:
    step = plan(inputs(now=live(uid="u1", version="77"), memory=asked_to_delete(settled())))
    assert step.action == Delete("u1", "77", "krayne delete")
    assert step.after is None


def test_an_unremembered_cluster_of_ours_is_deleted_by_the_uid_the_user_saw() -> None:
    step = plan(inputs(now=live(uid="u1", version="77"), memory=asked_to_delete(ClusterMemory(), uid="u1")))
    assert step.action == Delete("u1", "77", "krayne delete")


def test_force_drops_the_version_never_the_uid() -> None:
    step = plan(inputs(now=live(), memory=asked_to_delete(settled(), force=True)))
    assert step.action == Delete("u1", None, "krayne delete")


@pytest.mark.parametrize(
    ("theirs", "memory"),
    [
        (live(manifest(owner=OTHER)), settled()),
        (live(uid="another"), settled()),
        (live(), ClusterMemory()),  # made by us, says its mark, but after the request
    ],
)
def test_krayne_delete_refuses_what_is_not_ours_and_is_spent(theirs: Json, memory: ClusterMemory) -> None:
    step = plan(inputs(now=theirs, memory=asked_to_delete(memory)))
    assert step.action is None
    assert step.refusal is not None
    assert step.refusal.kind == "cluster-foreign"
    assert step.memory is not None
    assert not step.memory.delete_requested


def test_a_deleted_cluster_whose_file_is_still_there_does_not_come_back() -> None:
    step = plan(inputs(wanted=config(), memory=asked_to_delete(settled())))
    assert step.action is None
    assert "demo.yaml still declares it" in step.holds[0]
    assert step.memory is not None
    renewed = plan(inputs(wanted=config(), memory=asked_to_create(step.memory)))
    assert isinstance(renewed.action, Create)


def test_once_it_is_going_the_request_is_forgotten() -> None:
    going = live()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert plan(inputs(now=going, memory=asked_to_delete(settled()))).memory is None
    assert plan(inputs(memory=asked_to_delete(settled()))).memory is None


def test_a_request_waits_for_the_list_before_it_counts_as_done() -> None:
    asked = asked_to_delete(settled())
    assert plan(inputs(memory=asked, synced=False)).memory == asked


def test_confirm_deletes_what_prune_would_not_have_dared() -> None:
    given = inputs(now=live(), memory=asked_to_prune(settled()), known=1, missing=1)
    assert isinstance(plan(given).action, Delete)
    for change in ({"healthy": False}, {"marker": False}, {"broken_files": 1}, {"synced": False}):
        step = plan(msgspec.structs.replace(given, **change))
        assert step.action is None
        assert step.holds


def test_confirm_is_not_a_delete_that_met_nothing() -> None:
    asked = asked_to_prune(asked_to_delete(ClusterMemory()), uid="u1")
    step = plan(inputs(now=live(), memory=asked, healthy=False))  # confirm's own guards hold, not delete's fewer
    assert step.action is None


def test_confirm_is_void_once_the_file_is_back() -> None:
    step = plan(inputs(wanted=config(), now=live(), memory=asked_to_prune(settled())))
    assert step.action is None
    assert step.memory is not None
    assert not step.memory.confirmed_prune


def test_the_plan_leaves_its_inputs_alone() -> None:
    given = inputs(wanted=config(worker_groups=[{"name": "new"}]), now=live(), memory=settled())
    copied = copy.deepcopy(given)
    plan(given)
    assert given == copied
