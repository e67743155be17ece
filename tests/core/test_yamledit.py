"""One value changes, every other byte stays."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.yamledit import CannotEditError, set_value

FILE = """\
# our training cluster
name: demo      # the name
worker_groups:
  # the small ones
  - name: cpu
    replicas: 1   # one is enough
    max_replicas: 4
  - name: gpu
    gpus: 1
head: {cpus: "2"}
"""


def test_a_scalar_is_replaced_in_place() -> None:
    text = set_value(FILE, ("worker_groups", 0, "replicas"), 3)
    assert text == FILE.replace("replicas: 1   #", "replicas: 3   #", 1)


def test_a_missing_key_goes_beside_its_siblings() -> None:
    text = set_value(FILE, ("worker_groups", 1, "replicas"), 2)
    assert yaml.safe_load(text)["worker_groups"][1] == {"name": "gpu", "gpus": 1, "replicas": 2}
    assert text.count("#") == FILE.count("#")


def test_a_missing_key_of_a_flow_mapping() -> None:
    text = set_value(FILE, ("head", "memory"), "8Gi")
    assert yaml.safe_load(text)["head"] == {"cpus": "2", "memory": "8Gi"}


def test_a_top_level_key_is_added() -> None:
    assert yaml.safe_load(set_value(FILE, ("namespace",), "prod"))["namespace"] == "prod"


@pytest.mark.parametrize(
    "path", [("services", "ssh"), ("worker_groups", 7, "replicas"), ("name", "x"), ("worker_groups",)]
)
def test_what_cannot_be_changed_in_place_is_refused(path: tuple[str | int, ...]) -> None:
    with pytest.raises(CannotEditError):
        set_value(FILE, path, 1)


@given(st.sampled_from(["replicas", "min_replicas", "max_replicas", "cpus"]), st.integers(0, 1), st.integers(0, 99))
def test_only_the_asked_value_differs(field: str, group: int, value: int) -> None:
    before = yaml.safe_load(FILE)
    before["worker_groups"][group][field] = value
    assert yaml.safe_load(set_value(FILE, ("worker_groups", group, field), value)) == before
