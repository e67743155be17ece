"""What a log's end has gained: nothing twice, nothing lost while the ends overlap."""

from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.logtail import KNOWN, added, last_lines


@given(st.binary(), st.binary())
def test_what_is_appended_is_told_once(before: bytes, more: bytes) -> None:
    assert added(before, before + more) == more


def test_an_end_that_moved_on_goes_on_where_it_was() -> None:
    whole = b"".join(b"line %d\n" % number for number in range(5000))
    at = len(whole) // 2
    assert added(whole[:at], whole[at - KNOWN - 100 :]) == whole[at:]


def test_a_log_begun_anew_is_told_whole() -> None:
    assert added(b"old words\n", b"new\n") == b"new\n"


def test_last_lines_count_an_unfinished_one() -> None:
    assert last_lines(b"a\nb\nc", 2) == b"b\nc"
    assert last_lines(b"a\nb\n", 0) == b""
    assert last_lines(b"a\nb\n", None) == b"a\nb\n"
