"""When bytes may be sent a second time, and how long a connection waits."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.backoff import STEADY
from kraynd.core.forwarding import Wait, after_end

KINDS = ("eof", "refused", "reset", "pod-gone", "tunnel-lost", "a kind of a later version")


@pytest.mark.parametrize(
    ("kind", "answered", "kept", "sent", "expected"),
    [
        ("eof", True, False, True, "finish"),
        ("eof", False, True, False, "finish"),
        ("refused", False, True, True, "replay"),
        ("refused", False, False, True, "reset"),
        ("refused", True, True, True, "reset"),
        ("pod-gone", False, True, True, "replay"),
        ("pod-gone", True, False, True, "reset"),
        ("tunnel-lost", False, True, False, "replay"),
        ("tunnel-lost", False, True, True, "reset"),
        ("tunnel-lost", True, False, False, "reset"),
        ("reset", False, True, False, "reset"),
        ("a kind of a later version", False, True, False, "reset"),
    ],
)
def test_what_an_end_means(kind: str, answered: bool, kept: bool, sent: bool, expected: str) -> None:
    assert after_end(kind, answered=answered, kept=kept, sent=sent) == expected


def test_nothing_is_replayed_that_an_application_may_have_seen() -> None:
    for kind, (answered, kept, sent) in itertools.product(KINDS, itertools.product((False, True), repeat=3)):
        if after_end(kind, answered=answered, kept=kept, sent=sent) == "replay":
            assert kept
            assert not answered
            assert not sent or kind in ("refused", "pod-gone")


@given(st.floats(0, 1e6), st.lists(st.sampled_from(["dial", "refused", "tunnel-lost", "news"]), max_size=30))
def test_no_failure_moves_the_deadline(now: float, failures: list[str]) -> None:
    wait = Wait(now)
    for failure in failures:
        if failure == "dial":
            wait = wait.dial_failed()
        elif failure == "news":
            wait = wait.news()
        else:
            wait = wait.got_stream(now + 1).stream_ended(now + 1 + STEADY / 2, failure)
    assert wait.since == now
    assert wait.left(now + 10, 30) == pytest.approx(20)
    assert wait.left(now + 31, 30) == 0


def test_a_stream_that_lasted_begins_a_new_wait() -> None:
    wait = Wait(0.0).dial_failed().dial_failed().got_stream(5.0)
    again = wait.stream_ended(5.0 + STEADY, "tunnel-lost")
    assert (again.since, again.failures, again.delay(0.0)) == (5.0 + STEADY, 0, 0.0)


def test_a_refused_port_is_not_asked_at_once_and_a_lost_tunnel_is() -> None:
    wait = Wait(0.0).got_stream(0.1)
    assert wait.stream_ended(0.2, "refused").delay(0.0) == 0.1
    assert wait.stream_ended(0.2, "tunnel-lost").delay(0.0) == 0.0
    assert wait.stream_ended(0.2, "refused").news().delay(0.0) == 0.0
