"""JSON-RPC 2.0, one JSON text a line: bytes to requests, values to bytes, and every size limit.

No I/O. A request is read in two steps, the envelope with its parameters left raw, then the method's own type, so that
unknown fields never hurt. Law: any bytes give lines or LineTooLongError; any line gives a Request or a RequestError.
"""

from typing import Any, TypeVar

import msgspec

from krayne.errors import KrayneError
from krayne.messages import API_VERSION

LINE_LIMIT = 4 * 1024 * 1024  # one request or one reply; a thousand clusters are about 1 MiB
ID_LIMIT = 128  # characters of a text id: it is repeated in every answer
MESSAGE_LIMIT = 4096  # characters of an error's sentence: API servers can be wordy
CALLS_PER_SESSION = 64  # in flight; more is a client that does not read its answers
SESSIONS = 128  # open connections; a hundred `krayne wait` at once still leave room for `krayne ls`
BUFFERED_LIMIT = 32 * 1024 * 1024  # unfinished lines of all sessions together
FIRST_LINE_SECONDS = 5.0  # a connection that says nothing is not a client
PARTIAL_LINE_SECONDS = 30.0  # a line begun must end
WRITE_SECONDS = 10.0  # a reader that takes nothing this long is dropped

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

Id = int | str | None
P = TypeVar("P", bound=msgspec.Struct)
# msgspec reports deep nesting as RecursionError and some bad UTF-8 as UnicodeDecodeError, outside its own family.
DECODE_FAULTS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class RequestError(KrayneError):
    """A request that cannot be served as sent: `code` is JSON-RPC's own, `id` what is known of the request's."""

    kind = "protocol"

    def __init__(self, code: int, message: str, *, id: Id = None, kind: str | None = None, hint: str = "") -> None:  # noqa: A002 - JSON-RPC's own name
        super().__init__(message, kind=kind, hint=hint)
        self.code = code
        self.id = id


class LineTooLongError(RequestError):
    """The peer sends a line beyond LINE_LIMIT; where the next one begins is unknown."""

    def __init__(self, limit: int) -> None:
        super().__init__(PARSE_ERROR, f"a line is longer than {limit} bytes")


class Meta(msgspec.Struct, frozen=True):
    """Who asks."""

    api: int = API_VERSION
    client: str = ""


class Request(msgspec.Struct, frozen=True):
    """The envelope. `id` unset: a notification, which gets no answer."""

    method: str
    jsonrpc: str = ""
    id: int | str | msgspec.UnsetType | None = msgspec.UNSET
    params: msgspec.Raw = msgspec.Raw(b"{}")
    meta: Meta = Meta()

    @property
    def wants_answer(self) -> bool:
        """Whether an answer is due."""
        return self.id is not msgspec.UNSET

    @property
    def answer_id(self) -> Id:
        """The id to answer with."""
        return None if self.id is msgspec.UNSET else self.id


class LineBuffer:
    """Cuts bytes into lines, whatever the chunks. Linear time even for single bytes."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._data = bytearray()
        self._searched = 0

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now, without their ends; empty ones are dropped. Raises LineTooLongError."""
        self._data += data
        lines = []
        begin = 0
        while (end := self._data.find(b"\n", max(begin, self._searched))) >= 0:
            if end - begin > self._limit:
                break
            line = bytes(self._data[begin:end]).strip(b" \t\r")
            if line:
                lines.append(line)
            begin = end + 1
        del self._data[:begin]
        self._searched = len(self._data)
        if end >= 0 or len(self._data) > self._limit:
            raise LineTooLongError(self._limit)
        return lines

    def rest(self) -> bytes:
        """What follows the last whole line: the first raw bytes of an upgraded connection."""
        return bytes(self._data)


_decode_request = msgspec.json.Decoder(Request).decode
_decode_any = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def decode_request(line: bytes) -> Request:
    """The envelope of one line. Raises RequestError, with the request's id where that can still be read."""
    if line[:1] == b"[":
        raise RequestError(INVALID_REQUEST, "batches are not served: write one request a line")
    try:
        request = _decode_request(line)
    except msgspec.ValidationError as error:
        raise RequestError(INVALID_REQUEST, f"not a request: {error}", id=_readable_id(line)) from error
    except DECODE_FAULTS as error:
        raise RequestError(PARSE_ERROR, f"not JSON: {_first_line(error)}") from error
    if request.jsonrpc != "2.0":
        raise RequestError(INVALID_REQUEST, 'not a JSON-RPC request: "jsonrpc" must be "2.0"', id=_readable_id(line))
    if isinstance(request.id, str) and len(request.id) > ID_LIMIT:
        raise RequestError(INVALID_REQUEST, f"the id is longer than {ID_LIMIT} characters")
    return request


def decode_params(request: Request, params: type[P]) -> P:
    """The method's own parameters. Unknown fields are ignored. Raises RequestError."""
    try:
        return msgspec.json.decode(request.params, type=params)
    except DECODE_FAULTS as error:
        raise RequestError(
            INVALID_PARAMS, f"{request.method}: {_first_line(error)}", id=request.answer_id, kind="usage"
        ) from error


def encode_result(request_id: Id, result: Any, wants: str = "") -> bytes:
    """One answer line; an error line when the answer would be longer than a line may be.

    `wants`: what the daemon would like of its client; "path" is the PATH, for a credential plugin it does not find.
    """
    line = _encode({"jsonrpc": "2.0", "id": request_id, "result": result, **_meta(wants)}) + b"\n"
    if len(line) > LINE_LIMIT:
        return encode_error(
            request_id,
            KrayneError(
                "the answer is longer than 4 MiB", kind="protocol", hint="ask for one namespace or one cluster"
            ),
        )
    return line


def encode_error(request_id: Id, error: KrayneError, wants: str = "") -> bytes:
    """One error line. Codes: JSON-RPC's own for a bad request, else the exit code of the error's class."""
    code = error.code if isinstance(error, RequestError) else type(error).exit_code
    facts = {"kind": error.kind, "hint": error.hint, "retryable": error.retryable}
    said = {"code": code, "message": error.message[:MESSAGE_LIMIT], "data": {**error.data, **facts}}
    try:
        line = _encode({"jsonrpc": "2.0", "id": request_id, "error": said, **_meta(wants)}) + b"\n"
    except (TypeError, ValueError, RecursionError):
        line = b""
    if not line or len(line) > LINE_LIMIT:  # the details are what does not fit: the sentence always does
        line = _encode({"jsonrpc": "2.0", "id": request_id, "error": {**said, "data": facts}}) + b"\n"
    return line


def _meta(wants: str) -> dict[str, dict[str, str]]:
    return {"meta": {"wants": wants}} if wants else {}


def encode_notification(method: str, params: msgspec.Struct) -> bytes:
    """One line that expects no answer."""
    return _encode({"jsonrpc": "2.0", "method": method, "params": params}) + b"\n"


def _readable_id(line: bytes) -> Id:
    """The id of a request that is otherwise wrong, so that its sender learns which one."""
    try:
        found = msgspec.json.decode(_decode_any(line).get("id", b"null"), type=int | str | None)
    except DECODE_FAULTS:
        return None
    return found if not isinstance(found, str) or len(found) <= ID_LIMIT else None


def _first_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error).partition("\n")[0][:MESSAGE_LIMIT]
