"""Single values: what Kubernetes and KubeRay would refuse later is refused at once, and nothing else is."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from krayne.config import (
    AutoscalerConfig,
    ClusterConfig,
    HeadNodeConfig,
    WorkerGroupConfig,
    nearest,
    parse_quantity,
)


@pytest.mark.parametrize("name", ["a", "demo", "a-1", "a" * 53, "no"])
def test_cluster_names_taken(name: str) -> None:
    assert ClusterConfig(name=name).name == name


@pytest.mark.parametrize("name", ["", "a" * 54, "1a", "-a", "a-", "A", "a_b", "a.b", "ä", "a\n", "a b", 5, True, None])
def test_cluster_names_refused(name: Any) -> None:
    with pytest.raises(ValidationError):
        ClusterConfig(name=name)


@pytest.mark.parametrize("name", ["a", "1a", "a-1", "a" * 63])
def test_group_names_and_namespaces_taken(name: str) -> None:
    assert WorkerGroupConfig(name=name).name == name
    assert ClusterConfig(name="a", namespace=name).namespace == name


@pytest.mark.parametrize("name", ["", "a" * 64, "-a", "a-", "Big_Group", "a.b", "a\n", 7])
def test_group_names_and_namespaces_refused(name: Any) -> None:
    with pytest.raises(ValidationError):
        WorkerGroupConfig(name=name)
    with pytest.raises(ValidationError):
        ClusterConfig(name="a", namespace=name)


def test_a_worker_group_cannot_take_the_heads_group_name() -> None:
    with pytest.raises(ValidationError, match="headgroup"):
        WorkerGroupConfig(name="headgroup")


def test_group_names_are_unique() -> None:
    with pytest.raises(ValidationError, match="used twice"):
        ClusterConfig(name="a", worker_groups=[WorkerGroupConfig(), WorkerGroupConfig(cpus="2")])
    two = ClusterConfig(name="a", worker_groups=[WorkerGroupConfig(), WorkerGroupConfig(name="b")])
    assert [group.name for group in two.worker_groups] == ["worker", "b"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        ("4Gi", 4 * 2**30),
        ("1.5", "1.5"),
        ("2e3", 2000),
        ("2E3", 2000),
        ("1E", 10**18),
        ("1e-3", "0.001"),
        ("10k", 10_000),
        ("3M", 3 * 10**6),
        ("1Ki", 1024),
        ("512Mi", 512 * 2**20),
        ("1Ti", 2**40),
        (".5", "0.5"),
        ("5.", 5),
        ("+1", 1),
        ("-1", -1),
        ("7n", "0.000000007"),
        ("7u", "0.000007"),
    ],
)
def test_quantities_have_their_exact_value(text: str, value: int | str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Gi",
        "4 Gi",
        "4Gi ",
        "4gi",
        "4GB",
        "4K",
        "1,5",
        "1e",
        "1e3Gi",
        "0x1",
        "1_0",
        "nan",
        "inf",
        "--1",
        "1e999",
        "٤",
        "9" * 21,
        "9Ei",
        "99999P",
    ],
)
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        parse_quantity(text)


@settings(deadline=None)
@given(st.text(alphabet="0123456789.eEmMkKGi+-n ", max_size=24) | st.text(max_size=30))
def test_any_text_is_a_bounded_quantity_or_a_value_error(text: str) -> None:
    try:
        value = parse_quantity(text)
    except ValueError:
        return
    assert value.is_finite()
    assert abs(value) < 2**63


@pytest.mark.parametrize(
    ("given_value", "text"), [(32, "32"), (0.5, "0.5"), (2.0, "2"), ("500m", "500m"), ("2e3", "2e3")]
)
def test_numbers_become_strings(given_value: Any, text: str) -> None:
    assert HeadNodeConfig(cpus=given_value).cpus == text
    assert WorkerGroupConfig(cpus=given_value).cpus == text
    assert AutoscalerConfig(cpu=given_value).cpu == text


def test_memory_in_bytes_may_be_a_number() -> None:
    assert WorkerGroupConfig(memory=2147483648).memory == "2147483648"


@pytest.mark.parametrize("cpus", [0, "0", -1, "-500m", True, False, None, "lots", "", "0.5m", [1], float("nan"), 1e30])
def test_cpus_refused(cpus: Any) -> None:
    for build in (HeadNodeConfig, WorkerGroupConfig):
        with pytest.raises(ValidationError):
            build(cpus=cpus)
    with pytest.raises(ValidationError):
        AutoscalerConfig(cpu=cpus)


@pytest.mark.parametrize("memory", [4, "4", "500m", "1023Ki", 0, "-4Gi", "4GB", "4gb", True, None, {}])
def test_memory_refused(memory: Any) -> None:
    for build in (HeadNodeConfig, WorkerGroupConfig, AutoscalerConfig):
        with pytest.raises(ValidationError):
            build(memory=memory)


def test_a_head_that_runs_tasks_has_whole_cpus() -> None:
    with pytest.raises(ValidationError, match="whole number"):
        HeadNodeConfig(cpus="1.5", runs_tasks=True)
    with pytest.raises(ValidationError, match="whole number"):
        HeadNodeConfig(cpus="2500m", runs_tasks=True)
    assert HeadNodeConfig(cpus="1.5").cpus == "1.5"
    assert HeadNodeConfig(cpus="2000m", runs_tasks=True).runs_tasks
    # Below one CPU the manifest raises it to one, which Ray can count.
    assert HeadNodeConfig(cpus="500m", runs_tasks=True).cpus == "500m"


COUNTS = [
    (WorkerGroupConfig, "replicas"),
    (WorkerGroupConfig, "min_replicas"),
    (WorkerGroupConfig, "max_replicas"),
    (WorkerGroupConfig, "gpus"),
    (AutoscalerConfig, "idle_timeout_seconds"),
]


@pytest.mark.parametrize(("model", "field"), COUNTS, ids=[field for _, field in COUNTS])
@pytest.mark.parametrize("value", [-1, 1.0, 0.5, True, "1", None, 2**31])
def test_counts_refused(model: Any, field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        model(**{field: value})


@pytest.mark.parametrize("value", [1, 0, "true", "yes", None])
def test_flags_are_booleans_only(value: Any) -> None:
    with pytest.raises(ValidationError):
        AutoscalerConfig(enabled=value)


@pytest.mark.parametrize("mode", ["default", "Fast", "", None, 1])
def test_upscaling_modes_refused(mode: Any) -> None:
    with pytest.raises(ValidationError):
        AutoscalerConfig(upscaling_mode=mode)


@pytest.mark.parametrize("image", ["", "ray ray", "ray\n", "\tray", "ray\x00", 5])
def test_images_refused(image: Any) -> None:
    for build in (HeadNodeConfig, WorkerGroupConfig):
        with pytest.raises(ValidationError):
            build(image=image)


def test_a_failed_model_does_not_repeat_its_input() -> None:
    with pytest.raises(ValidationError) as caught:
        HeadNodeConfig(pod={"env": [{"name": "TOKEN", "value": "hunter2", "valueFrom": {}}]})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("max_replica", "max_replicas"),
        ("maxReplicas", "max_replicas"),
        ("NAME", "name"),
        ("node-selector", None),
        ("xyzzy", None),
        ("", None),
        ("name" * 40, None),
    ],
)
def test_nearest(word: str, meant: str | None) -> None:
    assert nearest(word, ["name", "max_replicas", "min_replicas"]) == meant
