"""Bodies and queries of requests, read into values. Raises the StatusErrors that Kubernetes answers bad input with."""

import json
from collections.abc import Mapping
from typing import Any, Final

import yaml
from aiohttp import web

from krayne_sandbox.core import protobuf
from krayne_sandbox.core.statuses import StatusError, bad_request, too_large, unsupported_media

BODY_LIMIT: Final = 3 * 1024 * 1024  # as the API server's
DEPTH_LIMIT: Final = 300  # of nested values, far above any object's and below what recursion takes
JSON: Final = "application/json"
YAML: Final = "application/yaml"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"


async def raw_body(request: web.Request) -> bytes:
    """The whole body, within the limit."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(BODY_LIMIT) from None


def media_type(request: web.Request) -> str:
    """The body's format; JSON when nothing is said."""
    if "Content-Type" not in request.headers:
        return JSON
    return request.content_type.lower()


async def read_object(request: web.Request) -> Any:
    """The object of a create or an update."""
    kind = media_type(request)
    if kind == PROTOBUF:
        try:
            return protobuf.decoded(await raw_body(request))
        except ValueError as error:  # a UnicodeDecodeError is one
            raise bad_request(f"the body cannot be read: {error}") from None
    if kind not in {JSON, YAML}:
        raise unsupported_media((JSON, YAML, PROTOBUF))
    return decoded(await raw_body(request), kind)


def decoded(data: bytes, kind: str) -> Any:
    """JSON or YAML as plain data."""
    try:
        found = json.loads(data) if kind != YAML and not kind.endswith("+yaml") else _yaml(data)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise bad_request(f"the object provided is unrecognized (must be of type Kubernetes object): {error}") from None
    _check_depth(found)
    return found


def _yaml(data: bytes) -> Any:
    try:
        return json.loads(data)  # what clients send as YAML is mostly JSON, which is read faster
    except ValueError:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return json.loads(json.dumps(yaml.load(data, loader), default=str))  # noqa: S506 a safe loader


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEPTH_LIMIT:
            raise bad_request("the object is nested too deeply")
        deeper: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                deeper += one.values()
            elif isinstance(one, list):
                deeper += one
        level = deeper


def is_true(query: Mapping[str, str], name: str) -> bool:
    """A query's truth, as Go reads it."""
    return query.get(name, "").lower() in {"1", "t", "true"}


def number(query: Mapping[str, str], name: str) -> int | None:
    """A query's number, None when it is not given."""
    text = query.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def is_dry(query: Mapping[str, str], options: Any = None) -> bool:
    """Whether all but the writing is asked for."""
    asked = query.get("dryRun") or (options.get("dryRun") if isinstance(options, dict) else None)
    if not asked:
        return False
    if asked not in ("All", ["All"]):
        text = f'dryRun: Unsupported value: ["{asked}"]: supported values: "All"'
        raise StatusError(422, "Invalid", f' "" is invalid: {text}', {})
    return True
