"""The backoff curve and the memory of failures."""

import math

from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.backoff import DIAL, PORT_TAKEN, REFUSED, STEADY, Backoff, Retry

RAND = st.floats(0, 1, exclude_max=True)
CURVES = st.builds(
    Backoff,
    base=st.floats(0.001, 10),
    cap=st.floats(0.001, 1000),
    factor=st.floats(1, 10),
    jitter=st.floats(0, 1),
    free=st.integers(0, 3),
)


@given(CURVES, st.integers(0, 10**6), RAND)
def test_never_negative_never_above_the_cap_never_an_overflow(curve: Backoff, failures: int, rand: float) -> None:
    delay = curve.delay(failures, rand)
    assert 0.0 <= delay <= curve.cap
    assert math.isfinite(delay)


@given(CURVES, st.integers(1, 500), RAND)
def test_never_falls_as_failures_grow(curve: Backoff, failures: int, rand: float) -> None:
    assert curve.delay(failures + 1, rand) >= curve.delay(failures, rand)


@given(CURVES, st.integers(1, 100), RAND)
def test_jitter_takes_at_most_its_share(curve: Backoff, failures: int, rand: float) -> None:
    full = curve.delay(failures, 0.0)
    assert full * (1 - curve.jitter) <= curve.delay(failures, rand) <= full


@given(CURVES, RAND)
def test_the_free_tries_wait_nothing_and_the_next_waits_the_base(curve: Backoff, rand: float) -> None:
    assert all(curve.delay(failure, rand) == 0.0 for failure in range(curve.free + 1))
    assert curve.delay(curve.free + 1, 0.0) == min(curve.base, curve.cap)


def test_a_dial_waits_0_then_50_ms_then_100_ms_up_to_5_s() -> None:
    assert [DIAL.delay(n, 0.0) for n in range(1, 11)] == [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_refused_port_is_asked_after_100_ms_by_halves_more_up_to_1_s() -> None:
    delays = [round(REFUSED.delay(n, 0.0), 4) for n in range(1, 8)]
    assert delays == [0.1, 0.15, 0.225, 0.3375, 0.5062, 0.7594, 1.0]


def test_a_freed_port_is_found_within_2_s() -> None:
    assert PORT_TAKEN.delay(10**9, 0.0) < 2.0


@given(st.integers(0, 100), st.floats(0, 1e6), st.floats(0, 100))
def test_only_a_success_that_lasted_makes_the_next_failure_the_first(failures: int, now: float, lasted: float) -> None:
    failing = Retry(failures).works(now).works(now + lasted / 2)
    again = failing.failed(now + lasted)
    steady = (now + lasted) - now >= STEADY
    assert again == Retry(1 if steady else failures + 1)


@given(st.integers(0, 100), st.one_of(st.none(), st.floats(0, 1e6)))
def test_a_wake_forgets_the_failures(failures: int, since: float | None) -> None:
    assert Retry(failures, since).woken().failures == 0
    assert Retry(failures, since).woken().failed(0.0).failures == 1
