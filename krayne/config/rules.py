"""The single-value rules of the models: names, quantities, images, labels, plain JSON.

Each rule is a function from a value to itself that raises a `PydanticCustomError` whose text completes the sentence
"<field> ...". Invariant: what passes here is not refused later by the API server or by KubeRay.
"""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue
from pydantic_core import PydanticCustomError

from krayne.config.problems import Path, shown
from krayne.config.quantities import parse_quantity

# KubeRay appends a suffix and the result must stay a DNS label; longer clusters are stored and then ignored.
CLUSTER_NAME_LIMIT = 53
LABEL_LIMIT = 63
# The CRD's counts are int32.
INT32_MAX = 2**31 - 1
# Kubernetes rounds CPU up to whole millis.
_CPU_STEP = Decimal("0.001")
# No program starts in less; a number below it has lost its unit (`memory: 4`).
_MEMORY_FLOOR = Decimal(2**20)
# Room for a pod's affinity, and a file written from it still loads (document.DEPTH_LIMIT).
_JSON_DEPTH = 20
_JSON_INT_MAX = 10**18 - 1

_DNS_1035 = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_LABEL_PART = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")


def refusal(says: str, *fields: str, at: Path = (), hint: str = "") -> PydanticCustomError:
    """A refusal; `at` leads from the validated model to the field at fault, `fields` names those that take part."""
    where = at or (fields[:1] if fields else ())
    context = {"says": says, "at": where, "fields": fields, "hint": hint}
    return PydanticCustomError("krayne_rule", "{says}", context)


def _dns(pattern: re.Pattern[str], limit: int, wording: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not value:
            raise refusal("must not be empty")
        if len(value) > limit:
            raise refusal(f"must be at most {limit} characters, and has {len(value)}")
        if not pattern.fullmatch(value):
            raise refusal(f"must be {wording}, not {shown(value)}")
        return value

    return check


def _text_of_number(value: Any) -> Any:
    """32 -> "32", 0.5 -> "0.5": YAML and overrides give numbers where a quantity is meant."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < INT32_MAX:
        return str(int(value))
    return str(value)


def _quantity(value: str, example: str) -> Decimal:
    try:
        quantity = parse_quantity(value)
    except ValueError as error:
        raise refusal(f"{error}: {shown(value)} (write it like {example})") from None
    if quantity <= 0:
        raise refusal(f"must be more than zero, not {shown(value)}")
    return quantity


def _check_cpu(value: str) -> str:
    if _quantity(value, "4 or 500m") % _CPU_STEP:
        raise refusal(f"must be a multiple of 1m (a thousandth of a CPU), not {shown(value)}")
    return value


def _check_memory(value: str) -> str:
    if _quantity(value, "4Gi or 512Mi") < _MEMORY_FLOOR:
        raise refusal(f"is less than 1Mi: {shown(value)} counts bytes (write a unit, like 4Gi)")
    return value


def _check_image(value: str | None) -> str | None:
    if value is None:
        return None
    if not value:
        raise refusal("must not be empty")
    if any(char.isspace() or not char.isprintable() for char in value):
        raise refusal("must not contain spaces")
    return value


ClusterName = Annotated[
    str,
    AfterValidator(_dns(_DNS_1035, CLUSTER_NAME_LIMIT, "lower-case letters, digits and -, starting with a letter")),
]
check_dns_label = _dns(_DNS_1123, LABEL_LIMIT, "lower-case letters, digits and -")
DnsLabel = Annotated[str, AfterValidator(check_dns_label)]
ObjectName = Annotated[str, AfterValidator(_dns(_SUBDOMAIN, 253, "lower-case letters, digits, - and ."))]
Cpu = Annotated[str, BeforeValidator(_text_of_number), AfterValidator(_check_cpu)]
Memory = Annotated[str, BeforeValidator(_text_of_number), AfterValidator(_check_memory)]
OptionalImage = Annotated[str | None, AfterValidator(_check_image)]
Count = Annotated[int, Field(strict=True, ge=0, le=INT32_MAX)]
Flag = Annotated[bool, Field(strict=True)]


def _check_key(key: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _SUBDOMAIN.fullmatch(prefix)):
        raise refusal("is not a valid label or annotation name", at=(key,))
    if len(name) > LABEL_LIMIT or not _LABEL_PART.fullmatch(name):
        raise refusal("is not a valid label or annotation name", at=(key,))


def _check_not_reserved(key: str) -> None:
    prefix = key.rpartition("/")[0]
    for owner, domain in (("KubeRay", "ray.io"), ("krayne", "krayne.dev")):
        if prefix == domain or prefix.endswith("." + domain):
            raise refusal(f"belongs to {owner}, which writes it itself", at=(key,))


def check_selector(labels: dict[str, str]) -> dict[str, str]:
    """Keys and values as Kubernetes takes them for labels."""
    for key, value in labels.items():
        _check_key(key)
        if value and (len(value) > LABEL_LIMIT or not _LABEL_PART.fullmatch(value)):
            raise refusal(
                "must be at most 63 letters, digits, -, _ and ., "
                f"beginning and ending with a letter or digit, not {shown(value)}",
                at=(key,),
            )
    return labels


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Labels, outside the prefixes that KubeRay and krayne write themselves."""
    for key in labels:
        _check_not_reserved(key)
    return check_selector(labels)


def check_annotations(annotations: dict[str, str]) -> dict[str, str]:
    """Keys as for labels; annotation values are free text."""
    for key in annotations:
        _check_not_reserved(key)
        _check_key(key)
    return annotations


def check_json(value: Any, at: Path = ()) -> Any:
    """Numbers that JSON can carry and a depth that a cluster file can hold."""
    if len(at) > _JSON_DEPTH:
        raise refusal(f"nests deeper than {_JSON_DEPTH} levels", at=at[:3])
    if isinstance(value, dict):
        for key, inner in value.items():
            check_json(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_json(inner, (*at, index))
    elif isinstance(value, float) and not math.isfinite(value):
        raise refusal("must be a finite number", at=at)
    elif isinstance(value, int) and abs(value) > _JSON_INT_MAX:
        raise refusal("is too large a number", at=at)
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(check_json)]
