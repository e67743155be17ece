"""Small things every object has: copies, times, names, and who owns it."""

import re
from datetime import UTC, datetime
from typing import Any, Final

Json = dict[str, Any]

NAME_LIMIT: Final = 253  # of a DNS subdomain
SUFFIX_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"  # those Kubernetes draws names from: no words, no look-alikes
SUFFIX_SIZE: Final = 5
BASE_LIMIT: Final = 63 - SUFFIX_SIZE  # so that a generated name is a label as well
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def copied(value: Any) -> Any:
    """A deep copy of JSON."""
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    if isinstance(value, list):
        return [copied(one) for one in value]
    return value


def stamp(seconds: float) -> str:
    """Wall seconds as metav1.Time."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: object) -> float | None:
    """metav1.Time or MicroTime as wall seconds; None for anything else."""
    try:
        return datetime.fromisoformat(str(text)).timestamp() if text else None
    except ValueError:
        return None


def is_name(text: str) -> bool:
    """Whether Kubernetes takes it as a name (RFC 1123 subdomain)."""
    return len(text) <= NAME_LIMIT and _SUBDOMAIN.fullmatch(text) is not None


def generated(base: str, number: int) -> str:
    """A name from `generateName` and a random number."""
    letters = []
    for _ in range(SUFFIX_SIZE):
        number, at = divmod(number, len(SUFFIX_LETTERS))
        letters.append(SUFFIX_LETTERS[at])
    return base[:BASE_LIMIT] + "".join(letters)


def metadata(thing: Json) -> Json:
    """Its metadata, whatever stands there."""
    found = thing.get("metadata")
    return found if isinstance(found, dict) else {}


def name_of(thing: Json) -> str:
    """Its name, or nothing."""
    return str(metadata(thing).get("name") or "")


def namespace_of(thing: Json) -> str:
    """Its namespace, or nothing."""
    return str(metadata(thing).get("namespace") or "")


def owners(thing: Json) -> list[Json]:
    """Its ownerReferences."""
    return [one for one in metadata(thing).get("ownerReferences") or () if isinstance(one, dict)]


def finalizers(thing: Json) -> list[str]:
    """What must be done before it may go."""
    return [str(one) for one in metadata(thing).get("finalizers") or ()]


def is_deleting(thing: Json) -> bool:
    """Whether its deletion was asked for."""
    return bool(metadata(thing).get("deletionTimestamp"))
