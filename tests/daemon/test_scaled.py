"""`krayne scale` as changes of the cluster file: the result is always a valid file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.operations import scaled
from krayne.config import ClusterConfig, WorkerGroupConfig
from krayne.errors import UsageError

COUNTS = st.integers(0, 50)


def config(*groups: WorkerGroupConfig) -> ClusterConfig:
    return ClusterConfig(name="demo", worker_groups=list(groups))


def test_a_count_past_the_maximum_raises_it() -> None:
    changes = scaled(config(WorkerGroupConfig(name="w", max_replicas=2)), None, 5, None, None)
    assert changes == {("worker_groups", 0, "replicas"): 5, ("worker_groups", 0, "max_replicas"): 5}


def test_a_count_below_the_minimum_lowers_it() -> None:
    group = WorkerGroupConfig(name="w", replicas=3, min_replicas=3, max_replicas=5)
    changes = scaled(config(group), None, 1, None, None)
    assert changes == {("worker_groups", 0, "replicas"): 1, ("worker_groups", 0, "min_replicas"): 1}


def test_the_group_is_named_where_there_are_several() -> None:
    two = config(WorkerGroupConfig(name="a"), WorkerGroupConfig(name="b"))
    with pytest.raises(UsageError, match="2 worker groups"):
        scaled(two, None, 1, None, None)
    assert list(scaled(two, "b", 1, None, None)) == [("worker_groups", 1, "replicas")]
    with pytest.raises(UsageError, match="no worker group c"):
        scaled(two, "c", 1, None, None)


def test_nothing_to_change_is_said() -> None:
    with pytest.raises(UsageError, match="nothing to change"):
        scaled(config(WorkerGroupConfig()), None, None, None, None)


@given(COUNTS, COUNTS, COUNTS, st.none() | COUNTS, st.none() | COUNTS, st.none() | COUNTS)
def test_the_result_is_valid_whenever_the_bounds_given_are(
    low: int, wanted: int, high: int, replicas: int | None, minimum: int | None, maximum: int | None
) -> None:
    low, wanted, high = sorted((low, wanted, high))
    group = WorkerGroupConfig(name="w", replicas=wanted, min_replicas=low, max_replicas=high)
    given_order = [one for one in (minimum, replicas, maximum) if one is not None]
    if not given_order or given_order != sorted(given_order):
        return
    data = group.model_dump()
    for path, value in scaled(config(group), "w", replicas, minimum, maximum).items():
        data[str(path[-1])] = value
    made = WorkerGroupConfig.model_validate(data)
    assert replicas is None or made.replicas == replicas
    assert maximum is None or made.max_replicas == maximum
    assert minimum is None or made.min_replicas == minimum
