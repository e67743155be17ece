"""The little HTTP/1.1 a tunnel needs: request and response heads, and what a refusal means. Pure.

Reads a response's head of at most HEAD_LIMIT bytes; anything that is no HTTP is a ProtocolError, never a guess.
"""

import json
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from krayne.errors import ProtocolError

HEAD_LIMIT: Final = 32 * 1024  # bytes of a response head
BODY_LIMIT: Final = 64 * 1024  # bytes of a refusal's body that are read
TEXT_LIMIT: Final = 300  # characters of a refusal that a person is shown


_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_REQUEST = rb"(" + _TOKEN + rb") ([\x21-\xff]++) HTTP/1\.([01])"
_REQUEST_LINE = re.compile(_REQUEST + rb"\r\n")
_REQUEST_HEAD = re.compile(_REQUEST + rb"(?:\r\n" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+)*+")
# The headers that say who asks for what and where its end is. Where two of one are read as one by some servers and as
# the other by the rest, two are an error.
_TELLING = re.compile(
    rb"\r\n(host|origin|sec-fetch-site|sec-fetch-mode|sec-fetch-dest|content-length|transfer-encoding|upgrade|expect)"
    rb":([^\r]*)",
    re.IGNORECASE,
)


class RequestHead(NamedTuple):
    """`minor` is the digit after HTTP/1. `headers` has only those of `_TELLING`, names in lower case."""

    method: bytes
    target: bytes
    minor: bytes
    headers: dict[bytes, bytes]


class ResponseHead(msgspec.Struct, frozen=True):
    """Status line and headers, names in lower case, repeated ones joined by commas. `size`: bytes it took."""

    status: int
    reason: str
    headers: Mapping[str, str]
    size: int

    @property
    def body_size(self) -> int | None:
        """Content-Length where it is one, bounded."""
        length = self.headers.get("content-length", "")
        return min(int(length), BODY_LIMIT) if length.isascii() and length.isdecimal() else None


class Refusal(msgspec.Struct, frozen=True):
    """A response that is no success. `spoken`: the API server itself said so in a Status; proxies do not."""

    status: int
    message: str
    spoken: bool
    retry_after: float | None = None


def request_bytes(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """A request without a body. Raises ValueError on control characters, which would smuggle a header in."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any(character < " " or character == "\x7f" for line in lines for character in line) or " " in target:
        raise ValueError("a header with control characters")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def read_request(block: bytes, at: int, end: int) -> RequestHead:
    """The request head from `at` up to `end`, where its empty line begins. Raises ProtocolError.

    What servers are known to read differently is an error. Two expressions, because each connection waits for this.
    """
    request = _REQUEST_HEAD.fullmatch(block, at, end)
    if request is None:
        is_line = _REQUEST_LINE.match(block, at, end) is not None
        what = "the request has a malformed header line" if is_line else "this is not a well-formed HTTP/1.1 request"
        raise ProtocolError(what)
    headers: dict[bytes, bytes] = {}
    for name, value in _TELLING.findall(block, at, end):
        key = name.lower()
        if key in headers:
            raise ProtocolError(f"the request has two {key.decode()} lines")
        headers[key] = value.strip(b" \t")
    return RequestHead(request[1], request[2], request[3], headers)


def read_head(data: bytes | bytearray) -> ResponseHead | None:
    """The response head at the start of `data`, or None while it is not whole. Raises ProtocolError."""
    if data[:5] != b"HTTP/"[: len(data)]:
        raise ProtocolError("the server does not speak HTTP")
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) >= HEAD_LIMIT:
            raise ProtocolError("the server's response head is too large")
        return None
    if end > HEAD_LIMIT:
        raise ProtocolError("the server's response head is too large")
    first, *lines = bytes(data[:end]).decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if version not in {"HTTP/1.1", "HTTP/1.0"} or len(code) != 3 or not (code.isascii() and code.isdecimal()):
        raise ProtocolError(f"not an HTTP status line: {first[:60]!r}")
    return ResponseHead(int(code), reason, _headers(lines), end + 4)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip():
            raise ProtocolError(f"not an HTTP header: {line[:60]!r}")
        value = value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def read_refusal(head: ResponseHead, body: bytes) -> Refusal:
    """What a response other than the wanted one says."""
    wait = head.headers.get("retry-after", "")
    retry_after = float(wait) if wait.isascii() and wait.isdecimal() and len(wait) < 7 else None
    try:
        status = json.loads(body)
    except (ValueError, RecursionError):
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        said = str(status.get("message") or head.reason)
        return Refusal(head.status, _line(said), True, retry_after)
    plain = body.decode(errors="replace") if "html" not in head.headers.get("content-type", "") else ""
    if "json" in head.headers.get("content-type", "") or plain.lstrip().startswith("<"):
        plain = ""
    return Refusal(head.status, _line(plain) or head.reason or f"HTTP {head.status}", False, retry_after)


def _line(text: str) -> str:
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:TEXT_LIMIT]
