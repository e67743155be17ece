"""What a user can get wrong, in files, settings and commands: said where he looks, and nothing is lost by it."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import Krayne
from tests.cluster.using import becomes, condition, declare, home_with, live, problems, status, until, workers, writes
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
RAY: dict[str, list[str]] = {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["*"]}
PODS: dict[str, list[str]] = {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["get", "list", "watch"]}
GROUP = "worker_groups:\n  - name: gpu\n    replicas: {}\n    max_replicas: 9\n"


def cluster(namespace: str, replicas: int = 1, name: str = "demo") -> str:
    return f"name: {name}\nnamespace: {namespace}\nautoscaler: {{enabled: false}}\n" + GROUP.format(replicas)


# Files.


def test_a_file_that_is_no_yaml_is_named_with_its_line_and_heals(
    plane: ControlPlane, namespace: str, krayne: Krayne
) -> None:
    krayne("ls")
    pid = status(krayne)["pid"]
    file = declare(krayne, "demo.yaml", f"name: demo\nnamespace: {namespace}\nhead: {{cpus: 2\nservices: {{}}\n")
    until("the problem", lambda: "demo.yaml" in problems(krayne))
    assert "demo.yaml:" in problems(krayne)["demo.yaml"]
    listed = krayne("ls", "-A")
    assert "demo.yaml:" in listed.err
    assert "Problem" in krayne("status").out
    assert live(plane, namespace, "demo") is None

    file.write_text(cluster(namespace))
    krayne_wait(krayne, namespace)
    assert problems(krayne) == {}
    assert krayne("ls", "-A").err == ""
    assert status(krayne)["pid"] == pid


def krayne_wait(krayne: Krayne, namespace: str, name: str = "demo") -> None:
    """A file just written is declared within a second; then the command waits."""
    until(f"{name} declared", lambda: any(one["name"] == name for one in krayne.clusters("-n", namespace)))
    krayne("wait", name, "-n", namespace, "--for=ready", "--timeout", "60s")


def test_an_unknown_field_is_named_with_its_line_and_the_nearest_name(
    plane: ControlPlane, namespace: str, krayne: Krayne
) -> None:
    krayne("create", "demo", "-n", namespace, "--workers", "1", "--wait")
    (file,) = (krayne.folder / "clusters").rglob("demo.yaml")
    good = file.read_text()
    before = (live(plane, namespace, "demo") or {})["metadata"]["generation"]
    wrote = len(writes(plane, namespace))
    file.write_text(good + "autoscaller: {enabled: false}\n")
    row = becomes(krayne, "demo", lambda row: "autoscaller" in row["reason"])
    line = len(good.splitlines()) + 1
    assert f"demo.yaml:{line}" in row["reason"]
    assert "autoscaler" in row["reason"].replace("autoscaller", "") or "autoscaler" in json.dumps(
        status(krayne)["problems"]
    )
    assert row["phase"] == "ready"  # the last good declaration is kept
    assert row["declared"]
    assert "autoscaller" in krayne("ls", "-A").out
    assert "autoscaller" in krayne("status").out
    assert (live(plane, namespace, "demo") or {})["metadata"]["generation"] == before
    assert len(writes(plane, namespace)) == wrote

    file.write_text(good)
    becomes(krayne, "demo", lambda row: "autoscaller" not in row["reason"])


def test_two_files_for_one_cluster_the_first_counts_and_both_are_named(
    plane: ControlPlane, namespace: str, krayne: Krayne
) -> None:
    declare(krayne, "a.yaml", cluster(namespace, 1))
    second = declare(krayne, "team/b.yaml", cluster(namespace, 3))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    assert workers(plane, namespace, "demo") == 1
    said = problems(krayne)["team/b.yaml"]
    assert "declared twice" in said
    assert "a.yaml" in said
    row = krayne.cluster("demo")
    assert row["source"] == "a.yaml"
    assert "declared twice" in krayne("ls", "-A").out + krayne("ls", "-A").err
    second.unlink()
    until("no more problem", lambda: not problems(krayne))
    assert krayne.cluster("demo")["declared"]
    assert workers(plane, namespace, "demo") == 1


def test_an_edit_is_acted_on(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    file = declare(krayne, "demo.yaml", cluster(namespace, 1))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    file.write_text(cluster(namespace, 2))
    until("two workers", lambda: workers(plane, namespace, "demo") == 2, 10)
    becomes(krayne, "demo", lambda row: bool(row["workers"]["ready"] == 2))


def test_a_half_written_file_changes_nothing_until_it_is_complete(
    plane: ControlPlane, namespace: str, krayne: Krayne
) -> None:
    file = declare(krayne, "demo.yaml", cluster(namespace, 1))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    before = (live(plane, namespace, "demo") or {})["metadata"]
    wrote = len(writes(plane, namespace))
    whole = cluster(namespace, 3)
    with file.open("w") as half:
        half.write(whole[: whole.index("replicas") + 4])
        half.flush()
        row = becomes(krayne, "demo", lambda row: "demo.yaml:" in row["reason"])
        assert row["declared"]
        assert len(writes(plane, namespace)) == wrote
        half.write(whole[whole.index("replicas") + 4 :])
    until("three workers", lambda: workers(plane, namespace, "demo") == 3)
    file.write_text("")
    becomes(krayne, "demo", lambda row: "demo.yaml" in row["reason"])
    assert (live(plane, namespace, "demo") or {})["metadata"]["uid"] == before["uid"]


def test_a_file_replaced_again_and_again_while_it_is_read_is_never_half_read(
    plane: ControlPlane, namespace: str, krayne: Krayne
) -> None:
    file = declare(krayne, "demo.yaml", cluster(namespace, 1))
    krayne("wait", "demo", "-n", namespace, "--timeout", "60s")
    uid = (live(plane, namespace, "demo") or {})["metadata"]["uid"]
    done, seen = threading.Event(), set[str]()

    def replace() -> None:
        """Swap it as an atomic editor does, as fast as it goes, now and then gone for a moment."""
        turn = 0
        while not done.is_set():
            turn += 1
            new = file.with_name(".demo.new")
            new.write_text(cluster(namespace, 1 + turn % 3) + "# padding\n" * (turn % 50))
            if turn % 10 == 0:
                file.unlink()
            os.rename(new, file)

    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        for _ in range(40):
            seen |= set(problems(krayne).values())
            assert krayne.cluster("demo")["name"] == "demo"
    finally:
        done.set()
        replacing.join()
    file.write_text(cluster(namespace, 5))
    until("the last word counts", lambda: workers(plane, namespace, "demo") == 5)
    assert seen == set()
    assert (live(plane, namespace, "demo") or {})["metadata"]["uid"] == uid
    assert ("delete", "demo") not in writes(plane, namespace)


def test_a_folder_with_one_bad_file_declares_none(
    plane: ControlPlane, namespace: str, krayne: Krayne, tmp_path: Path
) -> None:
    (tmp_path / "good.yaml").write_text(cluster(namespace, name="good"))
    (tmp_path / "bad.yaml").write_text(cluster(namespace, name="bad") + "    gpu: 1\n")
    ran = krayne("apply", "-f", str(tmp_path), code=1)
    assert "bad.yaml:8" in ran.err
    assert "gpu" in ran.err
    assert "Traceback" not in ran.err
    assert krayne.clusters("-n", namespace) == []
    assert list((krayne.folder / "clusters").rglob("*.yaml")) == []
    assert writes(plane, namespace) == []
    (tmp_path / "bad.yaml").write_text(cluster(namespace, name="bad"))
    krayne("apply", "-f", str(tmp_path))
    assert {one["name"] for one in krayne.clusters("-n", namespace)} == {"good", "bad"}


# The way to Kubernetes.


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Krayne]:
    """`krayne` whose kubeconfig is not there yet."""
    with home_with(tmp_path / "kubeconfig") as made:
        yield made


def test_a_missing_then_malformed_then_good_kubeconfig(
    plane: ControlPlane, namespace: str, lost: Krayne, tmp_path: Path
) -> None:
    config = tmp_path / "kubeconfig"
    listed = lost("ls")
    assert "misconfigured" in listed.err
    assert str(config) in listed.err
    world = condition(lost, "misconfigured")
    assert str(config) in world["reason"]
    assert world["hint"]
    shown = lost("status").out
    assert "misconfigured" in shown
    assert str(config) in shown
    pid = status(lost)["pid"]
    refused = lost("create", "demo", "-n", namespace, code=1)
    assert str(config) in refused.err
    assert list((lost.folder / "clusters").rglob("*.yaml")) == []
    missing = lost("wait", "demo", "--timeout", "1s", code=4)
    assert "demo" in missing.err

    config.write_text("clusters: [\n")
    until("the malformed one is noticed", lambda: "line" in status(lost)["world"]["reason"])
    assert status(lost)["world"]["condition"] == "misconfigured"
    assert str(config) in status(lost)["world"]["reason"]
    lost("ls")

    config.write_text("[1, 2]\n")
    until("no mapping", lambda: "line" not in status(lost)["world"]["reason"])
    assert status(lost)["world"]["condition"] == "misconfigured"

    config.write_text(plane.kubeconfig.read_text())
    condition(lost, "ready")
    lost("create", "demo", "-n", namespace)
    assert status(lost)["pid"] == pid
    assert live(plane, namespace, "demo")


def test_a_context_that_is_not_there_names_those_that_are(plane: ControlPlane, krayne: Krayne) -> None:
    krayne.folder.mkdir()
    settings = krayne.folder / "config.yaml"
    settings.write_text("kube_context: plain\n")
    assert "plain" in krayne("ls").err
    world = condition(krayne, "misconfigured")
    assert "plain" in world["reason"]
    assert "plane" in world["reason"] + world["hint"]
    pid = status(krayne)["pid"]
    settings.write_text("kube_context: plane\n")
    condition(krayne, "ready")
    assert krayne("ls").code == 0
    settings.write_text("kube_contxt: plane\n")
    world = condition(krayne, "misconfigured")
    assert "kube_contxt" in world["reason"]
    assert "kube_context" in world["reason"] + world["hint"]
    settings.unlink()
    condition(krayne, "ready")
    assert status(krayne)["pid"] == pid


def test_a_namespace_that_is_not_there_is_said_and_waited_for(plane: ControlPlane, krayne: Krayne) -> None:
    name = f"late-{os.getpid()}"
    refused = krayne("create", "demo", "-n", name, code=4)
    assert f"namespace {name}" in refused.err or f'namespaces "{name}"' in refused.err
    assert f"kubectl create namespace {name}" in refused.err
    row = krayne.cluster("demo")
    assert row["phase"] == "absent"
    assert name in row["reason"]
    assert row["declared"]
    plane.kubectl("create", "namespace", name)
    try:
        krayne("wait", "demo", "-n", name, "--for=ready", "--timeout", "60s")
    finally:
        krayne("delete", "demo", "-n", name, "--yes")
        plane.kubectl("delete", "namespace", name, "--wait=false")


def test_a_user_without_rights_is_told_which_one_he_lacks(plane: ControlPlane, namespace: str) -> None:
    user = f"nobody-{namespace}"
    with home_with(plane.kubeconfig_for(user, rules=[], namespace=namespace)) as krayne:
        listed = krayne("ls")
        assert "forbidden" in listed.err
        world = condition(krayne, "forbidden")
        assert f'User "{user}" cannot list resource "rayclusters"' in world["reason"]
        assert krayne("create", "demo", code=None).code in (0, 1)
        row = krayne.cluster("demo")
        assert row["phase"] != "ready"
        assert "rayclusters" in row["reason"]
        assert krayne("wait", "demo", "--timeout", "2s", code=124).err
        assert live(plane, namespace, "demo") is None


def test_rights_in_one_namespace_are_enough(plane: ControlPlane, namespace: str) -> None:
    forward = {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create"]}
    user = f"dev-{namespace}"
    with home_with(plane.kubeconfig_for(user, rules=[RAY, PODS, forward], namespace=namespace)) as krayne:
        krayne("create", "demo", "--workers", "1", "--wait", "--timeout", "60s")
        row = krayne.cluster("demo")
        assert (row["namespace"], row["phase"]) == (namespace, "ready")
        assert condition(krayne, "ready")["reason"]
        refused = krayne("create", "elsewhere", "-n", "default", code=1)
        assert "default" in refused.err
        assert "cannot" in refused.err
        krayne("delete", "demo", "--yes", "--wait", "--timeout", "60s")
        assert live(plane, namespace, "demo") is None


def test_rights_in_a_second_namespace_count_as_soon_as_something_is_declared_there(
    plane: ControlPlane, namespace: str
) -> None:
    user, second = f"two-{namespace}", f"{namespace}-second"
    plane.kubectl("create", "namespace", second)
    plane.kubeconfig_for(user, rules=[RAY, PODS], namespace=second)
    config = plane.kubeconfig_for(user, rules=[RAY, PODS], namespace=namespace)
    try:
        with home_with(config) as krayne:
            krayne("create", "demo")
            krayne("create", "other", "-n", second)
            krayne("wait", "other", "-n", second, "--for=ready", "--timeout", "60s")
            assert second in condition(krayne, "ready")["reason"]
            krayne("delete", "other", "-n", second, "--yes", "--wait", "--timeout", "60s")
    finally:
        plane.kubectl("delete", "namespace", second, "--wait=false")


# Commands.


def test_creating_twice_is_refused_and_changes_nothing(plane: ControlPlane, namespace: str, krayne: Krayne) -> None:
    krayne("create", "demo", "-n", namespace, "--workers", "1")
    (file,) = (krayne.folder / "clusters").rglob("demo.yaml")
    text = file.read_text()
    refused = krayne("create", "demo", "-n", namespace, "--workers", "3", code=1)
    assert "already declared" in refused.err
    assert file.read_text() == text
    assert workers(plane, namespace, "demo") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["many"], 2, "many"),
        (["-1"], 1, "-1"),
        (["1.5"], 2, "1.5"),
        ([], 2, "nothing to scale to"),
        (["2", "--group", "gpus"], 2, "no worker group gpus"),
        (["--min", "5", "--max", "2"], 1, "min_replicas"),
        (["99999999999"], 1, "99999999999"),
    ],
)
def test_scaling_to_nonsense_is_refused_and_changes_nothing(
    plane: ControlPlane, namespace: str, krayne: Krayne, words: list[str], code: int, said: str
) -> None:
    krayne("create", "demo", "-n", namespace, "--workers", "1")
    (file,) = (krayne.folder / "clusters").rglob("demo.yaml")
    text, wrote = file.read_text(), writes(plane, namespace)
    refused = krayne("scale", "demo", "-n", namespace, *words, code=code)
    assert said in refused.err
    assert "Traceback" not in refused.err
    assert "try: " in refused.err
    assert file.read_text() == text
    assert writes(plane, namespace) == wrote


@pytest.mark.parametrize("verb", ["describe", "scale", "delete", "wait", "tun-open", "tun-close", "adopt", "ls"])
def test_a_cluster_that_is_not_there_is_not_found_by_any_command(krayne: Krayne, verb: str) -> None:
    more = {"scale": ["2"], "delete": ["--yes"]}.get(verb, [])
    ran = krayne(verb, "nosuch", *more, code=4)
    assert "no cluster nosuch" in ran.err
    assert "try: " in ran.err
