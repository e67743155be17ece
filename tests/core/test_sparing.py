"""Few lines, and none of the first news lost."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.sparing import AGAIN, GAP, Sparing


def test_the_first_words_and_new_words_are_logged_and_the_same_ones_seldom() -> None:
    log = Sparing()
    assert log.wants("refused", 0.0)
    assert not log.wants("refused", GAP)
    assert log.wants("cut", GAP)
    assert log.wants("refused", 2 * GAP)
    assert not log.wants("refused", AGAIN)
    assert log.wants("refused", 2 * GAP + AGAIN)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 2)), max_size=200))
def test_lines_are_never_closer_than_the_gap(news: list[tuple[str, float]]) -> None:
    log, now, lines = Sparing(), 0.0, []
    for words, later in news:
        now += later
        if log.wants(words, now):
            lines.append((words, now))
    for (before, then), (words, when) in pairwise(lines):
        assert when - then >= (AGAIN if words == before else GAP) - 1e-9
