"""Overrides win over the file, in the order given, and answer for their own mistakes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krayne.config import (
    AutoscalerConfig,
    ClusterConfig,
    ConfigValidationError,
    HeadNodeConfig,
    InvalidConfigError,
    parse_cluster_yaml,
)

FILE = b"""name: demo
head:
  cpus: 2
  memory: 8Gi
worker_groups:
- name: cpu
  replicas: 1
- name: gpu
  gpus: 1
"""


def load(overrides: dict[str, Any], text: bytes = FILE) -> ClusterConfig:
    return parse_cluster_yaml(text, source="c.yaml", overrides=overrides)


def refusal(overrides: dict[str, Any], text: bytes = FILE) -> InvalidConfigError:
    with pytest.raises(InvalidConfigError) as caught:
        load(overrides, text)
    return caught.value


def test_a_dotted_key_reaches_a_nested_field_and_leaves_the_rest() -> None:
    config = load({"head.cpus": 32, "namespace": "staging"})
    assert config.head == HeadNodeConfig(cpus="32", memory="8Gi")
    assert config.namespace == "staging"


def test_a_nested_dict_is_the_same_as_dotted_keys() -> None:
    nested = load({"head": {"cpus": 32}, "worker_groups": {"gpu": {"gpus": 4}}})
    assert nested == load({"head.cpus": 32, "worker_groups.gpu.gpus": 4})


@pytest.mark.parametrize("key", ["worker_groups.1.replicas", "worker_groups.gpu.replicas"])
def test_a_group_by_index_and_by_name(key: str) -> None:
    config = load({key: 3})
    assert [group.replicas for group in config.worker_groups] == [1, 3]


def test_a_group_the_file_leaves_to_its_default() -> None:
    for key in ("worker_groups.0.replicas", "worker_groups.worker.replicas"):
        (group,) = load({key: 3}, b"name: a").worker_groups
        assert (group.name, group.replicas) == ("worker", 3)


def test_sections_the_file_does_not_have() -> None:
    assert load({"autoscaler.enabled": False}).autoscaler == AutoscalerConfig(enabled=False)
    assert load({"head.pod.labels": {"example.com/team": "x"}}).head.pod.labels == {"example.com/team": "x"}


def test_a_list_is_replaced_whole() -> None:
    assert [group.name for group in load({"worker_groups": [{"name": "new"}]}).worker_groups] == ["new"]
    assert load({"worker_groups": []}).worker_groups == []


def test_models_are_taken_as_values() -> None:
    assert load({"head": HeadNodeConfig(cpus="9")}).head == HeadNodeConfig(cpus="9", memory="8Gi")


def test_none_resets_an_optional_field() -> None:
    text = b"name: a\nhead: {image: x}"
    assert load({"head.image": None}, text).head.image is None


def test_an_empty_file_can_be_all_overrides() -> None:
    assert load({"name": "a"}, b"") == ClusterConfig(name="a")


def test_an_override_mends_what_the_file_has_wrong() -> None:
    assert load({"head.cpus": 1}, b"name: a\nhead: {cpus: lots}").head.cpus == "1"


def test_the_later_override_wins() -> None:
    assert load({"head": {"cpus": 3}, "head.cpus": 4}).head.cpus == "4"
    assert load({"head.cpus": 4, "head": {"cpus": 3}}).head.cpus == "3"


FIELDS = {
    "namespace": st.sampled_from(["a", "b"]),
    "head.cpus": st.integers(1, 9).map(str),
    "head.runs_tasks": st.booleans(),
    "worker_groups.cpu.gpus": st.integers(0, 9),
    "worker_groups.1.max_replicas": st.integers(1, 9),
    "autoscaler.idle_timeout_seconds": st.integers(0, 99),
}


def value_at(config: ClusterConfig, key: str) -> Any:
    key = key.replace(".cpu.", ".0.")
    value: Any = config
    for part in key.split("."):
        value = value[int(part)] if part.isdecimal() else getattr(value, part)
    return value


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_law_what_is_overridden_holds_and_nothing_else_moves(overrides: dict[str, Any]) -> None:
    plain, config = load({}), load(overrides)
    for key in FIELDS:
        assert value_at(config, key) == overrides.get(key, value_at(plain, key))


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_law_applying_twice_is_applying_once_and_the_callers_dict_is_untouched(overrides: dict[str, Any]) -> None:
    before = dict(overrides)
    once = load(overrides)
    assert overrides == before
    assert load({**overrides, **overrides}) == once


def test_the_callers_nested_values_are_untouched() -> None:
    head = {"cpus": 3}
    groups = [{"name": "x"}]
    load({"head": head, "head.cpus": 4, "worker_groups": groups, "worker_groups.x.cpus": 2})
    assert head == {"cpus": 3}
    assert groups == [{"name": "x"}]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"head.cpu": 4}, "override head.cpu: head.cpu is not a known field; did you mean cpus?"),
    ({"hed.cpus": 4}, "override hed.cpus: hed is not a known field; did you mean head?"),
    ({"head.cpus": "lots"}, "override head.cpus: head.cpus is not a Kubernetes quantity"),
    ({"head": {"cpus": "lots"}}, "override head: head.cpus is not a Kubernetes quantity"),
    ({"head.cpus": {"x": 1}}, "override head.cpus: head.cpus must be text, not a mapping"),
    ({"head.cpus.x": 1}, "override head.cpus.x: head.cpus has no fields"),
    ({"head": 5}, "override head: head must be a mapping of fields, not 5"),
    ({"name": None}, "override name: name has no value"),
    ({"worker_groups.2.cpus": 1}, 'override worker_groups.2.cpus: worker_groups has no entry "2"'),
    ({"worker_groups.-1.cpus": 1}, 'worker_groups has no entry "-1"'),
    ({"worker_groups.gpuu.cpus": 1}, 'worker_groups has no entry "gpuu"; did you mean gpu?'),
    ({"worker_groups.gpu.min_replicas": 4}, "override worker_groups.gpu.min_replicas: worker_groups[1].replicas must"),
    ({"worker_groups.1.name": "cpu"}, "override worker_groups.1.name: worker_groups[1].name is used twice"),
    ({"head..cpus": 1}, "override head..cpus: is not the name of a field"),
    ({"": 1}, "is not the name of a field"),
]


@pytest.mark.parametrize(("overrides", "says"), WRONG, ids=[says[:50] for _, says in WRONG])
def test_a_wrong_override_is_named_instead_of_a_line(overrides: dict[str, Any], says: str) -> None:
    error = refusal(overrides)
    assert says in error.message
    assert error.problems[0].line is None
    assert error.problems[0].override == next(iter(overrides))


def test_a_mistake_of_the_file_keeps_its_line() -> None:
    error = refusal({"head.memory": "9Gi"}, b"name: a\nhead:\n  cpus: lots\n")
    assert error.problems[0].line == 3
    assert error.problems[0].override == ""


def test_a_replaced_value_answers_to_the_override_that_replaced_it() -> None:
    error = refusal({"worker_groups.0.cpus": 2, "worker_groups": [{"cpus": "lots"}]})
    assert error.problems[0].override == "worker_groups"


def test_an_ambiguous_group_is_refused() -> None:
    text = b"name: a\nworker_groups:\n- name: '1'\n- name: b\n"
    assert "names more than one entry" in refusal({"worker_groups.1.cpus": 2}, text).message


def test_bottomless_and_endless_values_are_refused() -> None:
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    assert "nests deeper" in refusal({"head.pod.affinity": {"a": deep}}).message
    endless: dict[str, Any] = {}
    endless["a"] = endless
    assert "nests deeper" in refusal({"head": endless}).message


def test_a_key_that_is_no_text_is_refused() -> None:
    wrong: Any = {5: 1}
    with pytest.raises(ConfigValidationError, match="override 5"):
        load(wrong)
