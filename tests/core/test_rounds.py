"""Rounds: every loop's moments are multiples of its period, and the longer ones' are among the shorter ones'."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.rounds import EARLY, ROUND, until_round

CLOSE = 1e-6  # seconds; what floats lose after months on one clock


def off(moment: float, every: float) -> float:
    """How far it is from the nearest multiple."""
    return min(moment % every, every - moment % every)


@given(now=st.floats(0.0, 1e7), every=st.sampled_from([0.3, ROUND, 3 * ROUND, 6 * ROUND]))
def test_the_next_moment_is_a_multiple_and_never_at_once(now: float, every: float) -> None:
    left = until_round(now, every)
    assert EARLY <= left <= every + EARLY
    assert off(now + left, every) < CLOSE


@given(now=st.floats(0.0, 1e7), times=st.integers(1, 6))
def test_longer_periods_meet_the_shorter_one(now: float, times: int) -> None:
    assert off(now + until_round(now, times * ROUND), ROUND) < CLOSE


@pytest.mark.parametrize("early", [0.0, 0.0004, 0.0009])
def test_a_timer_that_fires_a_little_early_is_not_set_again_for_the_same_moment(early: float) -> None:
    assert until_round(80.0 - early, ROUND) == pytest.approx(ROUND + early)
