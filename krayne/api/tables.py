"""Rows as HTML tables for notebooks. Pure; every value is escaped, and only http addresses become links."""

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = ' style="text-align:left"'


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a head row."""
    head = "".join(f"<th{_STYLE}>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def facts_table(facts: Iterable[tuple[str, object]]) -> str:
    """A table of a name and a value a row."""
    rows = "".join(f"<tr><th{_STYLE}>{escape(name)}</th>{_cell(value)}</tr>" for name, value in facts)
    return f"<table><tbody>{rows}</tbody></table>"


def _cell(value: object) -> str:
    text = escape("" if value is None else str(value))
    if text.startswith(("http://", "https://")):
        text = f'<a href="{text}" rel="noopener">{text}</a>'
    return f"<td{_STYLE}>{text}</td>"
