"""OpenAPI as far as kubectl reads it: which kinds take a patch, and which check fields on the server."""

import hashlib
from typing import Final

from krayne_sandbox.api.answers import dumped
from krayne_sandbox.core.meta import Json
from krayne_sandbox.core.rules import Rules
from krayne_sandbox.kinds import KINDS, RAYCLUSTERS, Kind

_QUERIES: Final = ("dryRun", "fieldManager", "fieldValidation", "force")


def index(rules: Rules) -> Json:
    """The list of documents, /openapi/v3."""
    found = {}
    for path in sorted({path_of(one) for one in KINDS}):
        digest = hashlib.sha256(dumped(document(path, rules))).hexdigest().upper()
        found[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": found}


def path_of(kind: Kind) -> str:
    """The document a kind is in."""
    return f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"


def document(path: str, rules: Rules) -> Json:
    """One group's document; without kinds for a group that is not served."""
    paths: Json = {}
    schemas: Json = {}
    for kind in KINDS:
        if path_of(kind) == path:
            paths |= _paths(kind)
            schemas[_schema_name(kind)] = _schema(kind, rules)
    return {
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.3"}, "paths": paths,
        "components": {"schemas": schemas},
    }  # fmt: skip


def _paths(kind: Kind) -> Json:
    within = "/namespaces/{namespace}" if kind.namespaced else ""
    base = f"/{path_of(kind)}{within}/{kind.plural}"
    seen = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    queries = [{"name": one, "in": "query", "schema": {"type": "string"}} for one in _QUERIES]

    def operation(action: str) -> Json:
        return {"x-kubernetes-action": action, "x-kubernetes-group-version-kind": seen, "parameters": queries}

    return {
        base: {"post": operation("post")},
        base + "/{name}": {"get": operation("get"), "put": operation("put"), "patch": operation("patch")},
    }


def _schema_name(kind: Kind) -> str:
    group = ".".join(reversed(kind.group.split("."))) if kind.group else "io.k8s.api.core"
    return f"{group}.{kind.version}.{kind.kind}"


def _schema(kind: Kind, rules: Rules) -> Json:
    seen = [{"group": kind.group, "version": kind.version, "kind": kind.kind}]
    base = rules.ray if kind == RAYCLUSTERS else {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {**base, "x-kubernetes-group-version-kind": seen}


def old_document() -> Json:
    """/openapi/v2: nothing but a head; clients of today read the other."""
    return {"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.36.3"}, "paths": {}, "definitions": {}}
