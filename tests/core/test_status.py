"""The honest status: each of the ten steps of the algorithm, on pods and conditions as the API server shows them."""

from typing import Any

import pytest

from kraynd.core.events import happenings
from kraynd.core.manifest import template_hashes
from kraynd.core.model import Json, PodTarget
from kraynd.core.status import PHASES, Facts, Status, assess, head_target
from kraynd.core.trouble import HeadSeen, note_heads
from tests.core.rays import KEY, WALL, condition, config, event, live, manifest, pod, provisioned

HEAD = "demo-head-1"
BUSY = config(worker_groups=[{"name": "worker", "replicas": 2, "max_replicas": 4}])


def status(now: Json | None = None, *pods: Json, events: tuple[Json, ...] = (), **facts: Any) -> Status:
    given: dict[str, Any] = {"live": now, "pods": pods, "events": happenings(events), "declared": True, **facts}
    found = assess(Facts(**given), wall=WALL)
    assert found.phase in PHASES
    assert found.reason
    return found


def told(found: Status) -> tuple[str, str]:
    return found.phase, found.reason


def busy(**more: Any) -> Json:
    """Two workers wanted, and KubeRay says ready, as it does for ever."""
    return live(manifest(BUSY), **provisioned(**more))


# Before the steps: the connection


def test_an_unreachable_api_keeps_the_last_known_facts() -> None:
    before = status(busy(), pod(HEAD), pod("w1", group="worker"), pod("w2", group="worker"))
    cached = status(busy(), pod(HEAD), condition="unreachable", trouble="the API does not answer", previous=before)
    assert told(cached) == ("unreachable", "the API does not answer; last known: ready")
    assert cached.head is not None
    gone = status(None, condition="login-needed", trouble="the token expired", previous=cached)
    assert told(gone) == ("unreachable", "the token expired; last known: ready")
    assert gone.head == cached.head
    assert gone.since == cached.since


def test_no_list_yet_is_not_absence() -> None:
    assert status(None, synced=False).phase == "unreachable"
    assert status(busy(), pod(HEAD), synced=False).phase == "ready"


# Step 1


def test_1_declared_and_not_there() -> None:
    assert told(status(None)) == ("absent", "not created yet")
    assert told(status(None, held="namespace ml does not exist")) == ("absent", "namespace ml does not exist")
    assert told(status(None, declared=False)) == ("absent", "it does not exist in Kubernetes")


def test_1_what_we_refuse_ourselves_is_invalid() -> None:
    assert told(status(None, invalid="name is too long")) == ("invalid", "name is too long")


def test_1_being_deleted_says_what_it_waits_for() -> None:
    going = busy()
    going["metadata"] |= {"deletionTimestamp": "2030-03-17T17:40:00Z", "finalizers": ["ray.io/gcs-ft"]}
    found = status(going, pod(HEAD, deleting=True))
    assert told(found) == ("deleting", "waiting for 1 pod (demo-head-1); finalizers ray.io/gcs-ft")
    many = [pod(f"w{n}", group="worker") for n in range(5)]
    assert status(going, *many).reason.startswith("waiting for 5 pods (w0, w1, w2 and 2 more)")


# Step 2


def test_2_the_operator_refused_the_spec() -> None:
    found = status(live(), events=(event("u1", "InvalidRayClusterSpec", "the spec is invalid: minReplicas"),))
    assert told(found) == ("invalid", "the spec is invalid: minReplicas")
    anothers = status(live(), events=(event("u2", "InvalidRayClusterSpec", "not this one"),))
    assert anothers.phase == "pending"


def test_2_an_unnoticed_cluster_is_pending_and_then_the_operator_is_missing() -> None:
    fresh = status(live(age=5))
    assert told(fresh) == ("pending", "waiting for the KubeRay operator")
    assert fresh.next_check == pytest.approx(10.1)
    assert told(status(live(age=16))) == (
        "pending",
        "the KubeRay operator is not running, or does not watch namespace default",
    )


def test_2_an_old_operator_without_conditions_is_noticed_by_its_pods() -> None:
    assert status(live(age=100), pod(HEAD)).phase == "ready"


# Step 3


def test_3_suspended() -> None:
    stopped = busy()
    stopped["spec"]["suspend"] = True
    assert told(status(stopped)) == ("suspended", "suspended: no pods run")
    assert told(status(stopped, pod(HEAD, deleting=True))) == (
        "suspended",
        "suspending: waiting for 1 pod (demo-head-1)",
    )
    assert status(stopped).workers.desired == 0


def test_3_queued_by_kueue() -> None:
    queued = live(manifest(), conditions=[condition("HeadPodReady", "False")])
    queued["spec"]["suspend"] = True
    queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-a"
    assert told(status(queued)) == ("suspended", "queued by Kueue in team-a")
    remote = busy()
    remote["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    assert told(status(remote)) == ("suspended", "queued: managed by kueue.x-k8s.io/multikueue")


# Step 4

QUOTA = (
    'failed to create head pod default/, pods "demo-head-x" is forbidden: exceeded quota: team, '
    "requested: cpu=2, used: cpu=0, limited: cpu=1"
)


def test_4_a_refused_head_shows_the_quota() -> None:
    failed = live(manifest(), conditions=[condition("ReplicaFailure", "True", "FailedCreateHeadPod", QUOTA)])
    assert told(status(failed)) == (
        "pending",
        "quota: exceeded quota: team, requested: cpu=2, used: cpu=0, limited: cpu=1",
    )


def test_4_refused_workers_degrade_a_running_cluster() -> None:
    failure = condition("ReplicaFailure", "True", "FailedCreateWorkerPod", QUOTA)
    found = status(live(manifest(BUSY), conditions=[failure]), pod(HEAD))
    assert found.phase == "degraded"
    assert found.reason.startswith("workers: quota: exceeded quota: team")


# Step 5


def test_5_no_head_yet_and_head_gone_though_kuberay_says_ready() -> None:
    assert told(status(busy())) == ("pending", "the head pod is being created")
    heads = (HeadSeen("uid-old", WALL - 500, WALL - 1, "OOMKilled (exit code 137)"),)
    assert told(status(busy(), heads=heads)) == (
        "pending",
        "the head is being replaced; the last one ended by OOMKilled (exit code 137)",
    )


def test_5_a_terminating_head_is_no_head_whatever_its_condition_says() -> None:
    found = status(busy(), pod(HEAD, deleting=True, node="node-7"))
    assert told(found) == ("pending", "waiting for the old head to stop: demo-head-1 on node node-7")
    why = "The node was low on resource: memory"
    found = status(busy(), pod(HEAD, deleting=True, node="", phase="Failed", reason="Evicted", message=why))
    assert found.reason.endswith("demo-head-1; it ended by Evicted: The node was low on resource: memory")


def test_5_a_head_of_the_deleted_cluster_of_this_name_is_not_ours() -> None:
    old = pod(HEAD)
    old["metadata"]["ownerReferences"] = [{"kind": "RayCluster", "name": "demo", "uid": "u0"}]
    found = status(busy(), old)
    assert told(found) == ("pending", "waiting for 1 pod of the deleted cluster of this name to go")
    assert found.head is None
    old["metadata"]["ownerReferences"][0]["uid"] = "u1"
    assert status(busy(), old).phase == "ready"


# Step 6


def unschedulable(name: str = HEAD, **more: Any) -> Json:
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/3 ..."
    waits = condition("PodScheduled", "False", "Unschedulable", message)
    return pod(name, phase="Pending", node="", conditions=(waits,), container={}, **more)


def test_6_unschedulable_with_what_the_node_autoscaler_says() -> None:
    reason = "head: unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
    assert told(status(busy(), unschedulable())) == ("pending", reason)
    for word, text in (
        ("TriggeredScaleUp", "a node is being added"),
        ("NotTriggerScaleUp", "no node group can fit it"),
    ):
        found = status(busy(), unschedulable(), events=(event(f"uid-{HEAD}", word, "..."),))
        assert found.reason == f"{reason} ({text})"


def test_6_held_by_a_scheduling_gate() -> None:
    gated = pod(
        HEAD, phase="Pending", node="", container={},
        conditions=(condition("PodScheduled", "False", "SchedulingGated", "Scheduling is blocked"),),
    )  # fmt: skip
    assert status(busy(), gated).reason == "head: held back by a scheduling gate: Scheduling is blocked"


def waiting(reason: str, message: str = "", **more: Any) -> Json:
    return pod(HEAD, phase="Pending", container={"waiting": {"reason": reason, "message": message}}, **more)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("ImagePullBackOff", "image pull back-off: rayproject/ray:9.9"),
        ("ErrImagePull", "image cannot be pulled: rayproject/ray:9.9"),
        ("InvalidImageName", "image name is invalid: rayproject/ray:9.9"),
    ],
)
def test_6_images(word: str, words: str) -> None:
    assert told(status(busy(), waiting(word, image="rayproject/ray:9.9"))) == ("pending", f"head: {words}")


def test_6_init_containers_count_too() -> None:
    init = {"name": "prepare", "image": "x:1", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    found = status(busy(), pod(HEAD, phase="Pending", container={}, initContainerStatuses=[init]))
    assert found.reason == "head: image pull back-off: x:1"


def test_6_a_missing_secret() -> None:
    found = status(busy(), waiting("CreateContainerConfigError", 'secret "token" not found'))
    assert found.reason == 'head: container ray-head: secret "token" not found'


def test_6_a_wait_unknown_here_is_told_in_the_nodes_words() -> None:
    found = status(busy(), waiting("RayNotInstalled", "Ray is not installed: pip install 'kraynd[sandbox]'"))
    assert told(found) == ("pending", "head: Ray is not installed: pip install 'kraynd[sandbox]'")


def test_6_volumes_and_pulling_are_told_by_events() -> None:
    creating = waiting("ContainerCreating")
    assert status(busy(), creating).reason == "head: its containers are being created on node-1"
    mount = event(f"uid-{HEAD}", "FailedMount", 'secret "data" not found')
    assert status(busy(), creating, events=(mount,)).reason == 'head: volume: secret "data" not found'
    pulling = event(f"uid-{HEAD}", "Pulling", "Pulling image", age=3, warning=False)
    assert status(busy(), creating, events=(pulling,)).reason.startswith("head: pulling image rayproject/ray")
    pulled = event(f"uid-{HEAD}", "Pulled", "Pulled", age=1, warning=False)
    assert status(busy(), creating, events=(pulling, pulled)).reason.startswith("head: its containers are being")


# Step 7


def ended(code: int, reason: str, message: str = "") -> Json:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def test_7_a_crash_loop_shows_what_it_died_of() -> None:
    looping = pod(HEAD, ready=False, container={"waiting": {"reason": "CrashLoopBackOff"}})
    looping["status"]["containerStatuses"][0]["lastState"] = ended(137, "OOMKilled")
    assert told(status(busy(), looping)) == (
        "degraded",
        "head: container ray-head: crash loop: OOMKilled (exit code 137)",
    )


def test_7_a_failed_hook() -> None:
    hook = pod(HEAD, ready=False, container={"waiting": {"reason": "PostStartHookError", "message": "exit 1"}})
    assert status(busy(), hook).reason == "head: container ray-head: its postStart hook failed: exit 1"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (ended(137, "OOMKilled"), "OOMKilled (exit code 137)"),
        (ended(137, "Error"), "killed (OOMKilled or SIGKILL) (exit code 137)"),
        (ended(1, "Error"), "Error (exit code 1)"),
        (
            ended(128, "StartError", 'exec: "/bin/bash": exec format error'),
            "StartError: exec format error (the image is for another CPU architecture)",
        ),
    ],
)
def test_7_a_head_that_ended(state: Json, words: str) -> None:
    found = status(busy(), pod(HEAD, phase="Failed", container=state))
    assert told(found) == ("degraded", f"head: {words}")


def test_7_an_evicted_head() -> None:
    evicted = pod(HEAD, phase="Failed", container={}, reason="Evicted", message="The node was low on resource: memory.")
    assert status(busy(), evicted).reason == "head: Evicted: The node was low on resource: memory."


def test_7_heads_that_come_and_go_are_a_crash_loop_though_each_looks_new() -> None:
    history: tuple[HeadSeen, ...] = ()
    for turn in range(4):
        at = WALL - 200 + 50 * turn
        dying = pod(f"head-{turn}", phase="Failed", age=WALL - at, container=ended(137, "OOMKilled"))
        history = note_heads(history, (dying,), at)
    creating = pod("head-4", phase="Pending", container={"waiting": {"reason": "ContainerCreating"}}, age=1)
    history = note_heads(history, (creating,), WALL)
    found = status(busy(), creating, heads=history)
    assert found.phase == "degraded"
    assert found.reason.endswith("5 heads in 10 minutes; the last one ended by OOMKilled (exit code 137)")
    assert status(busy(), heads=history).phase == "degraded"
    calm = note_heads(history, (), WALL + 601)
    assert calm == ()


def test_7_what_a_long_lived_head_died_of_is_kept_after_it_is_gone() -> None:
    old = pod(HEAD, phase="Failed", age=1e6, container=ended(137, "OOMKilled"))
    history = note_heads(note_heads((), (old,), WALL - 1), (), WALL)
    assert [head.end for head in history] == ["OOMKilled (exit code 137)"]


# Step 8


def test_8_starting_and_then_not_ready() -> None:
    starting = pod(HEAD, ready=False, age=20)
    starting["status"]["containerStatuses"][0]["ready"] = False
    found = status(busy(), starting)
    assert told(found) == ("starting", "the head is starting")
    assert found.next_check == pytest.approx(40.1)
    late = pod(HEAD, ready=False, age=90)
    assert told(status(busy(), late)) == ("degraded", "the head runs but is not ready")
    probe = event(f"uid-{HEAD}", "Unhealthy", "Readiness probe failed: timeout")
    assert status(busy(), late, events=(probe,)).reason.endswith("not ready: Readiness probe failed: timeout")


def test_8_a_lost_node_is_told_from_a_failing_probe() -> None:
    lost = pod(HEAD, ready=False, age=900, node="node-3")
    lost["status"]["containerStatuses"][0]["ready"] = True
    assert told(status(busy(), lost)) == ("degraded", "head: node node-3 is not ready")


# Step 9


def test_9_all_well() -> None:
    found = status(busy(), pod(HEAD), pod("w1", group="worker"), pod("w2", group="worker"))
    assert told(found) == ("ready", "head and 2 workers ready")
    assert (found.workers.ready, found.workers.desired, found.workers.min, found.workers.max) == (2, 2, 0, 4)
    assert told(status(live(manifest(), **provisioned()), pod(HEAD))) == ("ready", "head ready, no workers wanted")


def test_9_ready_with_workers_pending_says_why() -> None:
    found = status(busy(), pod(HEAD), pod("w1", group="worker"), unschedulable("w2", group="worker"))
    assert told(found) == (
        "ready",
        "worker: 1 worker pending: unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
    )
    assert found.groups[0].pending == 1
    assert status(busy(), pod(HEAD)).reason == "worker: 2 workers pending: their pods are being created"


def test_9_failing_workers_degrade() -> None:
    bad = pod(
        "w2", group="worker", phase="Pending", image="no:1", container={"waiting": {"reason": "ImagePullBackOff"}}
    )
    found = status(busy(), pod(HEAD), pod("w1", group="worker"), bad)
    assert told(found) == ("degraded", "worker: 1 worker failing: image pull back-off: no:1")


def test_9_workers_that_wait_for_the_head_say_so() -> None:
    init = {"name": "wait-gcs-ready", "image": "x", "state": {"running": {}}}
    waits = pod("w1", group="worker", phase="Pending", container={}, initContainerStatuses=[init])
    assert "waiting for its init container wait-gcs-ready" in status(busy(), pod(HEAD), waits).reason


def test_9_orphans_of_a_removed_group() -> None:
    found = status(live(manifest(), **provisioned()), pod(HEAD), pod("x", group="old"))
    assert told(found) == ("degraded", "old: 1 pod of a removed group still run")
    assert found.groups[-1].orphaned
    assert found.workers.ready == 0


def test_9_retired_groups_are_not_shown() -> None:
    now = live(manifest(BUSY), **provisioned())
    now["spec"]["workerGroupSpecs"].append({"groupName": "old", "minReplicas": 0, "maxReplicas": 0, "template": {}})
    assert [group.name for group in status(now, pod(HEAD)).groups] == ["worker"]


def test_9_counts_are_clamped_and_multiplied_by_hosts() -> None:
    now = busy()
    now["spec"]["workerGroupSpecs"][0] |= {"replicas": 9, "minReplicas": 1, "maxReplicas": 3, "numOfHosts": 2}
    found = status(now, pod(HEAD))
    assert (found.workers.desired, found.workers.min, found.workers.max) == (6, 2, 6)


def test_9_stale_templates_need_a_restart() -> None:
    now = busy()
    hashes = template_hashes(manifest(BUSY))
    pods = (pod(HEAD, template_hash="old"), pod("w1", group="worker", template_hash=hashes["worker"]))
    found = status(now, *pods, changed={"headgroup": ("image", "cpu")})
    assert found.restart_needed == ("head: image, cpu",)
    assert status(now, *pods).restart_needed == ("head: pod template",)
    assert status(now, *pods, hashes={}).restart_needed == ()


# Across the steps


def test_the_stale_ready_of_kuberay_never_speaks() -> None:
    dead = pod(HEAD, phase="Failed", container=ended(1, "Error"))
    for pods in ((), (dead,), (unschedulable(),), (pod(HEAD, deleting=True),)):
        assert status(busy(), *pods).phase != "ready"


def test_a_cluster_created_again_says_so_for_an_hour() -> None:
    born = "created again: it was deleted outside krayne"
    assert status(live(age=3), born=born).reason.endswith(f"({born})")
    lately = status(busy(age=600), pod(HEAD), born=born)
    assert lately.phase == "ready"
    assert lately.reason.endswith(f"({born})")
    assert lately.next_check == 3000.0
    assert born not in status(busy(age=3601), pod(HEAD), born=born).reason


def test_since_stays_while_the_phase_does() -> None:
    before = status(busy())
    assert before.since == WALL
    later = assess(Facts(live=busy(), declared=True, previous=before), wall=WALL + 100)
    assert later.since == WALL


# The pod the forwards lead to


def test_the_target_is_the_newest_head_that_lives() -> None:
    old, new = pod("head-a", age=100), pod("head-b", age=10, ready=False)
    assert head_target((new, old, pod("w", group="worker")), KEY) == PodTarget(
        "default", "head-b", "uid-head-b", running=True, ready=False
    )
    assert head_target((old, pod("head-b", age=10, deleting=True)), KEY) == PodTarget(
        "default", "head-a", "uid-head-a", running=True, ready=True
    )


def test_a_dead_or_dying_head_is_no_target() -> None:
    dead = pod(HEAD, phase="Failed", container=ended(1, "Error"))
    assert head_target((dead, pod("head-b", deleting=True)), KEY) is None
    assert head_target((), KEY) is None


def test_a_pending_head_is_a_target_that_does_not_run() -> None:
    target = head_target((pod(HEAD, phase="Pending", container={"waiting": {}}),), KEY)
    assert target is not None
    assert not target.running
    assert not target.ready
