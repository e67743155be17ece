"""One line of the table: ours, kubectl's, the ratio, what it should be, and MISSED where it is not so."""

INDENT = 44


def row(what: str, ours: float, theirs: float, unit: str, target: float, *, least: bool = False) -> None:
    """A ratio that should be at most `target`, or at least."""
    ratio = ours / theirs
    good = ratio >= target if least else ratio <= target
    word = ">=" if least else "<="
    print(
        f"{what:{INDENT}} {ours:9.2f} {theirs:9.2f} {unit:5} {ratio:6.2f}x  ({word} {target}x){_miss(good)}", flush=True
    )


def fact(what: str, ours: float, theirs: float | None, unit: str, most: float) -> None:
    """A figure of ours that should be at most `most`; kubectl's beside it, where it has one."""
    other = "-" if theirs is None else f"{theirs:.2f}"
    ratio = "" if not theirs else f"{ours / theirs:.2f}x"
    print(f"{what:{INDENT}} {ours:9.2f} {other:>9} {unit:5} {ratio:>7}  (<= {most:g}){_miss(ours <= most)}", flush=True)


def _miss(good: bool) -> str:
    return "" if good else "   MISSED"
