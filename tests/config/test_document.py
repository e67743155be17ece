"""YAML as it comes from outside: bombs, half files, and words that YAML versions read differently."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from krayne.config import ConfigValidationError, parse_cluster_yaml, problems_of
from krayne.config import document as document_module
from krayne.config.document import DEPTH_LIMIT, SIZE_LIMIT, read_document
from krayne.config.problems import PROBLEM_LIMIT, Place


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of PyYAML's parsers: the C one is not built everywhere."""
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(document_module, "_LOADER", getattr(yaml, request.param))


def refusal(text: bytes) -> str:
    with pytest.raises(ConfigValidationError) as caught:
        read_document(text, "f")
    assert caught.value.kind == "config-invalid"
    return caught.value.message


LAUGHS = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c]\n" % (c, c, c - 1, c - 1, c - 1) for c in range(ord("b"), ord("k"))
)
BOMBS = {
    "billion laughs": (LAUGHS, "f:1:4: YAML anchors are not allowed here"),
    "alias": (b"a: *b", "f:1:4: YAML aliases are not allowed here"),
    "anchored key": (b"&a name: x", "YAML anchors are not allowed here"),
    "merge key": (b"a: &a {x: y}\nb: {<<: *a}", "YAML anchors are not allowed here"),
    "recursive": (b"&a [*a]", "YAML anchors are not allowed here"),
    "flow lists": (b"[" * 200_000, "the file nests deeper than 32 levels"),
    "a few flow lists": (b"[" * 33, "f:1:33: the file nests deeper than 32 levels"),
    "flow maps": (b"{a: " * 60_000, "the file nests deeper than 32 levels"),
    "dashes": (b"- " * 120_000, "the file nests deeper than 32 levels"),
    "block maps": (b"".join(b" " * i + b"a:\n" for i in range(400)), "f:33:33: the file nests deeper than 32 levels"),
    "complex keys": (b"? " * 1_000, "a field's name must be text"),
    "map as a key": (b"{a: b}: c", "a field's name must be text"),
    "too large": (b"#" * (SIZE_LIMIT + 1), "f: the file is larger than 256 KiB"),
    "too many values": (b"- a\n" * 20_001, "f:20000:3: the file has more than 20000 values"),
    "python object": (b"a: !!python/object/apply:os.system [x]", "f:1:4: YAML tags are not allowed here"),
    "own tag": (b"!x {a: b}", "YAML tags are not allowed here"),
    "tagged text": (b"a: !!str 5", "YAML tags are not allowed here"),
    "bare tag": (b"a: ! 5", "YAML tags are not allowed here"),
    "two documents": (b"name: a\n---\nname: b", "f:2:1: a second YAML document begins here"),
    "duplicate key": (b"a: 1\nb: 2\na: 3", "f:3:1: a is written twice, first on line 1"),
    "duplicate key inside": (b"a:\n- b: 1\n  'b': 2", "f:3:3: a[0].b is written twice, first on line 2"),
    "boolean key": (b"labels: {no: x}", 'f:1:10: the name no must be written in quotes, as "..."'),
    "number key": (b"8080: x", "f:1:1: the name 8080 must be written in quotes"),
    "null key": (b"~: x", "f:1:1: the name ~ must be written in quotes"),
    "sexagesimal": (b"a: 22:22", "f:1:4: 22:22 is no plain decimal number"),
    "octal": (b"a: 010", "010 is no plain decimal number"),
    "hexadecimal": (b"a: 0x1F", "0x1F is no plain decimal number"),
    "binary": (b"a: 0b1", "0b1 is no plain decimal number"),
    "underscores": (b"a: 1_000", "1_000 is no plain decimal number"),
    "infinity": (b"a: .inf", ".inf is no plain decimal number"),
    "not a number": (b"a: .NaN", ".NaN is no plain decimal number"),
    "overflow": (b"a: 1.0e+999", "1.0e+999 is no plain decimal number"),
    "date": (b"a: 2026-01-01", "2026-01-01 is no plain decimal number"),
    "endless integer": (b"a: " + b"9" * 200_000, "is no plain decimal number"),
    "not UTF-8": (b"a: b\nc: \xff\xfe", "f:2:4: the file is not UTF-8 text"),
    "UTF-16": ("a: b".encode("utf-16"), "the file is not UTF-8 text"),
    "control character": (b"a: b\nc: \x01", "f:2:4: this is not valid YAML"),
    "NUL": (b"\0", "f:1:1: this is not valid YAML"),
    "tab": (b"a:\n\tb: c", "f:2:1: this is not valid YAML"),
    "open list": (b"a: [", "this is not valid YAML"),
    "open quote": (b'a: "b', "this is not valid YAML"),
    "two colons": (b"a: b: c", "f:1:5: this is not valid YAML"),
    "stray directive": (b"%YAML 9.9\n---\na: b", "this is not valid YAML"),
}


@pytest.mark.parametrize(("text", "says"), BOMBS.values(), ids=BOMBS)
def test_refused(text: bytes, says: str) -> None:
    message = refusal(text)
    assert says in message
    assert len(message) < 300


def test_the_limits_themselves_are_allowed() -> None:
    inner = "[" * (DEPTH_LIMIT - 1) + "]" * (DEPTH_LIMIT - 1)
    assert read_document(f"a: {inner}".encode(), "f").data
    assert read_document(b"a: b #".ljust(SIZE_LIMIT, b"x"), "f").data == {"a": "b"}


def test_every_mistake_is_listed_up_to_the_limit() -> None:
    text = b"".join(b"k%d: 0x1\n" % number for number in range(100))
    with pytest.raises(ConfigValidationError) as caught:
        read_document(text, "f")
    assert [problem.line for problem in problems_of(caught.value)] == list(range(1, PROBLEM_LIMIT + 1))


WORDS = [
    ("", None),
    ("~", None),
    ("null", None),
    ("true", True),
    ("no", False),
    ("Off", False),
    ("yes", True),
    ("0", 0),
    ("-12", -12),
    ("+3", 3),
    ("0.5", 0.5),
    (".5", 0.5),
    ("1.5e+3", 1500.0),
    ("2e3", "2e3"),
    ("4Gi", "4Gi"),
    ("0o17", "0o17"),
    ('"no"', "no"),
    ("'22:22'", "22:22"),
    ("=", "="),
    ("<<", "<<"),
    ("|\n  two\n  lines\n", "two\nlines\n"),
]


@pytest.mark.parametrize(("written", "meant"), WORDS, ids=[repr(word) for word, _ in WORDS])
def test_words(written: str, meant: object) -> None:
    value = read_document(f"a: {written}".encode(), "f").data["a"]
    assert value == meant
    assert type(value) is type(meant)


def test_every_key_and_value_has_its_place() -> None:
    read = read_document(b"\xef\xbb\xbfname: a\ngroups:\n  - b: no\n    c: [1, x]\n", "f")
    assert read.data == {"name": "a", "groups": [{"b": False, "c": [1, "x"]}]}
    assert read.keys[("name",)] == Place(1, 1)
    assert read.values[("name",)] == Place(1, 7)
    assert read.keys[("groups", 0, "c")] == Place(4, 5)
    assert read.values[("groups", 0, "c", 1)] == Place(4, 12)
    assert read.words == {("groups", 0, "b"): "no", ("groups", 0, "c", 0): "1"}


def test_an_empty_document_is_nothing() -> None:
    assert read_document(b"# only a comment\n", "f").data is None


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="ab:-?[]{}&*!|>'\"%@` \n\t#0.~<", max_size=80).map(str.encode))
def test_any_bytes_are_a_config_or_a_refusal(text: bytes) -> None:
    try:
        parse_cluster_yaml(text, source="f")
    except ConfigValidationError:
        return
