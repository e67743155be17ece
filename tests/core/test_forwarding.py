"""When bytes may be sent a second time, and how long a connection waits."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.backoff import STEADY
from kraynd.core.forwarding import Wait, after_end

KINDS = ("eof", "refused", "reset", "pod-gone", "tunnel-lost", "a kind of a later version")


SSH, WORD = b"SSH-2.0-client\r\n", b"any word"


@pytest.mark.parametrize(
    ("kind", "answered", "said", "finished", "expected"),
    [
        ("eof", True, None, True, "finish"),
        ("eof", False, WORD, False, "finish"),
        ("refused", False, WORD, True, "replay"),
        ("refused", False, None, False, "reset"),
        ("refused", True, WORD, False, "reset"),
        ("pod-gone", False, WORD, False, "replay"),
        ("pod-gone", True, None, False, "reset"),
        ("tunnel-lost", False, b"", False, "replay"),
        ("tunnel-lost", False, b"", True, "reset"),
        ("tunnel-lost", False, WORD, False, "reset"),
        ("tunnel-lost", False, SSH, False, "replay"),
        ("tunnel-lost", False, SSH, True, "replay"),
        ("tunnel-lost", True, SSH, False, "reset"),
        ("tunnel-lost", False, None, False, "reset"),
        ("reset", False, SSH, False, "reset"),
        ("a kind of a later version", False, b"", False, "reset"),
    ],
)
def test_what_an_end_means(kind: str, answered: bool, said: bytes | None, finished: bool, expected: str) -> None:
    assert after_end(kind, answered=answered, said=said, finished=finished) == expected


def test_nothing_is_replayed_that_an_application_may_have_acted_on() -> None:
    for kind, answered, said, finished in itertools.product(KINDS, (False, True), (None, b"", WORD), (False, True)):
        if after_end(kind, answered=answered, said=said, finished=finished) == "replay":
            assert said is not None
            assert not answered
            assert kind in ("refused", "pod-gone") or not (said or finished)


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
