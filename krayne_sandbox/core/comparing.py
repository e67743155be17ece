"""When two states of an object are the same, and whether an object is the one that was meant."""

from typing import Any

from krayne_sandbox.core.meta import Json
from krayne_sandbox.core.statuses import not_the_one
from krayne_sandbox.kinds import Kind


def check_record(kind: Kind, meta: Json, uid: str, version: str) -> None:
    """A delete's preconditions. Raises StatusError 409."""
    name = str(meta["name"])
    if uid and uid != meta["uid"]:
        why = (
            f"the UID in the precondition ({uid}) does not match the UID in record ({meta['uid']}). "
            "The object might have been deleted and then recreated"
        )
        raise not_the_one(kind, name, why)
    if version and version != meta["resourceVersion"]:
        why = (
            f"the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record "
            f"({meta['resourceVersion']}). The object might have been modified"
        )
        raise not_the_one(kind, name, why)


def spec_of(thing: Json) -> Json:
    """What its generation counts."""
    return {key: one for key, one in thing.items() if key not in {"metadata", "status", "kind", "apiVersion"}}


def same(old: Json, new: Json) -> bool:
    """Whether nothing but the version differs."""
    return _versionless(old) == _versionless(new)


def _versionless(thing: Json) -> Json:
    meta: dict[str, Any] = {key: one for key, one in thing["metadata"].items() if key != "resourceVersion"}
    return {**thing, "metadata": meta}
