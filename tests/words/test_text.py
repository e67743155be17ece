"""Words and columns: durations, sizes, cuts, tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.text import Cell, Ink, clean, cut, duration, size, table, width_of


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (200, "3m20s"),
        (1500, "25m"),
        (7500, "2h5m"),
        (3600, "1h"),
        (90_000, "1d1h"),
        (10 * 86_400 + 3600, "10d"),
        (86_400 * 400, "400d"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0"), (812, "812"), (1000, "1.0K"), (4200, "4.1K"), (24 << 20, "24M"), (5 << 50, "5120T")]
)
def test_size(count: int, said: str) -> None:
    assert size(count) == said


@given(st.text(), st.integers(1, 40))
def test_cut_fits(text: str, width: int) -> None:
    assert width_of(cut(clean(text), width)) <= width


@given(st.lists(st.lists(st.text(max_size=9), min_size=3, max_size=3), min_size=1, max_size=5))
def test_columns_start_below_each_other(rows: list[list[str]]) -> None:
    cells = [[Cell(clean(text).replace(" ", "_") or "-") for text in row] for row in rows]
    lines = table(["ONE", "TWO", "THREE"], cells, Ink())
    if all(line.isascii() for line in lines):
        assert {line.index(row[1].text, len(row[0].text)) for line, row in zip(lines[1:], cells, strict=True)} == {
            lines[0].index("TWO")
        }
    assert all("\n" not in line and line == line.rstrip() for line in lines if line.isascii())


def test_empty_columns_are_left_out() -> None:
    assert table(["A", "B", "C"], [[Cell("1"), Cell(""), Cell("3")]], Ink()) == ["A  C", "1  3"]


def test_the_last_column_gives_way_and_colours_take_no_room() -> None:
    rows = [[Cell("ab", "32"), Cell("x" * 60)], [Cell("c"), Cell("")]]
    head, first, second = table(["N", "REASON"], rows, Ink(color=True, width=20))
    assert first == "\x1b[32mab\x1b[0m  " + "x" * 15 + "…"
    assert second == "c"
    assert "REASON" in head


@given(st.text())
def test_clean_leaves_nothing_that_drives_a_terminal(text: str) -> None:
    assert clean(text).isprintable()
