"""The little HTTP/1.1 a tunnel needs: one request, one response head, and what a refusal means. Pure.

Reads a head of at most HEAD_LIMIT bytes; anything that is no HTTP is a ProtocolError, never a guess.
"""

import json
from collections.abc import Mapping
from typing import Final

import msgspec

from krayne.errors import ProtocolError

HEAD_LIMIT: Final = 32 * 1024  # bytes of a response head
BODY_LIMIT: Final = 64 * 1024  # bytes of a refusal's body that are read
TEXT_LIMIT: Final = 300  # characters of a refusal that a person is shown


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
