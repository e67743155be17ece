"""SPDY/3 header blocks: sent as stored deflate blocks, read with a bounded inflate.

One zlib stream per direction and connection. Sending needs no deflate state: a zlib header naming the dictionary, then
for each block a stored block and an empty one, which is what a sync flush ends with. Reading is for the side that
accepts streams; the side that opens them ignores replies' headers.
"""

import zlib

from krayne.errors import ProtocolError

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _sized(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


# The preset dictionary of the SPDY/3 draft, 2.6.10.1: 1,423 bytes.
DICTIONARY = b"".join(_sized(word.replace("_", " ").encode()) for word in _WORDS.split()) + _TAIL.encode()
DICTIONARY_ADLER = 0xE3C6A7C2

START = b"\x78\xbb" + DICTIONARY_ADLER.to_bytes(4, "big")  # deflate, 32 KiB window, preset dictionary
_EMPTY = b"\x00\x00\x00\xff\xff"  # an empty stored block: the reader stops here and not in the next frame
MAX_STORED = 0xFFFF  # a stored block's length has 16 bits
MAX_INFLATED = 64 * 1024  # bytes of one block when read: ours hold three short headers
MAX_HEADERS = 100


def field(name: str, value: str) -> bytes:
    """One header as `stored` takes it. Names must be lower case."""
    return _sized(name.encode()) + _sized(value.encode())


def stored(*fields: bytes) -> bytes:
    """A header block of these without compression; `START` goes before a connection's first."""
    plain = len(fields).to_bytes(4, "big") + b"".join(fields)
    if len(plain) > MAX_STORED:
        raise ValueError("header block too large")
    size = len(plain)
    return b"\x00" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + plain + _EMPTY


class HeaderReader:
    """The receiving half of one connection's header compression."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)

    def read(self, block: bytes) -> dict[str, str]:
        """The headers of one block. Raises ProtocolError on anything else, and on a bomb."""
        try:
            plain = self._zlib.decompress(block, MAX_INFLATED)
        except zlib.error as error:
            raise ProtocolError("SPDY: a header block that does not inflate") from error
        if self._zlib.unconsumed_tail:
            raise ProtocolError(f"SPDY: a header block of more than {MAX_INFLATED} bytes")
        return _parse(plain)


def _parse(plain: bytes) -> dict[str, str]:
    count, at = int.from_bytes(plain[:4], "big"), 4
    if len(plain) < 4 or count > MAX_HEADERS:
        raise ProtocolError("SPDY: a malformed header block")
    texts = []
    for _ in range(2 * count):
        size = int.from_bytes(plain[at : at + 4], "big")
        if at + 4 + size > len(plain):
            raise ProtocolError("SPDY: a header block that ends early")
        texts.append(plain[at + 4 : at + 4 + size].decode("latin-1"))
        at += 4 + size
    return dict(zip(texts[::2], texts[1::2], strict=True))
