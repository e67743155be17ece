"""The laws of suspending idle clusters."""

from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.idle import Idle, Use, judge

QUIET = Use(connections=0, moved=0, jobs=False)
uses = st.builds(Use, connections=st.integers(0, 2), moved=st.integers(0, 2), jobs=st.sampled_from([None, True, False]))
steps = st.lists(st.tuples(st.floats(1, 400), uses | st.just(QUIET)), max_size=60)


@given(steps, st.floats(60, 4000))
def test_never_suspended_while_in_use_unannounced_or_before_its_time(
    steps: list[tuple[float, Use]], limit: float
) -> None:
    now, clock, quiet_since, moved, note = 0.0, None, None, -1, ""
    for wait, use in steps:
        now += wait
        in_use = use.connections or use.jobs is not False or use.moved != moved
        quiet_since = now if in_use or quiet_since is None else quiet_since
        moved = use.moved
        verdict = judge(clock, use, limit, now)
        if verdict.suspend:
            assert not in_use
            assert now - quiet_since >= limit
            assert note, "announced before"
        clock, note = verdict.idle, verdict.note


def test_a_quiet_cluster_is_announced_and_then_suspended() -> None:
    clock, said = None, []
    for now in range(0, 7201, 60):
        verdict = judge(clock, QUIET, 7200.0, float(now))
        clock = verdict.idle
        said.append((verdict.suspend, verdict.note))
    assert said[-1] == (True, "suspended after 2h without use")
    assert [suspend for suspend, _ in said[:-1]] == [False] * (len(said) - 1)
    assert (said[109], said[110]) == ((False, ""), (False, "idle: suspended in 10m unless it is used"))


def test_what_is_not_known_is_use() -> None:
    assert judge(Idle(0.0, 0, told=True), Use(0, 0, None), 60.0, 1e6).idle.since == 1e6
