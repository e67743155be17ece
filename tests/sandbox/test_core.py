"""Laws of the sandbox's pure parts: patches, schema, ownership, tables, protobuf."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from krayne_sandbox.core import protobuf
from krayne_sandbox.core.meta import copied, generated, is_name
from krayne_sandbox.core.ownership import (
    APPLY,
    UPDATE,
    Manager,
    after_update,
    applied,
    difference,
    read_owners,
    write_owners,
)
from krayne_sandbox.core.patches import json_patch, merge, strategic
from krayne_sandbox.core.rules import Rules
from krayne_sandbox.core.schema import default, faults, pruned
from krayne_sandbox.core.shapes import Shape
from krayne_sandbox.core.statuses import StatusError
from krayne_sandbox.core.tables import span
from krayne_sandbox.definitions import ray_definition
from krayne_sandbox.kinds import PODS
from tests.sandbox.things import raycluster, workers

KEYS = st.sampled_from(["a", "b", "c"])
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.text("xy", max_size=2)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
OBJECTS = st.dictionaries(KEYS, TREES, max_size=3)
FULL = st.recursive(
    st.integers(0, 3), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, min_size=1, max_size=3)
)
SPECS = st.dictionaries(KEYS, FULL, min_size=1, max_size=3)
ONE, TWO = Manager("one", APPLY), Manager("two", APPLY)
ANY = Shape({})


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return value


# Patches.


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_is_idempotent_and_leaves_its_target(target: Any, patch: Any) -> None:
    before = copied(target)
    once = merge(target, patch)
    assert target == before
    assert merge(once, patch) == once
    for key, one in patch.items():
        assert (key in once) is (one is not None)


@given(OBJECTS)
def test_merging_all_of_an_object_makes_it(target: Any) -> None:
    assert without_nulls(merge({}, target)) == without_nulls(target)


@given(OBJECTS, KEYS, TREES)
def test_a_json_patch_does_what_it_says(target: Any, key: str, value: Any) -> None:
    made = json_patch(target, [{"op": "add", "path": f"/{key}", "value": value}])
    assert made == {**target, key: value}
    assert json_patch(made, [{"op": "test", "path": f"/{key}", "value": value}]) == made
    assert json_patch(made, [{"op": "remove", "path": f"/{key}"}]) == {k: v for k, v in target.items() if k != key}


@given(
    OBJECTS, st.lists(st.dictionaries(st.sampled_from(["op", "path", "from", "value"]), TREES, max_size=4), max_size=3)
)
@example({}, [{"path": "", "op": []}])
@example({"a": []}, [{"path": "/a/" + "9" * 5000, "op": "add"}])
def test_no_json_patch_breaks_the_server(target: Any, operations: Any) -> None:
    before = copied(target)
    try:
        json_patch(target, operations)
    except StatusError as error:
        assert error.code in {400, 422}  # noqa: PT017 either outcome is right
    assert target == before


@pytest.mark.parametrize(
    ("operations", "made"),
    [
        ([{"op": "add", "path": "/l/-", "value": 3}], {"l": [1, 2, 3]}),
        ([{"op": "add", "path": "/l/0", "value": 0}], {"l": [0, 1, 2]}),
        ([{"op": "replace", "path": "/l/1", "value": 9}], {"l": [1, 9]}),
        ([{"op": "replace", "path": "/new", "value": 9}], {"l": [1, 2], "new": 9}),
        ([{"op": "move", "from": "/l/0", "path": "/m"}], {"l": [2], "m": 1}),
        ([{"op": "copy", "from": "/l", "path": "/m~1n"}], {"l": [1, 2], "m/n": [1, 2]}),
        ([{"op": "test", "path": "/none", "value": None}], {"l": [1, 2]}),
    ],
)
def test_json_patch_operations(operations: Any, made: Any) -> None:
    assert json_patch({"l": [1, 2]}, operations) == made


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/none/x", "value": 1},
        {"op": "replace", "path": "/l/2", "value": 1},
        {"op": "add", "path": "/none/x", "value": 1},
        {"op": "add", "path": "/l/3", "value": 1},
        {"op": "remove", "path": "/l/2"},
        {"op": "test", "path": "/l/0", "value": True},
        {"op": "test", "path": "/l/0", "value": 2},
    ],
)
def test_json_patches_that_do_not_apply(operation: Any) -> None:
    with pytest.raises(StatusError) as met:
        json_patch({"l": [1, 2]}, [operation])
    assert met.value.code == 422


def test_strategic_directives() -> None:
    shape = Rules(ray_definition()).shape(PODS)
    pod = {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}}

    def patched(containers: Any) -> Any:
        return [
            one["name"] for one in strategic(shape, pod, {"spec": {"containers": containers}})["spec"]["containers"]
        ]

    assert patched([{"name": "a", "$patch": "delete"}]) == ["b"]
    assert patched([{"name": "c"}, {"$patch": "replace"}]) == ["c"]
    assert patched([{"name": "c"}]) == ["c", "a", "b"]
    assert patched([{"name": "b", "image": "2"}]) == ["a", "b"]
    assert strategic(shape, pod, {"spec": {"$patch": "replace", "x": 1}}) == {"spec": {"x": 1}}


# Schema.


def test_kuberays_schema_takes_what_kuberay_takes() -> None:
    schema = Rules(ray_definition()).ray
    made = raycluster("a", workerGroupSpecs=[workers()])
    kept, unknown = pruned(schema, {"spec": made["spec"]})
    default(schema, kept)
    assert (unknown, faults(schema, kept)) == ([], [])


@given(OBJECTS)
def test_pruning_leaves_what_the_schema_knows_and_defaults_stay(value: Any) -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "object", "properties": {"b": {"default": 1}}},
            "c": {"type": "array", "items": {"type": "integer"}},
        },
    }
    kept, unknown = pruned(schema, value)
    assert set(kept) == set(value) & {"a", "c"}
    assert {one for one in unknown if "." not in one} == set(value) - {"a", "c"}
    assert pruned(schema, kept) == (kept, [])
    default(schema, kept)
    once = copied(kept)
    default(schema, kept)
    assert kept == once
    for one in faults(schema, kept):
        assert one.field


# Ownership.


@given(SPECS)
def test_an_apply_owns_what_it_says_and_applying_again_changes_nothing(spec: Any) -> None:
    first = applied(ANY, {"metadata": {}}, {"spec": spec}, ONE, "t1")
    assert (first.thing["spec"], first.clashes) == (spec, [])
    again = applied(ANY, first.thing, {"spec": spec}, ONE, "t2")
    assert again.thing == first.thing
    assert set(read_owners(first.thing)) == {ONE}


@given(SPECS, SPECS)
def test_what_an_applier_leaves_out_goes(before: Any, after: Any) -> None:
    first = applied(ANY, {"metadata": {}}, {"spec": before}, ONE, "t1").thing
    assert applied(ANY, first, {"spec": after}, ONE, "t2").thing["spec"] == after


@given(SPECS, SPECS)
def test_two_appliers_either_agree_or_clash(one: Any, two: Any) -> None:
    first = applied(ANY, {"metadata": {}}, {"spec": one}, ONE, "t1").thing
    second = applied(ANY, first, {"spec": two}, TWO, "t2")
    if not second.clashes:
        # Nothing the first one said has changed, and taking it back leaves the second one's.
        assert merge(second.thing["spec"], one) == second.thing["spec"]
        assert merge(second.thing["spec"], two) == second.thing["spec"]
    gone = applied(ANY, second.thing, {}, ONE, "t3").thing
    assert merge(gone.get("spec", {}), two) == gone.get("spec", {})


@given(SPECS, SPECS)
def test_an_update_owns_what_it_wrote(before: Any, after: Any) -> None:
    first = applied(ANY, {"metadata": {}}, {"spec": before}, ONE, "t1").thing
    new = {**copied(first), "spec": copied(after)}
    after_update(ANY, first, new, TWO._replace(operation=UPDATE), "t2")
    changed = difference(ANY, first, new)
    owners = read_owners(new)
    for path in changed.written:
        assert [who.name for who, owned in owners.items() if path in owned.fields] == ["two"]
    for path in changed.removed:
        assert not any(path in owned.fields for owned in owners.values())


@given(SPECS)
def test_who_owns_what_survives_being_written_down(spec: Any) -> None:
    thing = applied(ANY, {"metadata": {}}, {"spec": spec}, ONE, "t1").thing
    again = json.loads(json.dumps(thing))
    write_owners(again, read_owners(again))
    assert again == thing


# Small things.


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (600, "10m"), (3 * 3600, "3h"), (3 * 3600 + 300, "3h5m"),
        (8 * 3600, "8h"), (48 * 3600, "2d"), (50 * 3600, "2d2h"), (8 * 86400, "8d"), (800 * 86400, "2y70d"),
        (9 * 365 * 86400, "9y"), (-5, "<invalid>"),
    ],
)  # fmt: skip
def test_ages(seconds: int, said: str) -> None:
    assert span(seconds) == said


@given(st.text("abc-.", min_size=1, max_size=80), st.integers(0, 2**32 - 1))
def test_generated_names_are_names(base: str, number: int) -> None:
    made = generated(base, number)
    assert len(made) <= 63
    assert not is_name(base) or len(base) > 58 or is_name(made)


@given(st.binary(max_size=60))
def test_no_bytes_break_the_protobuf_reader(data: bytes) -> None:
    for body in (data, protobuf.MAGIC + data, protobuf.MAGIC + b"\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12" + data):
        try:
            assert isinstance(protobuf.decoded(body), dict)
        except ValueError:
            continue


def test_protobuf_of_a_config_map() -> None:
    meta = b"\x0a\x01n\x5a\x06\x0a\x01l\x12\x01v"
    raw = b"\x0a" + bytes([len(meta)]) + meta + b"\x12\x06\x0a\x01k\x12\x01v\x20\x01"
    head = b"\x0a\x02v1\x12\x09ConfigMap"
    body = protobuf.MAGIC + b"\x0a" + bytes([len(head)]) + head + b"\x12" + bytes([len(raw)]) + raw
    assert protobuf.decoded(body) == {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n", "labels": {"l": "v"}}, "data": {"k": "v"},
        "immutable": True,
    }  # fmt: skip
