"""The planner, rule by rule."""

from typing import Any

import msgspec
import pytest

from kraynd.core.manifest import HOME_ID_ANNOTATION, template_hashes
from kraynd.core.model import Json
from kraynd.core.plan import (
    CAME_BACK,
    ClusterMemory,
    Create,
    Inputs,
    Patch,
    Plan,
    asked_to_adopt,
    plan,
    remembered,
    unkept_fields,
)
from tests.core.jsonpatch import TestFailedError, apply_patch
from tests.core.rays import IMAGE, ME, OTHER, config, inputs, live, manifest, pod, settled


def patched(step: Plan) -> dict[str, Any]:
    """The patch's changes by path, its guards left out."""
    assert isinstance(step.action, Patch), step
    return {op["path"]: op.get("value") for op in step.action.ops if op["op"] != "test"}


def again(before: Inputs, step: Plan) -> Plan:
    """The plan after the step went in."""
    assert isinstance(step.action, Patch)
    assert step.after is not None
    now = apply_patch(before.live or {}, step.action.ops)
    return plan(msgspec.structs.replace(before, live=now, memory=step.after))


# Creating


def test_a_declared_cluster_that_is_absent_is_created_whole() -> None:
    step = plan(inputs(wanted=config()))
    assert isinstance(step.action, Create)
    assert step.action.manifest == manifest()
    assert step.action.reason == "declared in demo.yaml"


def test_memory_before_a_create_says_what_is_being_applied_and_after_it_what_was() -> None:
    step = plan(inputs(wanted=config()))
    assert step.memory is not None
    assert step.after is not None
    assert (step.memory.applying, step.memory.last_applied, step.memory.uid) == (manifest(), {}, "")
    assert (step.after.applying, step.after.last_applied) == ({}, manifest())
    assert remembered(step.after, live(uid="u7"), {}).uid == "u7"


def test_nothing_is_created_while_the_list_of_clusters_is_not_complete() -> None:
    step = plan(inputs(wanted=config(), synced=False))
    assert step.action is None
    assert step.holds


def test_deleted_behind_our_back_it_comes_back_and_says_so() -> None:
    step = plan(inputs(wanted=config(), memory=settled()))
    assert isinstance(step.action, Create)
    assert step.action.reason == CAME_BACK
    assert step.memory is not None
    assert step.memory.born == CAME_BACK
    assert step.memory.uid == ""


def test_a_cluster_being_deleted_by_others_is_left_until_it_is_gone() -> None:
    going = live()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert plan(inputs(wanted=config(), now=going, memory=settled())).action is None


def test_a_create_whose_answer_was_lost_is_recognised_by_its_marks() -> None:
    lost = ClusterMemory(ours=True, applying=manifest())
    step = plan(inputs(wanted=config(), now=live(uid="u9"), memory=lost))
    assert step.action is None
    assert step.memory is not None
    assert step.memory.uid == "u9"
    assert step.memory.last_applied == manifest()


def test_undeclared_and_absent_is_forgotten_but_not_while_the_home_is_ill() -> None:
    assert plan(inputs(memory=settled())).memory is None
    assert plan(inputs(memory=settled(), healthy=False)).memory == settled()
    assert plan(inputs(memory=settled(), synced=False)).memory == settled()
    about_to_be_declared = ClusterMemory(image=IMAGE, extra_ports=((80, 0),))
    assert plan(inputs(memory=about_to_be_declared)).memory == about_to_be_declared


# Whose it is


def test_another_homes_cluster_is_never_written() -> None:
    theirs = live(manifest(owner=OTHER))
    step = plan(inputs(wanted=config(head={"cpus": "8"}), now=theirs))
    assert step.action is None
    assert (step.ownership.kind, step.ownership.owner) == ("foreign", "bob@desk")
    assert step.holds == ("owned by bob@desk: krayne leaves it alone",)


def test_a_cluster_made_by_hand_is_never_written() -> None:
    by_hand = live()
    by_hand["metadata"]["labels"] = {}
    by_hand["metadata"]["annotations"] = {}
    step = plan(inputs(wanted=config(), now=by_hand))
    assert step.action is None
    assert step.holds == ("exists, not ours: krayne adopt demo",)


def test_an_object_with_our_marks_but_another_uid_is_not_ours() -> None:
    step = plan(inputs(wanted=config(head={"cpus": "8"}), now=live(uid="copied"), memory=settled()))
    assert step.action is None
    assert step.ownership.kind == "unowned"


@pytest.mark.parametrize("marks", [{}, {HOME_ID_ANNOTATION: "home-2", "krayne.dev/owner": "bob@desk"}])
def test_adopting_marks_it_and_is_spent_once(marks: Json) -> None:
    theirs = live()
    theirs["metadata"]["annotations"] = dict(marks)
    memory = asked_to_adopt(ClusterMemory())
    step = plan(inputs(now=theirs, memory=memory))
    assert isinstance(step.action, Patch)
    mine = apply_patch(theirs, step.action.ops)
    assert mine["metadata"]["annotations"][HOME_ID_ANNOTATION] == ME.home_id
    assert step.after is not None
    assert step.after.uid == "u1"
    retaken = live(manifest(owner=OTHER))  # its other home adopts it back: no fight
    assert plan(inputs(now=retaken, memory=step.after, wanted=config(head={"cpus": "8"}))).action is None


def test_adopting_a_declared_cluster_brings_it_to_what_is_declared() -> None:
    theirs = live(manifest(owner=OTHER))
    step = plan(inputs(now=theirs, memory=asked_to_adopt(ClusterMemory()), wanted=config(head={"cpus": "2"})))
    changes = patched(step)
    assert changes["/metadata/annotations/krayne.dev~1home-id"] == ME.home_id
    assert changes["/spec/headGroupSpec/template/spec/containers/0/resources/limits/cpu"] == "2"


# Changing


def test_nothing_to_do_when_it_is_as_declared_whatever_was_defaulted() -> None:
    assert plan(inputs(wanted=config(), now=live(), memory=settled())).action is None


def test_a_patch_is_guarded_by_the_version_it_was_planned_from() -> None:
    step = plan(inputs(wanted=config(head={"cpus": "2"}), now=live(version="41"), memory=settled()))
    assert isinstance(step.action, Patch)
    assert step.action.ops[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "41"}
    with pytest.raises(TestFailedError):
        apply_patch(live(version="42"), step.action.ops)


def test_a_groups_change_is_guarded_by_its_name_at_its_index() -> None:
    two = [{"name": "a"}, {"name": "b", "max_replicas": 3}]
    raised = [{"name": "a"}, {"name": "b", "max_replicas": 5}]
    before = config(worker_groups=two)
    step = plan(inputs(wanted=config(worker_groups=raised), now=live(manifest(before)), memory=settled(before)))
    assert isinstance(step.action, Patch)
    assert step.action.ops[1] == {"op": "test", "path": "/spec/workerGroupSpecs/1/groupName", "value": "b"}
    assert patched(step) == {"/spec/workerGroupSpecs/1/maxReplicas": 5}


def test_groups_are_found_by_name_wherever_they_are_and_never_reordered() -> None:
    before = config(worker_groups=[{"name": "a"}, {"name": "b"}])
    swapped = config(worker_groups=[{"name": "b"}, {"name": "a"}])
    assert plan(inputs(wanted=swapped, now=live(manifest(before)), memory=settled(before))).action is None


def test_a_new_group_is_appended() -> None:
    wanted = config(worker_groups=[{"name": "gpu", "gpus": 1}, {}])
    step = plan(inputs(wanted=wanted, now=live(), memory=settled()))
    assert patched(step) == {"/spec/workerGroupSpecs/-": manifest(wanted)["spec"]["workerGroupSpecs"][0]}
    assert again(inputs(wanted=wanted, now=live(), memory=settled()), step).action is None


def test_settings_the_autoscaler_reads_live_need_no_restart() -> None:
    wanted = config(autoscaler={"idle_timeout_seconds": 5, "upscaling_mode": "Aggressive"})
    step = plan(inputs(wanted=wanted, now=live(), memory=settled(), pods=(pod("demo-head-1"),)))
    assert patched(step) == {
        "/spec/autoscalerOptions/idleTimeoutSeconds": 5,
        "/spec/autoscalerOptions/upscalingMode": "Aggressive",
    }
    assert step.restart_needed == ()


def test_what_others_set_and_we_never_declared_stays() -> None:
    theirs = live()
    theirs["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team"
    theirs["metadata"]["annotations"]["other.io/note"] = "x"
    theirs["spec"]["suspend"] = True
    theirs["spec"]["headGroupSpec"]["template"]["spec"]["tolerations"] = [{"key": "kueue", "operator": "Exists"}]
    theirs["spec"]["headGroupSpec"]["template"]["spec"]["containers"].append({"name": "sidecar", "image": "x"})
    theirs["spec"]["workerGroupSpecs"].append({"groupName": "theirs", "template": {}, "maxReplicas": 3})
    assert plan(inputs(wanted=config(), now=theirs, memory=settled())).action is None


def test_what_we_declared_and_somebody_changed_is_changed_back() -> None:
    theirs = live()
    theirs["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] = "evil"
    step = plan(inputs(wanted=config(), now=theirs, memory=settled()))
    assert list(patched(step).values()) == ["rayproject/ray:2.50.0-py311"]


def test_what_we_no_longer_declare_is_taken_away_and_nothing_beside_it() -> None:
    env = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    before = config(head={"pod": {**env, "nodeSelector": {"disk": "ssd"}, "labels": {"team": "x"}}})
    theirs = live(manifest(before))
    spec = theirs["spec"]["headGroupSpec"]["template"]["spec"]
    spec["containers"][0]["env"].insert(0, {"name": "THEIRS", "value": "3"})
    spec["nodeSelector"]["zone"] = "a"
    wanted = config(head={"pod": {"env": [{"name": "B", "value": "2"}]}})
    given = inputs(wanted=wanted, now=theirs, memory=settled(before))
    step = plan(given)
    assert isinstance(step.action, Patch)
    template = apply_patch(theirs, step.action.ops)["spec"]["headGroupSpec"]["template"]
    assert [one["name"] for one in template["spec"]["containers"][0]["env"]] == ["THEIRS", "B"]
    assert template["spec"]["nodeSelector"] == {"zone": "a"}
    assert "labels" not in template["metadata"]
    assert again(given, step).action is None


def test_fields_of_a_write_that_never_got_its_answer_are_still_ours_to_remove() -> None:
    half = config(head={"pod": {"env": [{"name": "A", "value": "1"}]}})
    memory = settled(config(), applying=manifest(half))  # the patch went in, its answer did not arrive
    step = plan(inputs(wanted=config(), now=live(manifest(half)), memory=memory))
    assert isinstance(step.action, Patch)
    container = apply_patch(live(manifest(half)), step.action.ops)["spec"]["headGroupSpec"]["template"]["spec"]
    assert "env" not in container["containers"][0]


def test_a_template_change_is_patched_for_the_next_pod_and_says_what_needs_a_restart() -> None:
    wanted = config(head={"image": "rayproject/ray:2.51.0"}, worker_groups=[{"cpus": "3"}])
    pods = (pod("demo-head-1"), pod("w1", group="worker"), pod("w2", group="worker"))
    given = inputs(wanted=wanted, now=live(), memory=settled(), pods=pods)
    step = plan(given)
    told = ("head: image", "worker: cpu (2 of 2 pods)")
    assert step.restart_needed == told
    after = again(given, step)
    assert after.action is None
    assert after.restart_needed == told
    new = template_hashes(manifest(wanted))
    fresh = (
        pod("demo-head-2", template_hash=new["headgroup"]),
        pod("w3", group="worker", template_hash=new["worker"]),
        pods[2],
    )
    assert after.memory is not None
    later = plan(msgspec.structs.replace(given, live=live(manifest(wanted)), memory=after.memory, pods=fresh))
    assert later.restart_needed == ("worker: cpu (1 of 2 pods)",)
    assert later.memory is not None
    assert later.memory.changed == {"worker": ("cpu",)}


def test_changing_back_needs_no_restart() -> None:
    memory = settled(config(head={"cpus": "2"}), changed={"headgroup": ("cpu",)})
    given = inputs(
        wanted=config(), now=live(manifest(config(head={"cpus": "2"}))), memory=memory, pods=(pod("demo-head-1"),)
    )
    step = plan(given)
    assert isinstance(step.action, Patch)
    assert step.restart_needed == ()
    assert again(given, step).restart_needed == ()


def test_suspending_is_one_field() -> None:
    step = plan(inputs(wanted=config(), now=live(), memory=settled(suspended=True)))
    assert patched(step) == {"/spec/suspend": True}


def test_a_field_the_api_server_does_not_keep_is_tried_once_and_named() -> None:
    wanted = config(head={"pod": {"nodeSelector": {"disk": "ssd"}}})
    given = inputs(wanted=wanted, now=live(), memory=settled())
    step = plan(given)
    assert isinstance(step.action, Patch)
    assert step.after is not None
    answer = apply_patch(live(), step.action.ops)
    del answer["spec"]["headGroupSpec"]["template"]["spec"]["nodeSelector"]  # an older schema prunes it
    memory = remembered(step.after, answer, unkept_fields(given, step.after, answer))
    later = plan(msgspec.structs.replace(given, live=answer, memory=memory))
    assert later.action is None
    assert "nodeSelector" in later.notes[0]
    other = config(head={"pod": {"nodeSelector": {"disk": "hdd"}}})
    assert later.memory is not None
    retried = plan(inputs(wanted=other, now=answer, memory=later.memory))
    assert isinstance(retried.action, Patch)


# The number of workers


def scaled(replicas: int, **more: Any) -> Json:
    return {"name": "worker", "replicas": replicas, "max_replicas": 10, **more}


@pytest.mark.parametrize("found", [0, 1, 7, 10, 12])
def test_with_the_autoscaler_replicas_and_scale_strategy_never_drift(found: int) -> None:
    wanted = config(worker_groups=[scaled(3)])
    theirs = live(manifest(wanted))
    theirs["spec"]["workerGroupSpecs"][0] |= {"replicas": found, "scaleStrategy": {"workersToDelete": ["x"]}}
    assert plan(inputs(wanted=wanted, now=theirs, memory=settled(wanted))).action is None


def test_raising_replicas_with_the_autoscaler_is_a_hint_given_once() -> None:
    before, wanted = config(worker_groups=[scaled(1)]), config(worker_groups=[scaled(4)])
    given = inputs(wanted=wanted, now=live(manifest(before)), memory=settled(before))
    step = plan(given)
    assert patched(step) == {"/spec/workerGroupSpecs/0/replicas": 4}
    assert step.after is not None
    shrunk = live(manifest(before))  # the autoscaler takes them away again: it may
    assert plan(msgspec.structs.replace(given, live=shrunk, memory=step.after)).action is None


def test_the_hint_survives_a_write_that_did_not_arrive() -> None:
    before, wanted = config(worker_groups=[scaled(1)]), config(worker_groups=[scaled(4)])
    tried = settled(before, applying=manifest(wanted))
    step = plan(inputs(wanted=wanted, now=live(manifest(before)), memory=tried))
    assert patched(step) == {"/spec/workerGroupSpecs/0/replicas": 4}


def test_raising_below_what_the_autoscaler_has_is_nothing() -> None:
    before, wanted = config(worker_groups=[scaled(1)]), config(worker_groups=[scaled(4)])
    theirs = live(manifest(before))
    theirs["spec"]["workerGroupSpecs"][0]["replicas"] = 6
    step = plan(inputs(wanted=wanted, now=theirs, memory=settled(before)))
    assert step.action is None
    assert step.memory is not None
    assert step.memory.last_applied == manifest(wanted)


def test_lowering_replicas_with_the_autoscaler_is_not_done_and_said() -> None:
    before, wanted = config(worker_groups=[scaled(5)]), config(worker_groups=[scaled(1)])
    step = plan(inputs(wanted=wanted, now=live(manifest(before)), memory=settled(before)))
    assert step.action is None
    assert step.notes == ("the autoscaler owns the replicas of worker: lower max_replicas to force fewer",)


@pytest.mark.parametrize("target", [0, 2, 5])
def test_without_the_autoscaler_replicas_are_ours_both_ways(target: int) -> None:
    off = {"autoscaler": {"enabled": False}}
    before, wanted = config(worker_groups=[scaled(3)], **off), config(worker_groups=[scaled(target)], **off)
    step = plan(inputs(wanted=wanted, now=live(manifest(before)), memory=settled(before)))
    assert patched(step) == {"/spec/workerGroupSpecs/0/replicas": target}


# Retiring a group


def test_a_removed_group_is_closed_drained_and_kept_at_zero() -> None:
    before = config(worker_groups=[{"name": "old", "replicas": 2, "max_replicas": 4}, {"name": "keep"}])
    wanted = config(worker_groups=[{"name": "keep"}])
    pods = (pod("w1", group="old"), pod("w2", group="old"), pod("k1", group="keep"))
    given = inputs(wanted=wanted, now=live(manifest(before)), memory=settled(before), pods=pods)
    step = plan(given)
    assert patched(step) == {
        "/spec/workerGroupSpecs/0/minReplicas": 0,
        "/spec/workerGroupSpecs/0/maxReplicas": 0,
        "/spec/workerGroupSpecs/0/replicas": 0,
        "/spec/workerGroupSpecs/0/scaleStrategy": {"workersToDelete": ["w1", "w2"]},
    }
    assert step.notes == ("worker group old is being retired: 2 pods left",)
    after = again(given, step)
    assert after.action is None
    assert after.memory is not None
    assert after.memory.retiring == ("old",)
    now = apply_patch(given.live or {}, step.action.ops)  # type: ignore[union-attr]
    late = (pod("w3", group="old"),)  # one the autoscaler had already asked for
    more = plan(msgspec.structs.replace(given, live=now, memory=after.memory, pods=late))
    assert patched(more) == {"/spec/workerGroupSpecs/0/scaleStrategy": {"workersToDelete": ["w3"]}}
    now["spec"]["workerGroupSpecs"][0] |= {"replicas": 3, "scaleStrategy": {"workersToDelete": []}}
    done = plan(msgspec.structs.replace(given, live=now, memory=after.memory, pods=()))
    assert done.action is None, "the entry stays where it is, and the autoscaler's writes to it are its own"


def test_a_retired_group_that_is_declared_again_comes_back() -> None:
    before = config(worker_groups=[{"name": "old", "replicas": 2, "max_replicas": 4}])
    now = live(manifest(before))
    now["spec"]["workerGroupSpecs"][0] |= {"replicas": 0, "minReplicas": 0, "maxReplicas": 0}
    memory = settled(config(worker_groups=[]), retiring=("old",), applying=manifest(before))
    step = plan(inputs(wanted=before, now=now, memory=memory))
    assert patched(step) == {"/spec/workerGroupSpecs/0/maxReplicas": 4, "/spec/workerGroupSpecs/0/replicas": 2}
    assert step.after is not None
    assert step.after.retiring == ()


def test_without_the_autoscaler_a_retired_group_names_no_pods() -> None:
    off = {"autoscaler": {"enabled": False}}
    before, wanted = config(worker_groups=[scaled(3)], **off), config(worker_groups=[], **off)
    given = inputs(wanted=wanted, now=live(manifest(before)), memory=settled(before), pods=(pod("w", group="worker"),))
    assert set(patched(plan(given))) == {
        f"/spec/workerGroupSpecs/0/{field}" for field in ("minReplicas", "maxReplicas", "replicas")
    }


def test_a_group_we_never_declared_is_not_retired_even_without_memory() -> None:
    theirs = live()
    theirs["spec"]["workerGroupSpecs"].append({"groupName": "theirs", "template": {}, "maxReplicas": 3})
    assert plan(inputs(wanted=config(), now=theirs, memory=ClusterMemory(uid="u1"))).action is None
