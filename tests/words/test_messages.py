"""The API only grows: every method, field and error kind of the committed document is still there, unchanged.

To add to the API, add to it and run `python -m tests.words.test_messages`, which writes the document anew.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from krayne import errors, messages
from krayne.openrpc import ERROR_KINDS, METHODS, NOTIFICATIONS, document

COMMITTED = Path(__file__).with_name("openrpc.json")


def current() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document()))
    return found


def committed() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(COMMITTED.read_bytes())
    return found


def needs(shape: dict[str, Any]) -> set[str]:
    """What a schema (a list of names) or a parameter (a truth value) requires."""
    found = shape.get("required") or []
    return {"it"} if found is True else set(found)


def losses(old: Any, new: Any, where: str) -> list[str]:
    """What `new` lacks or changes of `old`. Words for people may change; required fields may not appear."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [f"{where}.{key} is gone" for key in old if key not in new]
        if needs(new) - needs(old):
            found.append(f"{where} requires more than before")
        for key in old.keys() & new.keys() - {"description", "summary", "title", "required"}:
            found += losses(old[key], new[key], f"{where}.{key}")
        return found
    if isinstance(old, list) and isinstance(new, list):
        if where.endswith(("methods", "params")):
            return losses({one["name"]: one for one in old}, {one["name"]: one for one in new}, where)
        return [f"{where} lost {one}" for one in old if one not in new]
    return [] if old == new else [f"{where} was {old} and is {new}"]


def test_the_api_only_grows() -> None:
    assert losses(committed(), current(), "api") == []


def test_the_committed_document_is_whole() -> None:
    assert losses(current(), committed(), "api") == [], "run python -m tests.words.test_messages and commit the file"


def test_losses_are_seen() -> None:
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda api: api["methods"].pop(0),
        lambda api: api["methods"][0]["params"].pop(0),
        lambda api: api["components"]["schemas"]["ClusterView"]["properties"].pop("phase"),
        lambda api: api["components"]["schemas"]["Workers"]["properties"]["ready"].update(type="string"),
        lambda api: api["components"]["schemas"]["WaitParams"]["required"].append("timeout_ms"),
        lambda api: api["x-error-kinds"].remove("port-taken"),
    ]
    for change in changes:
        api = current()
        change(api)
        assert losses(committed(), api, "api")


def test_methods_are_named_alike_and_sorted() -> None:
    names = [spec.name for spec in METHODS]
    assert names == sorted(set(names))
    assert all(name.count(".") == 1 and name.islower() for name in [*names, *NOTIFICATIONS])


def test_every_error_kind_of_ours_is_published() -> None:
    pending, kinds = [errors.KrayneError], set()
    while pending:
        one = pending.pop()
        if one.__module__ == "krayne.errors":
            kinds.add(one.kind)
        pending += one.__subclasses__()
    assert kinds <= set(ERROR_KINDS)


def test_changing_calls_take_a_token() -> None:
    for spec in METHODS:
        if spec.mutates and spec.params is not messages.NoParams:
            assert "token" in spec.params.__struct_fields__, spec.name


@pytest.mark.parametrize("spec", METHODS, ids=lambda spec: spec.name)
def test_parameters_have_defaults_but_for_what_names_the_object(spec: Any) -> None:
    required = {field.name for field in msgspec.structs.fields(spec.params) if field.required}
    assert required <= {"name", "files", "watch", "id"}


@given(st.builds(messages.ClusterView, name=st.text(), namespace=st.text(), phase=st.text(), reason=st.text()))
def test_a_view_survives_the_wire(view: messages.ClusterView) -> None:
    assert msgspec.json.decode(msgspec.json.encode(view), type=messages.ClusterView) == view


def test_details_are_a_view_and_more() -> None:
    line = msgspec.json.encode(messages.ClusterDetails(name="a", namespace="b", phase="ready", problem="p"))
    assert msgspec.json.decode(line, type=messages.ClusterView).phase == "ready"


if __name__ == "__main__":
    COMMITTED.write_bytes(msgspec.json.format(msgspec.json.encode(document()), indent=1) + b"\n")
