"""RFC 6902, as much as our patches use: test, add, replace, remove. Strict: anything odd is an error."""

import copy
from typing import Any

from kraynd.core.model import Json


class TestFailedError(Exception):
    __test__ = False


def apply_patch(document: Json, ops: Any) -> Json:
    result = copy.deepcopy(document)
    for op in ops:
        *parents, last = [token.replace("~1", "/").replace("~0", "~") for token in op["path"].split("/")[1:]]
        node: Any = result
        for token in parents:
            node = node[int(token)] if isinstance(node, list) else node[token]
        _one(node, last, op)
    return result


def _one(node: Any, last: str, op: Json) -> None:
    kind, value = op["op"], copy.deepcopy(op.get("value"))
    if isinstance(node, list):
        index = len(node) if last == "-" else int(last)
        if kind == "add":
            assert index <= len(node)
            node.insert(index, value)
            return
        assert index < len(node), f"{op} beyond the list"
        _in_place(node, index, kind, value)
        return
    if kind == "add":
        node[last] = value
        return
    if kind == "test" and last not in node:
        raise TestFailedError(op["path"])
    assert last in node, f"{op} on nothing"
    _in_place(node, last, kind, value)


def _in_place(node: Any, at: Any, kind: str, value: Any) -> None:
    if kind == "test":
        if node[at] != value:
            raise TestFailedError(at)
    elif kind == "replace":
        node[at] = value
    elif kind == "remove":
        del node[at]
    else:
        raise AssertionError(kind)
