"""The configuration reference, row by row: field, type, default, and the rules beside the tables."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import krayne.errors
from krayne import config
from krayne.config import (
    AutoscalerConfig,
    ClusterConfig,
    ConfigValidationError,
    HeadNodeConfig,
    ServicesConfig,
    WorkerGroupConfig,
    load_config_from_yaml,
)

# (model, field, type, default, another valid value)
ROWS: list[tuple[type[BaseModel], str, Any, Any, Any]] = [
    (ClusterConfig, "namespace", str, "default", "staging"),
    (ClusterConfig, "head", HeadNodeConfig, HeadNodeConfig(), HeadNodeConfig(cpus="8")),
    (ClusterConfig, "worker_groups", list[WorkerGroupConfig], [WorkerGroupConfig()], []),
    (ClusterConfig, "services", ServicesConfig, ServicesConfig(), ServicesConfig(ssh=False)),
    (ClusterConfig, "autoscaler", AutoscalerConfig, AutoscalerConfig(), AutoscalerConfig(enabled=False)),
    (HeadNodeConfig, "cpus", str, "1", "4"),
    (HeadNodeConfig, "memory", str, "4Gi", "16Gi"),
    (HeadNodeConfig, "image", str | None, None, "rayproject/ray:2.60.0-py311"),
    (HeadNodeConfig, "runs_tasks", bool, False, True),
    (WorkerGroupConfig, "name", str, "worker", "gpu"),
    (WorkerGroupConfig, "replicas", int, 0, 1),
    (WorkerGroupConfig, "min_replicas", int, 0, 0),
    (WorkerGroupConfig, "max_replicas", int, 1, 10),
    (WorkerGroupConfig, "cpus", str, "1", "500m"),
    (WorkerGroupConfig, "memory", str, "2Gi", "8Gi"),
    (WorkerGroupConfig, "gpus", int, 0, 8),
    (WorkerGroupConfig, "image", str | None, None, "registry.example:5000/ray@sha256:00ff"),
    (AutoscalerConfig, "enabled", bool, True, False),
    (AutoscalerConfig, "idle_timeout_seconds", int, 60, 0),
    (AutoscalerConfig, "upscaling_mode", str, "Default", "Aggressive"),
    (AutoscalerConfig, "cpu", str, "500m", "1"),
    (AutoscalerConfig, "memory", str, "512Mi", "1Gi"),
    (ServicesConfig, "notebook", bool, True, False),
    (ServicesConfig, "code_server", bool, True, False),
    (ServicesConfig, "ssh", bool, True, False),
]
MODELS = (ClusterConfig, HeadNodeConfig, WorkerGroupConfig, AutoscalerConfig, ServicesConfig)


def build(model: type[BaseModel], **values: Any) -> BaseModel:
    return model(**({"name": "demo"} if model is ClusterConfig else {}), **values)


@pytest.mark.parametrize(
    ("model", "field", "kind", "default", "other"), ROWS, ids=[f"{row[0].__name__}.{row[1]}" for row in ROWS]
)
def test_row(model: type[BaseModel], field: str, kind: Any, default: Any, other: Any) -> None:
    info = model.model_fields[field]
    assert not info.is_required()
    value = getattr(build(model), field)
    assert value == default
    assert type(value) is type(default)
    assert getattr(build(model, **{field: other}), field) == other
    if field != "upscaling_mode":  # a str among three
        assert info.annotation == kind


def test_the_cluster_name_is_a_required_string() -> None:
    info = ClusterConfig.model_fields["name"]
    assert info.is_required()
    assert info.annotation is str
    with pytest.raises(ValidationError, match="name"):
        ClusterConfig.model_validate({})


def test_the_rows_are_all_the_fields_but_our_one_addition() -> None:
    written = {(model, field) for model, field, *_ in ROWS} | {(ClusterConfig, "name")}
    fields = {(model, field) for model in MODELS for field in model.model_fields}
    assert fields - written == {(HeadNodeConfig, "pod"), (WorkerGroupConfig, "pod")}
    assert written <= fields


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_unknown_fields_are_refused(model: type[BaseModel]) -> None:
    assert model.model_config["extra"] == "forbid"
    with pytest.raises(ValidationError):
        build(model, no_such_field=1)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_configs_cannot_be_changed_in_place(model: type[BaseModel]) -> None:
    one = build(model)
    with pytest.raises(ValidationError):
        setattr(one, next(iter(model.model_fields)), "x")


def test_the_head_has_no_gpus() -> None:
    assert "gpus" not in HeadNodeConfig.model_fields


@pytest.mark.parametrize("mode", ["Default", "Aggressive", "Conservative"])
def test_every_upscaling_mode(mode: Any) -> None:
    assert AutoscalerConfig(upscaling_mode=mode).upscaling_mode == mode


def test_replicas_above_the_maximum_raise_it() -> None:
    group = WorkerGroupConfig(replicas=5, max_replicas=2)
    assert (group.replicas, group.max_replicas) == (5, 5)
    assert "max_replicas" in WorkerGroupConfig(replicas=5).model_fields_set


@pytest.mark.parametrize(
    ("replicas", "minimum", "maximum"), [(0, 1, 2), (2, 3, 9), (2, 3, 1)], ids=["default", "below", "min over max"]
)
def test_replicas_below_the_minimum_are_refused(replicas: int, minimum: int, maximum: int) -> None:
    with pytest.raises(ValidationError, match="min_replicas"):
        WorkerGroupConfig(replicas=replicas, min_replicas=minimum, max_replicas=maximum)


def test_replicas_at_either_bound_are_kept() -> None:
    group = WorkerGroupConfig(replicas=3, min_replicas=3, max_replicas=3)
    assert (group.min_replicas, group.replicas, group.max_replicas) == (3, 3, 3)


def test_the_signature_of_load_config_from_yaml() -> None:
    signature = inspect.signature(load_config_from_yaml)
    assert list(signature.parameters) == ["path", "overrides"]
    assert signature.parameters["path"].annotation == str | Path
    assert signature.parameters["overrides"].annotation == dict[str, Any] | None
    assert signature.parameters["overrides"].default is None
    assert signature.return_annotation is ClusterConfig


def test_the_references_example(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("name: my-cluster\nnamespace: prod\nhead:\n  cpus: 4\n")
    assert load_config_from_yaml(str(path)).head.cpus == "4"
    loaded = load_config_from_yaml(path, overrides={"namespace": "staging", "head.cpus": 32})
    assert (loaded.namespace, loaded.head.cpus) == ("staging", "32")


def test_every_public_name_is_importable() -> None:
    assert all(hasattr(config, name) for name in config.__all__)
    assert ConfigValidationError is krayne.errors.ConfigValidationError
