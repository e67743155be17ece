"""Answers: objects and lists as JSON or as the Table a client asked for."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from aiohttp import web

from krayne_sandbox.core.meta import Json
from krayne_sandbox.core.rules import Rules
from krayne_sandbox.core.statuses import StatusError
from krayne_sandbox.core.tables import columns_of, table
from krayne_sandbox.kinds import CRDS, RAYCLUSTERS, Kind


class Form(NamedTuple):
    """How a client wants objects: as they are, as a Table, as their metadata alone."""

    is_table: bool
    include: str
    is_partial: bool = False


def form_of(request: web.Request) -> Form:
    """From the Accept header."""
    for one in request.headers.get("Accept", "").split(","):
        media, *parameters = (part.strip() for part in one.split(";"))
        if media == "application/json" and "g=meta.k8s.io" in parameters:
            if "as=Table" in parameters:
                return Form(True, request.query.get("includeObject", "Metadata"))
            if "as=PartialObjectMetadata" in parameters or "as=PartialObjectMetadataList" in parameters:
                return Form(False, "", True)
        if media in {"application/json", "*/*", "application/*"}:
            break
    return Form(False, "")


def dumped(value: object) -> bytes:
    """As it goes over the wire."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def reply(value: object, status: int = 200, warnings: Sequence[str] = ()) -> web.Response:
    """A JSON answer."""
    answer = web.Response(body=dumped(value), status=status, content_type="application/json")
    for one in warnings:
        quoted = one.replace("\\", "\\\\").replace('"', '\\"')
        answer.headers.add("Warning", f'299 - "{quoted}"')
    return answer


def refuse(error: StatusError) -> web.Response:
    """A Status answer."""
    answer = reply(error.body, error.code)
    if "retryAfterSeconds" in error.details:
        answer.headers["Retry-After"] = str(error.details["retryAfterSeconds"])
    return answer


def formed(form: Form, rules: Rules, kind: Kind, thing: Json, now: float, *, head: bool = True) -> Json:
    """One object in a form."""
    if form.is_table:
        made = table(columns_of(kind, rules.definition), [thing], now, include=form.include, head=head)
        made["metadata"] = {"resourceVersion": thing["metadata"].get("resourceVersion", "")}
        return made
    return partial(thing) if form.is_partial else thing


def formed_list(form: Form, rules: Rules, kind: Kind, things: Sequence[Json], meta: Json, now: float) -> Json:
    """A list in a form."""
    if form.is_table:
        made = table(columns_of(kind, rules.definition), things, now, include=form.include)
        return {**made, "metadata": meta}
    if form.is_partial:
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        return {**head, "metadata": meta, "items": [partial(one) for one in things] or None}
    if kind not in {RAYCLUSTERS, CRDS}:  # a list says it once, except for custom resources
        things = [{key: value for key, value in one.items() if key not in {"kind", "apiVersion"}} for one in things]
    return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": list(things)}


def partial(thing: Json) -> Json:
    """Its metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": thing["metadata"]}
