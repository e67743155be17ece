"""Which HTTP requests may go through a forward: no web page's but the forward's own. Pure, one guard a connection.

Browsers name the page behind a request (Host, Origin, Sec-Fetch-*); programs such as curl name only the host. Every
head of a connection is judged, not the first alone: a browser that holds an open connection also sends a foreign page's
form through it. Invariant: no byte of a request leaves before its head is judged, and at most HEAD_LIMIT are held back.
"""

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from kraynd.core.http1 import RequestHead, read_request
from kraynd.core.pipe import Buffer
from krayne.errors import ProtocolError

HEAD_LIMIT: Final = 32 * 1024  # bytes of a request's head; Jupyter's cookies are the largest seen, below 8 KiB
LINE_LIMIT: Final = 1024  # bytes of a chunk's size line
PORT_DIGITS: Final = 5
LOOPBACK: Final = frozenset({b"127.0.0.1", b"localhost", b"[::1]"})  # names that no DNS server can point elsewhere
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\x20-\xff\t]*)?")
_STRAY = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # in a line: control characters other than a tab
_OWN_PAGES = frozenset({None, b"none", b"same-origin"})  # Sec-Fetch-Site of what no foreign page asks for


class RefusedRequestError(Exception):
    """The connection must end here; the text says why, to the person at the browser."""


class _At(Enum):
    HEAD = "a head"
    BODY = "a body of known length"
    SIZE = "a chunk's size line"
    TRAILER = "the lines after the last chunk"
    OPEN = "no HTTP any more"


def host_names(others: Iterable[str]) -> frozenset[bytes]:
    """What a forward goes by: these names and the loopback's own."""
    return LOOPBACK | {name.lower().encode() for name in others}


# A member looked up in its class costs seven times a name of the module's.
_HEAD, _BODY, _SIZE, _TRAILER, _OPEN = _At


class HttpGuard:
    """The requests of one connection. `names`: all that its forward goes by (`host_names`)."""

    __slots__ = ("_at", "_chunked", "_held", "_left", "_names")

    def __init__(self, names: frozenset[bytes]) -> None:
        self._names = names
        self._at = _HEAD
        self._held = b""
        self._left = 0  # bytes of the body, or of the chunk and its line end, still to come
        self._chunked = False

    @property
    def held(self) -> int:
        """Bytes of a head, or of a line, that is not whole yet."""
        return len(self._held)

    def feed(self, data: memoryview) -> Buffer:
        """What may go on of what has come; the rest waits for more. Raises RefusedRequestError."""
        if self._at is _OPEN:
            return data
        if self._at is _BODY and len(data) < self._left:
            self._left -= len(data)
            return data
        block = self._held + data
        passed = self._advance(block)
        self._held = block[passed:]
        return block[:passed]

    def _advance(self, block: bytes) -> int:
        """How much of the block may go on."""
        at = 0
        while at < len(block):
            before = at
            if self._at is _OPEN:
                return len(block)
            if self._at is _BODY:
                at = self._pass_body(block, at)
            elif self._at is _HEAD:
                at = self._pass_head(block, at)
            else:
                at = self._pass_line(block, at)
            if at == before:
                return at
        return at

    def _pass_body(self, block: bytes, at: int) -> int:
        taken = min(self._left, len(block) - at)
        self._left -= taken
        if self._left == 0:
            self._at = _SIZE if self._chunked else _HEAD
        return at + taken

    def _pass_head(self, block: bytes, at: int) -> int:
        end = block.find(b"\r\n\r\n", at, at + HEAD_LIMIT)
        if end < 0:
            if len(block) - at >= HEAD_LIMIT:
                raise RefusedRequestError(f"the request's head is larger than {HEAD_LIMIT} bytes")
            _check_beginning(block[at:])
            return at
        try:
            self._judge(read_request(block, at, end))
        except ProtocolError as error:
            _check_beginning(block[at:end])
            raise RefusedRequestError(error.message) from None
        return end + 4

    def _pass_line(self, block: bytes, at: int) -> int:
        """A chunk's size line, or a line after the last chunk."""
        end = block.find(b"\r\n", at, at + LINE_LIMIT)
        if end < 0:
            if len(block) - at >= LINE_LIMIT:
                raise RefusedRequestError("the request's body is not well formed")
            return at
        line = block[at:end]
        if self._at is _TRAILER:
            if not line:
                self._at = _HEAD
            elif _STRAY.search(line):
                raise RefusedRequestError("the request's body is not well formed")
            return end + 2
        size = _CHUNK.fullmatch(line)
        if size is None:
            raise RefusedRequestError("the request's body is not well formed")
        count = int(size[1], 16)
        self._at = _BODY if count else _TRAILER
        self._left = count + 2 if count else 0  # the chunk's own line end counts with it
        return end + 2

    def _judge(self, request: RequestHead) -> None:
        """Raises RefusedRequestError."""
        headers = request.headers
        host = self._own_host(headers.get(b"host"))
        if request.method == b"CONNECT" or not request.target.startswith(b"/"):
            self._check_target(request)
        if b"origin" in headers:
            _check_origin(host, headers[b"origin"])
        if headers.get(b"sec-fetch-site") not in _OWN_PAGES:
            _check_followed(request)
        if b"content-length" in headers or b"transfer-encoding" in headers:
            self._expect_body(headers, request.minor)
        if self._at is _HEAD and headers.get(b"upgrade", b"").lower() == b"websocket":
            self._at = _OPEN  # scripts cannot ask for this but by WebSocket, whose connection carries nothing else

    def _own_host(self, value: bytes | None) -> bytes:
        if value is None:
            raise RefusedRequestError("the request names no host")
        host = value.lower()
        name, _, port = host.rpartition(b":")
        if not (port.isdigit() and len(port) <= PORT_DIGITS):
            name = host
        if name not in self._names:
            raise RefusedRequestError(f"the host name {host[:80].decode('latin-1')!r} is not one of this forward")
        return host

    def _check_target(self, request: RequestHead) -> None:
        """Other forms than a path."""
        if request.method == b"CONNECT":
            raise RefusedRequestError("this forward is no proxy")
        if request.target == b"*":
            return
        scheme, slashes, rest = request.target.partition(b"://")
        if not slashes or scheme.lower() != b"http":
            raise RefusedRequestError("the request's target is not a path")
        self._own_host(re.split(rb"[/?#]", rest, maxsplit=1)[0])

    def _expect_body(self, headers: Mapping[bytes, bytes], minor: bytes) -> None:
        length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
        self._chunked = coding is not None
        if coding is not None:
            if length is not None or coding.lower() != b"chunked" or minor == b"0":
                raise RefusedRequestError("the length of the request's body is not clear")
            self._at = _SIZE
        elif length is not None:
            if not (length.isdigit() and len(length) <= 15):
                raise RefusedRequestError("the length of the request's body is not clear")
            self._left = int(length)
            self._at = _BODY if self._left else _HEAD


def _check_beginning(start: bytes) -> None:
    """What a confused program says, refused before a whole head has come."""
    if start[:1] == b"\x16":
        raise RefusedRequestError("this forward speaks http, not https")
    if start.startswith(b"PRI * HTTP/2"):
        raise RefusedRequestError("this forward speaks HTTP/1.1, not HTTP/2")
    if start and not _TOKEN.match(start):
        raise RefusedRequestError("this is not an HTTP request")


def _check_origin(host: bytes, origin: bytes) -> None:
    if origin.lower() != b"http://" + host:
        raise RefusedRequestError(f"a page of {origin[:80].decode('latin-1')!r} asks for it")


def _check_followed(request: RequestHead) -> None:
    """A link on another page may be followed; nothing else of another page gets in."""
    headers = request.headers
    followed = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    if not (followed and request.method in (b"GET", b"HEAD")):
        raise RefusedRequestError("another web page asks for it")


def refusal_answer(why: str, url: str) -> bytes:
    """The whole response to a refused request."""
    body = f"krayne refused this request: {why}.\nOpen {url} in the browser itself, or see SECURITY.md of krayne.\n"
    content = body.encode("utf-8", "replace")
    head = (
        "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(content)}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + content
