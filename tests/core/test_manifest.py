"""The RayCluster a cluster file becomes: golden texts, the configuration reference's rules, and laws for any config."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.bootstrap import BootstrapSettings
from kraynd.core.manifest import (
    DEFAULT_IMAGE,
    HEAD_GROUP,
    ImageChoice,
    Owner,
    build_manifest,
    owner_of,
    recorded_image,
    template_hashes,
)
from kraynd.core.model import Json, services_of
from krayne.config import ClusterConfig, parse_quantity
from tests.golden.cases import FOLDER, NAMES, OWNER, config, manifest, written


def build(settings: BootstrapSettings | None = None, image: ImageChoice = DEFAULT_IMAGE, **fields: Any) -> Json:
    declared = ClusterConfig.model_validate({"name": "demo", **fields})
    return build_manifest(declared, image=image, bootstrap=settings or BootstrapSettings(), owner=OWNER)


def head(made: Json) -> Json:
    found: Json = made["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return found


def workers(made: Json) -> list[Json]:
    return [group["template"]["spec"]["containers"][0] for group in made["spec"]["workerGroupSpecs"]]


def limits(container: Json) -> Json:
    assert container["resources"]["requests"] == container["resources"]["limits"]
    found: Json = container["resources"]["limits"]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert written(name) == text, "when the change is meant: python -m tests.golden"


def test_no_golden_file_is_without_a_case() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(NAMES)


@pytest.mark.parametrize(
    ("given_cpus", "given_memory", "cpus", "memory"),
    [
        ("1", "4Gi", "1", "4Gi"),
        ("500m", "2Gi", "1", "4Gi"),
        ("999m", "4095Mi", "1", "4Gi"),
        ("1001m", "4097Mi", "1001m", "4097Mi"),
        ("32", "128G", "32", "128G"),
    ],
)
def test_the_head_is_raised_to_what_it_needs_and_never_lowered(
    given_cpus: str, given_memory: str, cpus: str, memory: str
) -> None:
    assert limits(head(build(head={"cpus": given_cpus, "memory": given_memory}))) == {"cpu": cpus, "memory": memory}


@pytest.mark.parametrize(("cpus", "advertised"), [("1", "1"), ("500m", "1"), ("8", "8"), ("4000m", "4"), ("1e1", "10")])
def test_num_cpus_is_zero_or_whole(cpus: str, advertised: str) -> None:
    params = [
        build(head={"cpus": cpus, "runs_tasks": runs})["spec"]["headGroupSpec"]["rayStartParams"]
        for runs in (False, True)
    ]
    assert [one["num-cpus"] for one in params] == ["0", advertised]


def test_the_ray_version_is_the_head_images_own_when_its_tag_tells() -> None:
    chosen = ImageChoice("rayproject/ray:2.60.0-py311", "2.60.0", "client")
    versions = [
        build(image=chosen, head={"image": image})["spec"]["rayVersion"]
        for image in (None, "mine/ray:2.51.2-cuda", "mine/ray:stable")
    ]
    assert versions == ["2.60.0", "2.51.2", "2.60.0"]


def test_images_stand_where_the_file_names_them_and_the_choice_elsewhere() -> None:
    made = build(head={"image": "a:1"}, worker_groups=[{"name": "own", "image": "b:2"}, {"name": "none"}])
    assert head(made)["image"] == "a:1"
    assert [one["image"] for one in workers(made)] == ["b:2", DEFAULT_IMAGE.image]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_autoscaler_is_v2_and_its_pods_are_never_restarted_in_place(enabled: bool) -> None:
    fields = {
        "enabled": enabled,
        "idle_timeout_seconds": 7,
        "upscaling_mode": "Aggressive",
        "cpu": "1",
        "memory": "1Gi",
    }
    spec = build(autoscaler=fields)["spec"]
    assert spec["enableInTreeAutoscaling"] is enabled
    options = spec["autoscalerOptions"]
    assert (options["version"], options["idleTimeoutSeconds"], options["upscalingMode"]) == ("v2", 7, "Aggressive")
    assert limits(options) == {"cpu": "1", "memory": "1Gi"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert {group["template"]["spec"].get("restartPolicy") for group in groups} == {"Never" if enabled else None}


def test_gpus_are_limits_of_their_workers_alone() -> None:
    made = build(worker_groups=[{"name": "gpu", "gpus": 2}, {"name": "cpu"}])
    assert limits(workers(made)[0])["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in limits(workers(made)[1])
    assert "nvidia.com/gpu" not in limits(head(made))


@pytest.mark.parametrize("services", [(), ("notebook",), ("code_server", "ssh"), ("notebook", "code_server", "ssh")])
def test_each_enabled_service_has_its_named_port_on_the_head(services: tuple[str, ...]) -> None:
    wanted = {name: name in services for name in ("notebook", "code_server", "ssh")}
    container = head(build(services=wanted))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    offered = services_of(ClusterConfig.model_validate({"name": "demo", "services": wanted}))
    assert ports == {"gcs-server": 6379, **{service.name: service.remote_port for service in offered}}
    assert all(re.fullmatch(r"[a-z0-9-]{1,15}", name) for name in ports)
    assert ("lifecycle" in container) == bool(services)


def test_whose_a_cluster_is_and_its_image_are_read_back() -> None:
    image = ImageChoice("rayproject/ray:2.55.1-py312", "2.55.1", "client")
    made = build(image=image)
    assert owner_of(made) == OWNER
    assert recorded_image(made) == image


def test_an_owner_name_with_an_at_sign_survives() -> None:
    owner = Owner(home_id="1", host="box.example", user="ada@corp")
    declared = ClusterConfig(name="demo")
    made = build_manifest(declared, image=DEFAULT_IMAGE, bootstrap=BootstrapSettings(), owner=owner)
    assert owner_of(made) == owner


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"labels": None, "annotations": None},
        {"annotations": {"krayne.dev/home-id": "1"}},
        {"labels": {"app.kubernetes.io/managed-by": "krayne"}},
        {"labels": {"app.kubernetes.io/managed-by": "helm"}, "annotations": {"krayne.dev/home-id": "1"}},
    ],
)
def test_a_cluster_without_both_marks_is_nobodys(metadata: Json) -> None:
    assert owner_of({"metadata": metadata}) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"image": 1}', "null"])
def test_an_unreadable_image_record_is_no_record(text: str) -> None:
    assert recorded_image({"metadata": {"annotations": {"krayne.dev/default-image": text}}}) is None
    assert recorded_image({}) is None


HEAD_ONLY, WORKER_ONLY, BOTH, NONE = {HEAD_GROUP}, {"worker"}, {HEAD_GROUP, "worker"}, set[str]()


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        ({"head": {"memory": "8Gi"}}, HEAD_ONLY),
        ({"head": {"runs_tasks": True}}, HEAD_ONLY),
        ({"head": {"pod": {"labels": {"team": "a"}}}}, HEAD_ONLY),
        ({"services": {"ssh": False}}, HEAD_ONLY),
        ({"autoscaler": {"memory": "1Gi"}}, HEAD_ONLY),
        ({"worker_groups": [{"cpus": "2"}]}, WORKER_ONLY),
        ({"worker_groups": [{"pod": {"env": [{"name": "A", "value": "b"}]}}]}, WORKER_ONLY),
        ({"autoscaler": {"enabled": False}}, BOTH),
        ({"worker_groups": [{"replicas": 1, "max_replicas": 9}]}, NONE),
        ({"autoscaler": {"idle_timeout_seconds": 5, "upscaling_mode": "Aggressive"}}, NONE),
    ],
)
def test_a_groups_hash_changes_exactly_when_its_pods_would_have_to(change: Json, restarts: set[str]) -> None:
    before, after = template_hashes(build()), template_hashes(build(**change))
    assert {group for group in before if before[group] != after[group]} == restarts


def test_hashes_stand_on_the_pods_and_another_release_of_the_bootstrap_leaves_them() -> None:
    made = build()
    assert all(re.fullmatch(r"[0-9a-f]{16}", value) for value in template_hashes(made).values())
    assert template_hashes(made) == template_hashes(build(BootstrapSettings(code_server_version="9.9.9")))
    assert made != build(BootstrapSettings(code_server_version="9.9.9"))
    assert template_hashes({}) == {HEAD_GROUP: ""}


_CPUS = st.sampled_from(["1", "250m", "2", "3500m", "16"])
_MEMORY = st.sampled_from(["512Mi", "2Gi", "4Gi", "64G"])
_GROUP = st.fixed_dictionaries(
    {"cpus": _CPUS, "memory": _MEMORY, "gpus": st.integers(0, 8), "min_replicas": st.integers(0, 3)}
)


@st.composite
def configs(draw: st.DrawFn) -> ClusterConfig:
    drawn: list[Json] = draw(st.lists(_GROUP, max_size=4))
    groups = [
        {**group, "name": f"g{index}", "replicas": group["min_replicas"] + draw(st.integers(0, 3))}
        for index, group in enumerate(drawn)
    ]
    return ClusterConfig.model_validate(
        {
            "name": "demo",
            "head": {"cpus": draw(_CPUS), "memory": draw(_MEMORY)},
            "worker_groups": groups,
            "services": {name: draw(st.booleans()) for name in ("notebook", "code_server", "ssh")},
            "autoscaler": {"enabled": draw(st.booleans())},
        }
    )


@given(declared=configs())
def test_for_any_config_the_manifest_is_the_same_twice_guaranteed_and_plain_json(declared: ClusterConfig) -> None:
    first, again = (
        build_manifest(declared, image=DEFAULT_IMAGE, bootstrap=BootstrapSettings(), owner=OWNER) for _ in range(2)
    )
    assert json.dumps(first) == json.dumps(again)
    assert json.loads(json.dumps(first)) == first
    asked = limits(head(first))
    assert parse_quantity(asked["cpu"]) >= 1
    assert parse_quantity(asked["memory"]) >= 4 * 2**30
    for group, container in zip(first["spec"]["workerGroupSpecs"], workers(first), strict=True):
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert limits(container)
    assert set(template_hashes(first)) == {HEAD_GROUP, *(group.name for group in declared.worker_groups)}


def test_the_cases_are_what_their_names_say() -> None:
    assert config("bare").worker_groups == []
    assert "lifecycle" not in head(manifest("bare"))
