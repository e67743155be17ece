"""The three patches that Kubernetes takes for plain JSON: JSON Patch (RFC 6902), merge (RFC 7386), strategic merge.

Each takes a document and returns a new one. Raises StatusError as the API server does.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from krayne_sandbox.core.meta import Json, copied
from krayne_sandbox.core.shapes import LISTMAP, SET, Shape
from krayne_sandbox.core.statuses import StatusError, bad_request

MOST_OPERATIONS: Final = 10_000
INDEX_DIGITS: Final = 10  # of a list index: past thousands of digits int() fails in another way
DIRECTIVE: Final = "$patch"


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copied(patch)
    found = dict(target) if isinstance(target, dict) else {}
    for key, one in patch.items():
        if one is None:
            found.pop(key, None)
        else:
            found[key] = merge(found.get(key), one)
    return found


def json_patch(document: Json, operations: Any) -> Json:
    """RFC 6902. A failed `test` or a path that is not there is a 422."""
    if not isinstance(operations, list) or not all(isinstance(one, dict) for one in operations):
        raise bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    if len(operations) > MOST_OPERATIONS:
        text = f"The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {len(operations)}"
        raise StatusError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestEntityTooLarge", text)
    found = copied(document)
    for operation in operations:
        found = _operate(found, operation)
    if not isinstance(found, dict):
        raise bad_request("the patched document is no object")
    return found


def _operate(document: Any, operation: Json) -> Any:
    verb, path = operation.get("op"), _pointer(operation.get("path"))
    if not isinstance(verb, str):
        raise bad_request(f"unexpected kind of operation: {verb!r}")
    if verb in {"move", "copy"}:
        origin = _pointer(operation.get("from"))
        value = copied(_read(document, origin))
        if verb == "move":
            document = _removed(document, origin)
        return _added(document, path, value)
    if verb == "remove":
        return _removed(document, path)
    if verb not in {"add", "replace", "test"}:
        raise bad_request(f"unexpected kind of operation: {verb!r}")
    value = copied(operation.get("value"))
    if verb == "add":
        return _added(document, path, value)
    if verb == "test":
        _test(document, path, value, str(operation.get("path")))
        return document
    if not path:
        return value
    # As the API server's own library has it, a key that is not there may be replaced; an element may not.
    home = _read(document, path[:-1])
    return _added(document if isinstance(home, dict) else _removed(document, path), path, value)


def _test(document: Any, path: Sequence[str], value: Any, said: str) -> None:
    try:
        found = _read(document, path)
    except StatusError:
        if value is not None:
            raise
        found = None
    # A number is not a truth value, though Python's True equals 1.
    if found != value or isinstance(found, bool) is not isinstance(value, bool):
        raise _unprocessable(f"testing value {said} failed: test failed")


def _unprocessable(why: str) -> StatusError:
    text = "the server rejected our request due to an error in our request"  # Kubernetes says no more
    if why.startswith("add operation"):
        text = why
    return StatusError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", text, {})


def _is_index(part: str) -> bool:
    return part.isdecimal() and len(part) < INDEX_DIGITS


def _pointer(path: Any) -> list[str]:
    if not isinstance(path, str) or (path and not path.startswith("/")):
        raise _unprocessable(f"the path {path!r} is no JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _read(document: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list) and _is_index(part) and int(part) < len(document):
            document = document[int(part)]
        else:
            raise _unprocessable(f"doc is missing path: /{'/'.join(path)}: missing value")
    return document


def _added(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    home, last = _read(document, path[:-1]), path[-1]
    if isinstance(home, dict):
        home[last] = value
    elif isinstance(home, list) and (last == "-" or (_is_index(last) and int(last) <= len(home))):
        home.insert(len(home) if last == "-" else int(last), value)
    else:
        raise _unprocessable(f"add operation does not apply: doc is missing path: /{'/'.join(path)}: missing value")
    return document


def _removed(document: Any, path: Sequence[str]) -> Any:
    _read(document, path)
    if not path:
        return None
    home, last = _read(document, path[:-1]), path[-1]
    del home[int(last) if isinstance(home, list) else last]
    return document


def strategic(shape: Shape, target: Any, patch: Any) -> Any:
    """Kubernetes' own merge: lists with keys are merged item by item, by the same keys server-side apply uses."""
    if isinstance(patch, dict):
        return _strategic_object(shape, target, patch)
    if isinstance(patch, list) and isinstance(target, list):
        if shape.kind == LISTMAP:
            return _strategic_list(shape, target, patch)
        if shape.kind == SET:
            return [*target, *(copied(one) for one in patch if one not in target)]
    return copied(patch)


def _strategic_object(shape: Shape, target: Any, patch: Json) -> Any:
    directive = patch.get(DIRECTIVE)
    if directive == "delete":
        return None
    found = copied(target) if isinstance(target, dict) and directive != "replace" else {}
    for key, one in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            found[name] = [other for other in found.get(name) or () if other not in one]
        elif key.startswith("$"):
            continue  # the order of elements and retained keys are finer points nothing here relies on
        elif one is None:
            found.pop(key, None)
        else:
            made = strategic(shape.field(key), found.get(key), one)
            if made is None:
                found.pop(key, None)
            else:
                found[key] = made
    return found


def _strategic_list(shape: Shape, target: list[Any], patch: list[Any]) -> list[Any]:
    if any(isinstance(one, dict) and one.get(DIRECTIVE) == "replace" for one in patch):
        return [copied(one) for one in patch if not (isinstance(one, dict) and DIRECTIVE in one)]
    places = {shape.key_of(one): at for at, one in enumerate(target)}
    patched = {shape.key_of(one): one for one in patch}
    left = [(at, copied(one)) for at, one in enumerate(target) if shape.key_of(one) not in patched]
    found: list[Any] = []
    for key, one in patched.items():
        at = places.get(key, -1)  # what is new comes before what only the server knows
        while left and left[0][0] < at:
            found.append(left.pop(0)[1])
        made = strategic(shape.item(), None if at < 0 else target[at], one)
        if made is not None:
            found.append(made)
    return found + [one for _, one in left]
