"""Files on disk, and files we write: the round trip, and every cut of it."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krayne.config import (
    AutoscalerConfig,
    ClusterConfig,
    ConfigValidationError,
    HeadNodeConfig,
    PodFragment,
    ServicesConfig,
    WorkerGroupConfig,
    dump_cluster_yaml,
    load_config_from_yaml,
    parse_cluster_yaml,
)
from krayne.config.document import SIZE_LIMIT

LABELS = st.sampled_from(["a", "no", "team-a", "1", "x" * 30, "0x1f", "1e3", "null"])
BREAKS = st.text("ab \n\t\r:#'-\x85\u2028\ufeff", max_size=8)  # where YAML writers go wrong
WORDS = BREAKS | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CPUS = st.sampled_from(["1", "500m", "1.5", "32", "2e3", "0.1"])
MEMORY = st.sampled_from(["4Gi", "512Mi", "2147483648", "1.5G", "8e9"])
IMAGES = st.none() | st.sampled_from(["rayproject/ray:2.60.0-py311", "10.0.0.1:5000/x@sha256:aa", "1.10", "no"])
NUMBERS = st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(WORDS, JSON, max_size=2)
PODS = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.dictionaries(LABELS, LABELS, max_size=2),
        "annotations": st.dictionaries(LABELS, WORDS, max_size=2),
        "env": WORDS.map(lambda word: [{"name": "A", "value": word}, {"name": "B"}]),
        "volumes": OBJECTS.map(lambda source: [{"name": "data", "emptyDir": source}]),
        "affinity": OBJECTS,
        "tolerations": st.lists(st.sampled_from([{}, {"operator": "Exists"}, {"key": "a", "value": "no"}]), max_size=2),
    },
).map(PodFragment.model_validate)
BOUNDS = st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3).map(sorted)
GROUPS = st.builds(
    lambda name, bounds, **rest: WorkerGroupConfig(
        name=name, min_replicas=bounds[0], replicas=bounds[1], max_replicas=bounds[2], **rest
    ),
    name=LABELS,
    bounds=BOUNDS,
    cpus=CPUS,
    memory=MEMORY,
    gpus=st.integers(0, 8),
    image=IMAGES,
    pod=PODS,
)
HEADS = st.builds(HeadNodeConfig, cpus=CPUS, memory=MEMORY, image=IMAGES, runs_tasks=st.just(False), pod=PODS)


def configs() -> st.SearchStrategy[ClusterConfig]:
    return st.builds(
        ClusterConfig,
        name=st.sampled_from(["a", "demo", "no", "null", "x" * 53]),
        namespace=LABELS,
        head=HEADS | st.just(HeadNodeConfig(cpus="4", runs_tasks=True)),
        worker_groups=st.lists(GROUPS, max_size=2, unique_by=lambda group: group.name),
        services=st.builds(ServicesConfig, notebook=st.booleans(), code_server=st.booleans(), ssh=st.booleans()),
        autoscaler=st.builds(
            AutoscalerConfig,
            enabled=st.booleans(),
            idle_timeout_seconds=st.integers(0, 2**31 - 1),
            upscaling_mode=st.sampled_from(["Default", "Aggressive", "Conservative"]),
            cpu=CPUS,
            memory=MEMORY,
        ),
    )


@settings(deadline=None)
@given(configs())
def test_law_what_we_write_loads_as_what_was_meant(config: ClusterConfig) -> None:
    text = dump_cluster_yaml(config)
    assert parse_cluster_yaml(text.encode(), source="f") == config
    assert dump_cluster_yaml(parse_cluster_yaml(text.encode(), source="f")) == text


@settings(deadline=None)
@given(configs(), st.randoms(use_true_random=False))
def test_law_any_cut_or_flip_is_a_config_or_a_refusal(config: ClusterConfig, random: Any) -> None:
    text = bytearray(dump_cluster_yaml(config).encode())
    text[random.randrange(len(text))] ^= 1 << random.randrange(8)
    for damaged in (bytes(text), bytes(text[: random.randrange(len(text))])):
        try:
            parse_cluster_yaml(damaged, source="f")
        except ConfigValidationError:
            continue


WHOLE = """# my cluster
name: demo
namespace: team-a
head: {cpus: 4, runs_tasks: yes, image: "rayproject/ray:2.60.0"}
worker_groups:
  - name: gpu
    max_replicas: 4
    gpus: 1
    pod:
      env:
        - {name: GREETING, value: 'grüß "dich"'}
      tolerations: [{operator: Exists}]
services: {notebook: off}
autoscaler:
  idle_timeout_seconds: 600
""".encode()


def test_a_file_cut_at_every_byte() -> None:
    outcomes: set[type] = set()
    for length in range(len(WHOLE) + 1):
        try:
            outcomes.add(type(parse_cluster_yaml(WHOLE[:length], source="f")))
        except ConfigValidationError as error:
            outcomes.add(type(error))
    assert len(outcomes) == 2
    assert parse_cluster_yaml(WHOLE, source="f").worker_groups[0].pod.env[0].value == 'grüß "dich"'


def test_a_written_file_is_the_shortest() -> None:
    assert dump_cluster_yaml(ClusterConfig(name="demo")) == "name: demo\n"
    config = ClusterConfig(
        name="demo", worker_groups=[WorkerGroupConfig(), WorkerGroupConfig(name="gpu", gpus=1, replicas=3)]
    )
    assert dump_cluster_yaml(config) == (
        "name: demo\nworker_groups:\n- name: worker\n- name: gpu\n  replicas: 3\n  max_replicas: 3\n  gpus: 1\n"
    )


def test_explicit_defaults_and_order_do_not_change_what_is_written() -> None:
    wordy = b"services: {ssh: true}\nhead: {memory: 4Gi}\nnamespace: default\nname: demo\n"
    assert dump_cluster_yaml(parse_cluster_yaml(wordy, source="f")) == "name: demo\n"


def test_a_script_is_written_as_lines() -> None:
    pod = PodFragment(annotations={"script": "set -e\necho hi\n"})
    text = dump_cluster_yaml(ClusterConfig(name="demo", head=HeadNodeConfig(pod=pod)))
    assert text.endswith("      script: |\n        set -e\n        echo hi\n")


def test_shared_values_are_written_out_twice() -> None:
    shared = {"nodeAffinity": {"x": [1]}}
    pod = PodFragment(affinity=shared, securityContext=shared)
    config = ClusterConfig(name="demo", head=HeadNodeConfig(pod=pod))
    assert parse_cluster_yaml(dump_cluster_yaml(config).encode(), source="f") == config


def test_a_cluster_too_large_for_a_file_is_refused() -> None:
    pod = PodFragment(annotations={"a": "x" * SIZE_LIMIT})
    with pytest.raises(ConfigValidationError, match="larger than 256 KiB"):
        dump_cluster_yaml(ClusterConfig(name="demo", head=HeadNodeConfig(pod=pod)))


def test_a_path_as_text_and_as_a_path(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_bytes(WHOLE)
    assert load_config_from_yaml(path) == load_config_from_yaml(str(path)) == parse_cluster_yaml(WHOLE, source="f")


def test_the_error_names_the_file_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text("name: a\nhed: 1\n")
    with pytest.raises(ConfigValidationError) as caught:
        load_config_from_yaml(path)
    assert caught.value.message == f"{path}:2:1: hed is not a known field; did you mean head?"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigValidationError, match="there is no file"):
        load_config_from_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigValidationError, match="is a directory, not a file"):
        load_config_from_yaml(tmp_path)
    with pytest.raises(ConfigValidationError, match="cannot be read: Not a directory"):
        load_config_from_yaml(Path(__file__) / "x.yaml")
    with pytest.raises(ConfigValidationError, match="cannot be read"):
        load_config_from_yaml("a\0b")
    with pytest.raises(ConfigValidationError, match="cannot be read: File name too long"):
        load_config_from_yaml("x" * 5000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_we_may_not_read(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.touch(mode=0o000)
    with pytest.raises(ConfigValidationError, match="cannot be read: Permission denied"):
        load_config_from_yaml(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs an endless file")
def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigValidationError, match="larger than 256 KiB"):
        load_config_from_yaml("/dev/zero")
