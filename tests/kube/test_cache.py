"""The laws of the cache and of the byte reader, over histories no server would dare to send."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.model import Json
from kraynd.kube import cache
from kraynd.kube.cache import Cache, Change, Lines, ObjectKey, list_page
from kraynd.kube.refusals import BusyError, GoneError
from kraynd.kube.watch import WatchSettings
from krayne.errors import ForbiddenError, KrayneError, KubeConnectionError

SERVER = "https://example:6443"
Told = tuple[int, str, str]


def told(version: int, kind: str, name: str) -> Json:
    metadata: Json = {"name": name, "namespace": "ns", "resourceVersion": str(version)}
    return {"type": kind, "object": {"metadata": metadata if kind != "BOOKMARK" else {"resourceVersion": str(version)}}}


@st.composite
def histories(draw: st.DrawFn) -> list[Told]:
    """What a server did, in order: objects come, change and go."""
    alive: set[str] = set()
    made: list[Told] = []
    for version in range(1, draw(st.integers(1, 25))):
        name = draw(st.sampled_from("abc"))
        kind = "ADDED" if name not in alive else draw(st.sampled_from(["MODIFIED", "DELETED"]))
        (alive.discard if kind == "DELETED" else alive.add)(name)
        made.append((version, kind, name))
    return made


def model(history: list[Told]) -> dict[ObjectKey, str]:
    """Versions of the objects that are there at its end."""
    found: dict[ObjectKey, str] = {}
    for version, kind, name in history:
        if kind == "DELETED":
            found.pop(("ns", name), None)
        else:
            found["ns", name] = str(version)
    return found


def versions(one: Cache) -> dict[ObjectKey, str]:
    return {key: item["metadata"]["resourceVersion"] for key, item in one.objects.items()}


@given(histories(), st.data())
def test_replays_duplicates_and_late_bookmarks_end_at_the_truth(history: list[Told], data: st.DataObject) -> None:
    one, known, place = Cache(), dict[ObjectKey, Json](), 0
    while place < len(history):
        jump = data.draw(st.integers(0, 3))
        start = max(0, place - jump)  # a resumed watch tells some of it again
        place = data.draw(st.integers(start + 1, len(history)))
        for version, kind, name in history[start:place]:
            for _ in range(data.draw(st.integers(1, 2))):
                change = one.take(told(version, kind, name), SERVER)
                if change is not None:
                    _apply(known, change)
            one.take(told(data.draw(st.integers(0, version)), "BOOKMARK", ""), SERVER)
    assert versions(one) == model(history)
    assert known == one.objects  # whoever follows the changes knows the same
    assert one.version == str(len(history) or "")


def _apply(known: dict[ObjectKey, Json], change: Change) -> None:
    item = change.after or change.before
    assert item is not None
    key = (item["metadata"]["namespace"], item["metadata"]["name"])
    assert known.get(key) == change.before
    if change.after is None:
        del known[key]
    else:
        known[key] = change.after


@given(histories(), histories())
def test_a_list_replaces_everything_and_says_what_changed(old: list[Told], new: list[Told]) -> None:
    one, known = Cache(), dict[ObjectKey, Json]()
    for version, kind, name in old:
        if (change := one.take(told(version, kind, name), SERVER)) is not None:
            _apply(known, change)
    items = [told(int(version), "ADDED", key[1])["object"] for key, version in model(new).items()]
    for change in one.replace(items, "7"):
        assert change.before != change.after
        _apply(known, change)
    assert versions(one) == model(new)
    assert known == one.objects
    assert one.version == "7"  # also when it is older: an API server restored from a backup


def test_an_error_event_is_an_error_and_changes_nothing() -> None:
    one = Cache([told(5, "ADDED", "a")["object"]])
    for code, kind in ((410, GoneError), (403, ForbiddenError), (500, BusyError), ("x", BusyError)):
        with pytest.raises(kind):
            one.take({"type": "ERROR", "object": {"code": code, "message": "m"}}, SERVER)
    assert versions(one) == {("ns", "a"): "5"}


@pytest.mark.parametrize("page", [{}, {"kind": "List"}, {"kind": "Status", "metadata": {}}, {"items": []},
                                  {"kind": "PodList", "metadata": {}, "items": {}}])  # fmt: skip
def test_only_a_list_is_an_empty_list(page: Json) -> None:
    with pytest.raises(KubeConnectionError, match="not a list"):
        list_page(page)


def test_a_broken_object_in_a_list_leaves_the_old_cache() -> None:
    one = Cache([told(5, "ADDED", "a")["object"]])
    one.version = "5"
    with pytest.raises(KubeConnectionError):
        one.replace([told(6, "ADDED", "b")["object"], {"metadata": {}}], "6")
    assert (versions(one), one.version) == ({("ns", "a"): "5"}, "5")


def test_managed_fields_are_not_kept() -> None:
    event = told(5, "ADDED", "a")
    event["object"]["metadata"]["managedFields"] = [{"manager": "x"}]
    one = Cache()
    one.take(event, SERVER)
    assert "managedFields" not in one.objects["ns", "a"]["metadata"]


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3)), st.data())
def test_any_chunking_gives_the_same_events(events: list[Json], data: st.DataObject) -> None:
    whole = b"".join(json.dumps(one).encode() + b"\n" * data.draw(st.integers(1, 2)) for one in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    lines, found = Lines(), list[Json]()
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += lines.feed(whole[start:end])
    assert found == events


@given(st.binary(max_size=300))
def test_garbage_is_events_or_our_error(data: bytes) -> None:
    try:
        found = Lines().feed(data + b"\n")
    except KubeConnectionError:
        return
    assert all(isinstance(one, dict) for one in found)


def test_a_line_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LINE_LIMIT", 1000)
    lines = Lines()
    lines.feed(b"x" * 1000)
    with pytest.raises(KubeConnectionError, match="possible size"):
        lines.feed(b"x")


PAUSES: list[tuple[KrayneError | None, float, float]] = [
    (None, 100.0, 0.0),
    (None, 0.0, 1.0),  # closed at once
    (BusyError("", data={"retry_after": 60.0}), 0.0, 60.0),
    (BusyError("", data={"retry_after": 1e9}), 0.0, 120.0),
    (GoneError(""), 0.0, 1.0),
]


@pytest.mark.parametrize(("error", "lived", "least"), PAUSES)
def test_what_comes_before_the_next_try(error: KrayneError | None, lived: float, least: float) -> None:
    settings = WatchSettings()
    assert settings.pause(error, 1, lived, 0.999) == pytest.approx(least, abs=0.01)


@given(st.floats(0, 0.999), st.integers(1, 10_000))
def test_a_failing_server_is_asked_less_than_once_a_second(rand: float, failures: int) -> None:
    settings = WatchSettings()
    errors: tuple[Any, ...] = (None, GoneError(""), BusyError(""), KrayneError(""))
    for error in errors:
        assert 1.0 <= settings.pause(error, failures, 0.0, rand) <= 30.0
