"""Words and columns: durations, sizes, colours, tables cut to a width. Pure; what they are of is `render`'s affair."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from unicodedata import east_asian_width

GREEN, YELLOW, RED, DIM, BOLD = "32", "33", "31", "2", "1"
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
GAP = "  "
MIN_LAST = 12  # columns the last, elastic one keeps however narrow the terminal is


class Cell(NamedTuple):
    """A piece of a table: plain text, and how it is painted where colours are wanted."""

    text: str
    paint: str = ""


class Ink(NamedTuple):
    """Where text goes: colours or not, and how wide it may be (0: as wide as it is)."""

    color: bool = False
    width: int = 0

    def paint(self, text: str, code: str) -> str:
        """`text` in a colour, where colours are wanted."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and code and text else text


def clean(text: str) -> str:
    """One line without control characters: what Kubernetes or a file says must not drive the terminal."""
    if text.isprintable():  # nearly all is: lists of a thousand clusters are rendered for each `ls`
        return text
    return "".join(char if char.isprintable() else " " for char in text)


def width_of(text: str) -> int:
    """Columns on a terminal."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns, with an ellipsis where something is missing."""
    if width_of(text) <= width:
        return text
    kept, used = "", 1
    for char in text:
        used += width_of(char)
        if used > width:
            break
        kept += char
    return kept.rstrip() + "…"


def duration(seconds: float) -> str:
    """How long, as a person would say it: 12s, 3m20s, 25m, 2h5m, 4d3h, 40d."""
    left = max(0, int(seconds))
    for (name, length), (finer, finer_length) in pairwise(_UNITS):
        whole, rest = divmod(left, length)
        if whole:
            second = rest // finer_length if whole < 10 else 0
            return f"{whole}{name}" + (f"{second}{finer}" if second else "")
    return f"{left}s"


def size(count: int) -> str:
    """Bytes, short: 812, 4.1K, 23M."""
    value = float(count)
    for unit in ("", "K", "M", "G", "T"):
        if value < 1000 or unit == "T":
            return f"{value:.1f}{unit}" if unit and value < 10 else f"{value:.0f}{unit}"
        value /= 1024
    return ""


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], ink: Ink) -> list[str]:
    """Aligned columns; empty ones are left out, the last one gives way to the width. No trailing blanks."""
    kept = [at for at in range(len(head)) if any(row[at].text for row in rows)]
    head = [head[at] for at in kept]
    cells = [[Cell(clean(row[at].text), row[at].paint) for at in kept] for row in rows]
    widths = [max(width_of(text) for text in column) for column in _columns(head, cells)]
    last = _last_width(widths, ink.width)
    lines = [_line([Cell(title, BOLD) for title in head], widths, last, ink)]
    lines += [_line(row, widths, last, ink) for row in cells]
    return lines


def _columns(head: Sequence[str], cells: Sequence[Sequence[Cell]]) -> list[list[str]]:
    return [[title, *(row[at].text for row in cells)] for at, title in enumerate(head)]


def _last_width(widths: Sequence[int], limit: int) -> int:
    if not limit:
        return widths[-1]
    before = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
    return max(MIN_LAST, limit - before)


def _line(row: Sequence[Cell], widths: Sequence[int], last: int, ink: Ink) -> str:
    parts = []
    for at, cell in enumerate(row):
        is_last = at == len(row) - 1
        text = cut(cell.text, last) if is_last else cell.text
        rest_is_empty = all(not other.text for other in row[at + 1 :])
        pad = "" if is_last or rest_is_empty else " " * (widths[at] - width_of(text))
        parts.append(ink.paint(text, cell.paint) + pad)
        if rest_is_empty:
            break
    return GAP.join(parts)
