"""Whether a client's first words may reach an application twice, when a tunnel is lost before any answer. Pure.

Asked about all that a client has said on a connection the pod has not answered yet. Read from the bytes themselves, so
that it holds for any port: true only where the protocol promises that hearing them again changes nothing. The law: what
is not recognised may not be repeated.
"""

import re
from typing import Final

from kraynd.core.http1 import read_request
from krayne.errors import ProtocolError

_SSH: Final = (b"SSH-2.0-", b"SSH-1.99-")  # RFC 4253, 4.2 and 5.1
_HANDSHAKE: Final = re.compile(rb"\x16\x03[\x00-\x04]")  # RFC 8446, 5.1: a record of the handshake, TLS 1.3 or older
_CLIENT_HELLO: Final = b"\x01"  # RFC 8446, 4: the handshake's first message
_TLS_HEADER: Final = 5  # bytes: type, version (2), length (2)
_TLS_RECORD: Final = 2**14  # bytes of a record at most
_HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4
_HTTP2_HEADER: Final = 9  # bytes: length (3), type, flags, stream (4)
_HTTP2_ASKING_NOTHING: Final = frozenset({2, 4, 6, 8})  # PRIORITY, SETTINGS, PING, WINDOW_UPDATE
_SAFE_METHOD: Final = re.compile(rb"(?:GET|HEAD|OPTIONS|TRACE) [\x21-\xff]+ HTTP/1\.[01]\r\n")  # RFC 9110, 9.2.1
_PART_OF_A_LINE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\r?")
_WITH_A_BODY: Final = (b"content-length", b"transfer-encoding", b"expect")


def may_repeat(said: bytes) -> bool:
    """Whether an application that hears this on two connections does no more than if it heard it on one."""
    if said.startswith(_SSH):
        return True  # nobody is logged in before the server's keys are known: what comes first only offers and guesses
    if _HANDSHAKE.match(said):
        return _is_client_hello(said)
    if said.startswith(_HTTP2_PREFACE):
        return _is_http2_greeting(said)
    return _are_safe_requests(said)


def _is_client_hello(said: bytes) -> bool:
    """TLS up to where the server must speak; early data (RFC 8446, 2.3) is the application's and may be anything."""
    at = 0
    while at + _TLS_HEADER <= len(said):
        size = int.from_bytes(said[at + 3 : at + _TLS_HEADER], "big")
        if _HANDSHAKE.match(said, at) is None or not 0 < size <= _TLS_RECORD:
            return False
        at += _TLS_HEADER + size
    return said[_TLS_HEADER : _TLS_HEADER + 1] in (b"", _CLIENT_HELLO) and said[at : at + 1] in (b"", said[:1])


def _is_http2_greeting(said: bytes) -> bool:
    """HTTP/2 up to the first request, as gRPC's clients begin: they await the server's settings."""
    at = len(_HTTP2_PREFACE)
    while at + 3 < len(said):
        if said[at + 3] not in _HTTP2_ASKING_NOTHING:
            return False
        at += _HTTP2_HEADER + int.from_bytes(said[at : at + 3], "big")
    return True


def _are_safe_requests(said: bytes) -> bool:
    """HTTP/1 requests that ask for no change, without bodies; the last may lack its end, but not its first line."""
    at = 0
    while at < len(said):
        if _SAFE_METHOD.match(said, at) is None:
            return False
        end = said.find(b"\r\n\r\n", at)
        is_whole = end >= 0
        if not is_whole:  # nobody acts on a head before its end: judge the lines there are
            end = said.rindex(b"\r\n", at)
            if _PART_OF_A_LINE.fullmatch(said, end + 2) is None:
                return False
        try:
            request = read_request(said, at, end)
        except ProtocolError:
            return False
        if any(name in request.headers for name in _WITH_A_BODY):
            return False
        if not is_whole:
            return True
        at = end + 4
    return bool(said)
