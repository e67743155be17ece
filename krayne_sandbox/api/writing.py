"""create, update, patch, apply and delete."""

import random
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from krayne_sandbox.api.answers import form_of, formed, formed_list, reply
from krayne_sandbox.api.bodies import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    decoded,
    is_dry,
    is_true,
    media_type,
    number,
    raw_body,
    read_object,
)
from krayne_sandbox.api.paths import Target
from krayne_sandbox.core.meta import Json, copied, generated, metadata, name_of, stamp
from krayne_sandbox.core.ownership import APPLY, UPDATE, Applied, Manager, after_update, applied, spelled
from krayne_sandbox.core.patches import json_patch, merge, strategic
from krayne_sandbox.core.rules import Rules, admitted, check_form
from krayne_sandbox.core.statuses import (
    Cause,
    StatusError,
    bad_request,
    invalid,
    not_allowed,
    success,
    unsupported_media,
)
from krayne_sandbox.kinds import CRDS, PODS, RAYCLUSTERS, SERVICES, WITH_STATUS, Kind
from krayne_sandbox.store import Store

# Their delete answers with the object, as those of Kubernetes do.
RETURNED: Final = frozenset({PODS, SERVICES})
REQUIRED: Final = "FieldValueRequired"
UNSUPPORTED: Final = "FieldValueNotSupported"
SERVICE_NETWORK: Final = "10.96"
PATCHES: Final = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)


class Writer:
    """The writing verbs of one store."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store = store
        self._rules = rules

    async def create(self, request: web.Request, target: Target) -> web.Response:
        """POST to a list."""
        sent = await read_object(request)
        check_form(target.kind, sent)
        thing = _homed(target, sent)
        thing["metadata"].pop("resourceVersion", None)
        if not name_of(thing) and (base := metadata(thing).get("generateName")):
            thing["metadata"]["name"] = generated(str(base), random.getrandbits(32))
        made, warnings = self._prepared(request, target.kind, thing, new=True)
        if target.kind in WITH_STATUS and target.kind not in {PODS, SERVICES}:
            made.pop("status", None)
        self._rules.check(target.kind, made, None)
        after_update(self._rules.shape(target.kind), None, made, self._manager(request, UPDATE), self._stamp())
        return self._answer(request, target, self._created(request, target.kind, made), 201, warnings)

    def _created(self, request: web.Request, kind: Kind, thing: Json) -> Json:
        admitted(kind, thing)
        if kind == SERVICES:
            _give_address(thing)
        if is_dry(request.query):
            return self._store.prepared(kind, thing)
        return self._store.create(kind, thing)

    async def update(self, request: web.Request, target: Target) -> web.Response:
        """PUT to an object."""
        sent = await read_object(request)
        check_form(target.kind, sent)
        thing = _homed(target, sent)
        if name_of(thing) != target.name:
            said = f"the name of the object ({name_of(thing)}) does not match the name on the URL ({target.name})"
            raise bad_request(said)
        if target.kind == RAYCLUSTERS and not metadata(thing).get("resourceVersion"):
            self._store.get(target.kind, target.namespace, target.name)
            fault = Cause(
                "FieldValueInvalid", "Invalid value: 0: must be specified for an update", "metadata.resourceVersion"
            )
            raise invalid(target.kind, target.name, [fault], of=target.kind.plural)
        return self._replace(request, target, thing, self._manager(request, UPDATE, target.subresource))

    def _replace(self, request: web.Request, target: Target, thing: Json, manager: Manager) -> web.Response:
        """Judge and store a whole object, noting who wrote what."""
        made, warnings = self._prepared(request, target.kind, thing, new=False)
        old, new = self._store.merged(target.kind, made, subresource=_written(target))
        self._rules.check(target.kind, new, old)
        after_update(self._rules.shape(target.kind), old, new, manager, self._stamp())
        return self._stored(request, target, old, new, warnings)

    def _stored(self, request: web.Request, target: Target, old: Json, new: Json, warnings: list[str]) -> web.Response:
        if _but_owners(old) == _but_owners(new):
            new = old  # who wrote what is no change by itself
        elif not is_dry(request.query):
            new = self._store.update(target.kind, new, subresource=_written(target))
        return self._answer(request, target, new, 200, warnings)

    async def patch(self, request: web.Request, target: Target) -> web.Response:
        """PATCH of an object, in any of the four formats."""
        kind = media_type(request)
        accepted = [one for one in PATCHES if one != STRATEGIC_PATCH or target.kind not in {RAYCLUSTERS, CRDS}]
        if kind not in accepted:
            raise unsupported_media(accepted)
        patch = decoded(await raw_body(request), kind)
        if kind == APPLY_PATCH:
            return self._apply(request, target, patch)
        live = self._store.get(target.kind, target.namespace, target.name)
        if kind == JSON_PATCH:
            made = json_patch(live, patch)
        elif not isinstance(patch, dict):
            raise bad_request("json: cannot unmarshal the patch into an object")
        elif kind == MERGE_PATCH:
            made = merge(live, patch)
        else:
            made = strategic(self._rules.shape(target.kind), live, patch)
        check_form(target.kind, made)
        if name_of(made) != target.name or metadata(made).get("namespace", "") != target.namespace:
            raise bad_request(
                f"the name of the object ({name_of(made)}) does not match the name on the URL ({target.name})"
            )
        return self._replace(request, target, made, self._manager(request, UPDATE, target.subresource))

    # Server-side apply.

    def _apply(self, request: web.Request, target: Target, config: Any) -> web.Response:
        check_form(target.kind, config)
        query = request.query
        if not query.get("fieldManager"):
            raise invalid_options(
                "PatchOptions", REQUIRED, "Required value: is required for apply patch", "fieldManager"
            )
        thing = _homed(target, config)
        if not thing.get("kind") or not thing.get("apiVersion"):
            raise bad_request("Object 'Kind' is missing" if not thing.get("kind") else "Object 'apiVersion' is missing")
        thing["metadata"].setdefault("name", target.name)
        if name_of(thing) != target.name:
            raise bad_request(
                f"the name of the object ({name_of(thing)}) does not match the name on the URL ({target.name})"
            )
        if metadata(thing).get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        manager = self._manager(request, APPLY, target.subresource)
        if target.subresource:
            thing = {key: one for key, one in thing.items() if key in {"apiVersion", "kind", "metadata", "status"}}
        elif target.kind in WITH_STATUS:
            thing.pop("status", None)
        live = self._store.find(target.kind, target.namespace, target.name)
        shape = self._rules.shape(target.kind)
        if unknown := self._rules.prepared(target.kind, thing, new=False).unknown:
            raise _undeclared(target, str(metadata(config).get("namespace") or ""), unknown)
        if live is None:
            return self._apply_new(request, target, thing, manager)
        asked = str(metadata(thing).pop("resourceVersion", "") or "")
        done = applied(shape, live, thing, manager, self._stamp())
        if done.clashes and not is_true(query, "force"):
            raise _clashing(done)
        made = done.thing
        if asked:
            made["metadata"]["resourceVersion"] = asked
        prepared = self._rules.prepared(target.kind, made, new=False).thing
        old, new = self._store.merged(target.kind, prepared, subresource=_written(target))
        self._rules.check(target.kind, new, old)
        same = _but_owners(old) == _but_owners(new) and _owned(old) == _owned(new)
        if not same and not is_dry(query):
            new = self._store.update(target.kind, new, subresource=_written(target))
        return self._answer(request, target, old if same else new, 200, [])

    def _apply_new(self, request: web.Request, target: Target, thing: Json, manager: Manager) -> web.Response:
        if target.subresource:
            self._store.get(target.kind, target.namespace, target.name)
        metadata(thing).pop("resourceVersion", None)
        done = applied(self._rules.shape(target.kind), {"metadata": {}}, thing, manager, self._stamp())
        made = self._rules.prepared(target.kind, {**done.thing, "metadata": {**done.thing["metadata"]}}, new=True).thing
        self._rules.check(target.kind, made, None)
        return self._answer(request, target, self._created(request, target.kind, made), 201, [])

    # Delete.

    async def delete(self, request: web.Request, target: Target) -> web.Response:
        """DELETE of an object."""
        options = await self._options(request)
        done = self._delete(request, target, target.name, options)
        gone = is_dry(request.query, options) or self._store.find(target.kind, target.namespace, target.name) is None
        if gone and target.kind not in RETURNED:
            return reply(success(target.kind, done))
        return self._answer(request, target, done, 200, [])

    async def delete_all(self, request: web.Request, target: Target) -> web.Response:
        """DELETE of a list."""
        if target.kind.namespaced and not target.namespace:
            raise not_allowed()
        options = await self._options(request)
        found = self._store.list(
            target.kind, target.namespace or None,
            labels=request.query.get("labelSelector", ""), fields=request.query.get("fieldSelector", ""),
        )  # fmt: skip
        for one in found:
            if self._store.find(target.kind, target.namespace, name_of(one)) is not None:
                self._delete(request, target, name_of(one), options)
        meta = {"resourceVersion": str(self._store.revision)}
        return reply(formed_list(form_of(request), self._rules, target.kind, found, meta, self._store.now))

    async def _options(self, request: web.Request) -> Json:
        data = await raw_body(request)
        options = decoded(data, media_type(request)) if data.strip() else {}
        if not isinstance(options, dict) or not isinstance(options.get("preconditions") or {}, dict):
            raise bad_request("the body is no DeleteOptions")
        for name in ("gracePeriodSeconds",):
            if (given := number(request.query, name)) is not None:
                options[name] = given
        if "propagationPolicy" in request.query:
            options["propagationPolicy"] = request.query["propagationPolicy"]
        return options

    def _delete(self, request: web.Request, target: Target, name: str, options: Json) -> Json:
        if is_dry(request.query, options):
            return self._store.get(target.kind, target.namespace, name)
        conditions, grace = options.get("preconditions") or {}, options.get("gracePeriodSeconds")
        policy = str(options.get("propagationPolicy") or "Background")
        if policy not in {"Background", "Foreground", "Orphan"}:
            said = f'Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan", "nil"'
            raise invalid_options("DeleteOptions", UNSUPPORTED, said, "propagationPolicy")
        if grace is not None and (not isinstance(grace, int) or grace < 0):
            said = "Invalid value: must be a number that is not negative"
            raise invalid_options("DeleteOptions", "FieldValueInvalid", said, "gracePeriodSeconds")
        return self._store.delete(
            target.kind, target.namespace, name,
            uid=str(conditions.get("uid") or ""), version=str(conditions.get("resourceVersion") or ""),
            grace=grace, propagation=policy,
        )  # fmt: skip

    # Inside.

    def _prepared(self, request: web.Request, kind: Kind, thing: Json, *, new: bool) -> tuple[Json, list[str]]:
        made = self._rules.prepared(kind, thing, new=new)
        return made.thing, _unknown(request, kind, made.unknown)

    def _manager(self, request: web.Request, operation: str, subresource: str = "") -> Manager:
        agent = request.headers.get("User-Agent", "").partition("/")[0].partition(" ")[0]
        return Manager(request.query.get("fieldManager") or agent or "unknown", operation, subresource)

    def _stamp(self) -> str:
        return stamp(self._store.now)

    def _answer(
        self, request: web.Request, target: Target, thing: Json, status: int, warnings: list[str]
    ) -> web.Response:
        made = formed(form_of(request), self._rules, target.kind, thing, self._store.now)
        return reply(made, status, warnings)


def invalid_options(options: str, reason: str, why: str, field: str) -> StatusError:
    """The request's own options are wrong."""
    details = {
        "group": "meta.k8s.io", "kind": options, "causes": [{"reason": reason, "message": why, "field": field}],
    }  # fmt: skip
    text = f'{options}.meta.k8s.io "" is invalid: {field}: {why}'
    return StatusError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", text, details)


def _homed(target: Target, sent: Json) -> Json:
    """A copy of what was sent, with the namespace of the path."""
    thing: Json = {**copied(sent), "kind": target.kind.kind, "apiVersion": target.kind.api_version}
    meta = thing["metadata"] = dict(metadata(sent))
    if target.kind.namespaced:
        if meta.setdefault("namespace", target.namespace) not in ("", target.namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        meta["namespace"] = target.namespace
    return thing


def _written(target: Target) -> str:
    return "status" if target.subresource == "status" else ""


def _unknown(request: web.Request, kind: Kind, unknown: list[str]) -> list[str]:
    """Fields nobody knows: refused, told or dropped, as the client asks."""
    how = request.query.get("fieldValidation") or "Warn"
    if how not in {"Warn", "Strict", "Ignore"}:
        why = f'Unsupported value: "{how}": supported values: "Ignore", "Strict", "Warn"'
        options = {"POST": "CreateOptions", "PUT": "UpdateOptions"}.get(request.method, "PatchOptions")
        raise invalid_options(options, UNSUPPORTED, why, "fieldValidation")
    said = [f'unknown field "{one}"' for one in unknown]
    if said and how == "Strict":
        head = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}'
        raise bad_request(f"{head}: strict decoding error: {', '.join(said)}")
    return said if how == "Warn" else []


def _undeclared(target: Target, namespace: str, unknown: list[str]) -> StatusError:
    where = f"{namespace}/{target.name}; {target.kind.api_version}, Kind={target.kind.kind}"
    said = "\n".join(f".{one}: field not declared in schema" for one in unknown)
    return StatusError(HTTPStatus.INTERNAL_SERVER_ERROR, "", f"failed to create typed patch object ({where}): {said}")


def _but_owners(thing: Json) -> Json:
    meta = {key: one for key, one in metadata(thing).items() if key not in {"managedFields", "resourceVersion"}}
    return {**thing, "metadata": meta}


def _owned(thing: Json) -> list[Json]:
    found = metadata(thing).get("managedFields") or ()
    return [{key: value for key, value in one.items() if key != "time"} for one in found]


def _clashing(done: Applied) -> StatusError:
    causes: list[Json] = []
    by_owner: dict[str, list[str]] = {}
    for one in done.clashes:
        who = f'"{one.owner.name}"' + (f' with subresource "{one.owner.subresource}"' if one.owner.subresource else "")
        who += f" using {one.api_version}" if one.owner.operation == UPDATE else ""
        by_owner.setdefault(who, []).append(spelled(one.path))
        causes.append({
            "reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": spelled(one.path),
        })  # fmt: skip
    count = f"{len(causes)} conflict{'s' if len(causes) > 1 else ''}"
    listed = []
    for who, fields in by_owner.items():
        listed.append(f"conflict{'s' if len(fields) > 1 else ''} with {who}: " + ", ".join(fields) if len(fields) == 1
                      else f"conflicts with {who}:\n- " + "\n- ".join(fields))  # fmt: skip
    text = f"Apply failed with {count}: " + "; ".join(listed)
    return StatusError(HTTPStatus.CONFLICT, "Conflict", text, {"causes": causes})


def _give_address(service: Json) -> None:
    spec = service.setdefault("spec", {})
    if spec.get("type") == "ExternalName" or spec.get("clusterIP"):
        if spec.get("clusterIP"):
            spec.setdefault("clusterIPs", [spec["clusterIP"]])
        return
    spec["clusterIP"] = f"{SERVICE_NETWORK}.{random.randrange(256)}.{random.randrange(1, 255)}"  # noqa: S311
    spec["clusterIPs"] = [spec["clusterIP"]]
