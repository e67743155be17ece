"""The metrics' text, read back line by line: whatever a label holds, it comes back as it was."""

import re

from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.metrics import Family, Sample, render

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"')
ESCAPED = re.compile(r"\\(.)")


def parsed(text: str) -> dict[str, tuple[str, list[tuple[dict[str, str], float]]]]:
    """Name -> kind and samples; fails on anything that is not the format."""
    found: dict[str, tuple[str, list[tuple[dict[str, str], float]]]] = {}
    helped = set()
    assert text == "" or text.endswith("\n")
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            helped.add(line.split(" ")[2])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name in helped
            assert name not in found, "one TYPE for each name"
            found[name] = (kind, [])
        else:
            match = NAME.match(line)
            assert match, line
            head, _, value = line.rpartition(" ")
            inner = head[match.end() :]
            labels = {}
            if inner:
                assert inner[0] + inner[-1] == "{}"
                pairs = LABEL.findall(inner)
                assert ",".join(f'{name}="{raw}"' for name, raw in pairs) == inner[1:-1]
                labels = {name: ESCAPED.sub(lambda one: "\n" if one[1] == "n" else one[1], raw) for name, raw in pairs}
            found[match[0]][1].append((labels, float(value)))
    for name, (kind, _) in found.items():
        assert (kind == "counter") == name.endswith("_total")
    return found


@given(
    st.lists(st.tuples(st.text(max_size=12), st.floats(allow_nan=False, allow_infinity=False)), max_size=5), st.text()
)
def test_what_is_written_is_read_back(rows: list[tuple[str, float]], about: str) -> None:
    samples = tuple(Sample(value, {"cluster": label, "service": "ssh"}) for label, value in rows)
    found = parsed(render([Family("krayne_x_total", "counter", about, samples)]))
    assert found == {"krayne_x_total": ("counter", [({"cluster": a, "service": "ssh"}, b) for a, b in rows])}


def test_without_labels_and_without_samples() -> None:
    text = render([Family("a", "gauge", "An a.", (Sample(1.5),)), Family("b_total", "counter", "No b yet.", ())])
    assert text == "# HELP a An a.\n# TYPE a gauge\na 1.5\n# HELP b_total No b yet.\n# TYPE b_total counter\n"
