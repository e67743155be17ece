"""metav1.Status: every refusal of the API as Kubernetes words it, made in one place.

A `StatusError` is what goes wrong, for code; its `body` is what a client reads.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

from krayne_sandbox.core.meta import Json, metadata
from krayne_sandbox.kinds import Kind


class Cause(NamedTuple):
    """One field that is wrong. `reason` as in FieldValueInvalid."""

    reason: str
    message: str
    field: str


class StatusError(Exception):
    """A refusal: HTTP code, reason, sentence and details of the Status."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details: Json = details or {}
        self.has_details = details is not None

    @property
    def body(self) -> Json:
        """The Status object."""
        status: Json = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": self.details, "code": self.code,
        }  # fmt: skip
        kept = {"metadata", "details"} if self.has_details else {"metadata"}
        return {key: one for key, one in status.items() if one or key in kept}


def _details(kind: Kind, name: str) -> Json:
    found = {"name": name, "group": kind.group, "kind": kind.plural}
    return {key: one for key, one in found.items() if one}


def not_found(kind: Kind, name: str) -> StatusError:
    """No such object."""
    return StatusError(HTTPStatus.NOT_FOUND, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


class UnknownPathError(Exception):
    """No such path or kind: a plain 404, as Kubernetes gives for paths that nothing serves."""


def already_exists(kind: Kind, name: str) -> StatusError:
    """The name is taken."""
    text = f'{kind.resource} "{name}" already exists'
    return StatusError(HTTPStatus.CONFLICT, "AlreadyExists", text, _details(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> StatusError:
    """It was changed meanwhile, or is not the one that was meant."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    text = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return StatusError(HTTPStatus.CONFLICT, "Conflict", text, _details(kind, name))


def not_the_one(kind: Kind, name: str, why: str) -> StatusError:
    """A delete's precondition does not hold. Kubernetes says the kind here, not the resource."""
    full = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    text = f'Operation cannot be fulfilled on {full} "{name}": {why}'
    return StatusError(HTTPStatus.CONFLICT, "Conflict", text, {**_details(kind, name), "kind": kind.kind})


def forbidden(kind: Kind, name: str, why: str, causes: Sequence[Json] = ()) -> StatusError:
    """The API server's own rules forbid it."""
    details = _details(kind, name)
    if causes:
        details["causes"] = list(causes)
    return StatusError(HTTPStatus.FORBIDDEN, "Forbidden", f'{kind.resource} "{name}" is forbidden: {why}', details)


def bad_request(message: str) -> StatusError:
    """What was sent cannot be read."""
    return StatusError(HTTPStatus.BAD_REQUEST, "BadRequest", message)


def invalid(kind: Kind, name: str, causes: Sequence[Cause], of: str = "") -> StatusError:
    """It breaks the schema or a rule; each field is named."""
    said = [f"{one.field}: {one.message}" for one in causes]
    listed = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    of = of or kind.kind
    full = f"{of}.{kind.group}" if kind.group else of
    details: Json = {**_details(kind, name), "kind": of, "causes": [one._asdict() for one in causes]}
    text = f'{full} "{name}" is invalid: {listed}'
    return StatusError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", text, details)


def expired(asked: int, oldest: int) -> StatusError:
    """A version whose history is gone."""
    return StatusError(HTTPStatus.GONE, "Expired", f"too old resource version: {asked} ({oldest})")


def internal(why: str) -> StatusError:
    """Our own trouble, a full disk among it."""
    details = {"causes": [{"message": why}]}
    return StatusError(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", f"Internal error occurred: {why}", details)


def unauthorized() -> StatusError:
    """No token, or a wrong one."""
    return StatusError(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized")


def not_allowed() -> StatusError:
    """A verb this path has not."""
    text = "the server does not allow this method on the requested resource"
    return StatusError(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", text, {})


def unsupported_media(accepted: Sequence[str]) -> StatusError:
    """A body in a format that is not taken here."""
    text = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return StatusError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", text)


def too_large(limit: int) -> StatusError:
    """A body beyond the limit."""
    text = f"Request entity too large: limit is {limit}"
    return StatusError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestEntityTooLarge", text)


def success(kind: Kind, thing: Json) -> Json:
    """What a finished delete answers."""
    details = _details(kind, str(metadata(thing).get("name") or ""))
    details["uid"] = str(metadata(thing).get("uid") or "")
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
