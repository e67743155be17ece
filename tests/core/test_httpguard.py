"""The guard of HTTP forwards: what passes, what is refused and why, and that no chunking of the bytes changes it."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.httpguard import HEAD_LIMIT, HttpGuard, RefusedRequestError, host_names, refusal_answer

NAMES = host_names(["dashboard.Demo.localhost"])
HOST = "127.0.0.1:15001"


def request(
    *headers: str,
    method: str = "GET",
    target: str = "/",
    host: str | None = HOST,
    body: bytes = b"",
    version: str = "1.1",
) -> bytes:
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host is not None else []), *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def passed(data: bytes, pieces: Iterable[int] = ()) -> bytes:
    """What gets through, fed in pieces of these sizes, then the rest."""
    guard, out, at = HttpGuard(NAMES), b"", 0
    for size in (*pieces, len(data)):
        out += bytes(guard.feed(memoryview(data[at : at + size])))
        at += size
    return out


def refused(data: bytes) -> str:
    with pytest.raises(RefusedRequestError) as found:
        passed(data)
    return str(found.value)


NAVIGATION = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
GOOD = {
    "curl": request("User-Agent: curl/8", "Accept: */*"),
    "localhost": request(host="localhost:15001"),
    "v6": request(host="[::1]:15001"),
    "own name": request(host="dashboard.demo.localhost:15001"),
    "own name in capitals": request(host="Dashboard.Demo.LOCALHOST:15001"),
    "through ssh -L to another port": request("Origin: http://localhost:8265", host="localhost:8265"),
    "no port": request(host="localhost"),
    "own page": request(f"Origin: http://{HOST}", "Sec-Fetch-Site: same-origin", method="POST"),
    "typed": request("Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"),
    "a followed link": request(*NAVIGATION),
    "absolute form of our own": request(target=f"http://{HOST}/x?y"),
    "options": request(method="OPTIONS", target="*"),
    "a body": request("Content-Length: 5", method="POST", body=b"hello"),
    "two in a row": request("Content-Length: 5", method="POST", body=b"GET /") + request(),
    "chunks": request(
        "Transfer-Encoding: chunked", method="PUT", body=b"5;x=y\r\nhello\r\n3\r\n\r\n\r\r\n0\r\nA: b\r\n\r\n"
    )
    + request(),
    "http/1.0": request(version="1.0"),
    "a tab in a value": request("X: a\tb"),
}
BAD = {
    "rebound name": (request(host="evil.example:15001"), "evil.example"),
    "rebound name in absolute form": (request(target="http://evil.example/"), "evil.example"),
    "a name that begins like ours": (request(host="127.0.0.1.evil.example:15001"), "host name"),
    "a name that ends like ours": (request(host="evil-localhost:15001"), "host name"),
    "another cluster's name": (request(host="dashboard.other.localhost:15001"), "host name"),
    "user info": (request(host="localhost:1@evil.example"), "host name"),
    "no host": (request(host=None), "no host"),
    "empty host": (request(host=""), "host name"),
    "two hosts": (request("Host: evil.example"), "two host"),
    "foreign origin": (request("Origin: http://evil.example", method="POST"), "evil.example"),
    "origin of another port": (request("Origin: http://127.0.0.1:3000", method="POST"), "127.0.0.1:3000"),
    "origin null": (request("Origin: null", method="POST"), "null"),
    "https origin": (request(f"Origin: https://{HOST}", method="POST"), "https"),
    "two origins": (request(f"Origin: http://{HOST}", f"Origin: http://{HOST}"), "two origin"),
    "cross-site fetch": (request("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"), "another web page"),
    "same-site fetch": (request("Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors"), "another web page"),
    "cross-site form": (request(*NAVIGATION, method="POST"), "another web page"),
    "framed": (
        request("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"),
        "another web page",
    ),
    "two sites": (request("Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"), "two sec-fetch-site"),
    "cross-site websocket": (
        request("Connection: Upgrade", "Upgrade: websocket", "Origin: http://evil.example"),
        "evil.example",
    ),
    "form on an open connection": (request() + request("Origin: http://evil.example", method="POST"), "evil.example"),
    "a second head behind a body": (
        request("Content-Length: 2", method="POST", body=b"xx") + request(host="evil.example"),
        "evil.example",
    ),
    "a second head behind chunks": (
        request("Transfer-Encoding: chunked", method="POST", body=b"1\r\nx\r\n0\r\n\r\n")
        + request(host="evil.example"),
        "evil.example",
    ),
    "connect": (request(method="CONNECT", target="evil.example:443"), "proxy"),
    "another scheme": (request(target="ftp://localhost/"), "not a path"),
    "http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
    "tls": (b"\x16\x03\x01\x02\x00", "not https"),
    "garbage": (b"\x00\x01\x02", "not an HTTP request"),
    "no version": (b"GET /\r\n\r\n", "well-formed"),
    "two spaces": (f"GET  / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(), "well-formed"),
    "fold": (request("X: a\r\n b"), "malformed header"),
    "space before the colon": (request("Origin : x"), "malformed header"),
    "no colon": (request("Origin"), "malformed header"),
    "bare cr": (request("X: a\rOrigin: x"), "malformed header"),
    "bare lf": (request("X: a\nHost: evil.example"), "malformed header"),
    "nul": (request("X: a\0b"), "malformed header"),
    "length and chunks": (request("Content-Length: 3", "Transfer-Encoding: chunked", method="POST"), "length"),
    "two lengths": (request("Content-Length: 3", "Content-Length: 3", method="POST"), "two content-length"),
    "a length that is none": (request("Content-Length: +3", method="POST"), "length"),
    "a coding we do not read": (request("Transfer-Encoding: gzip, chunked", method="POST"), "length"),
    "a bad chunk": (request("Transfer-Encoding: chunked", method="POST", body=b"zz\r\n"), "not well formed"),
    "an endless size line": (request("Transfer-Encoding: chunked", method="POST", body=b"1" * 2000), "not well formed"),
    "too large": (request("X: " + "a" * HEAD_LIMIT), "larger"),
}


@pytest.mark.parametrize("name", GOOD)
def test_it_passes_whole(name: str) -> None:
    assert passed(GOOD[name]) == GOOD[name]


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_with_the_reason(name: str) -> None:
    data, why = BAD[name]
    assert why in refused(data)


def test_not_a_byte_leaves_before_its_head_is_judged() -> None:
    guard = HttpGuard(NAMES)
    head = request("Content-Length: 4", method="POST")
    for at in range(len(head) - 1):
        assert bytes(guard.feed(memoryview(head[at : at + 1]))) == b""
    assert bytes(guard.feed(memoryview(head[-1:] + b"ab"))) == head + b"ab"
    assert bytes(guard.feed(memoryview(b"cdGET"))) == b"cd"
    with pytest.raises(RefusedRequestError):
        guard.feed(memoryview(request(host="evil.example")[3:]))


def test_after_a_websocket_of_our_own_page_everything_passes() -> None:
    guard = HttpGuard(NAMES)
    data = request("Connection: Upgrade", "Upgrade: websocket", f"Origin: http://{HOST}") + b"\x81\x85\0\0\0\0hello"
    assert bytes(guard.feed(memoryview(data))) == data
    assert bytes(guard.feed(memoryview(b"\0\r\n\r\n\xff"))) == b"\0\r\n\r\n\xff"


@given(st.sampled_from(sorted(GOOD)), st.lists(st.integers(1, 40), max_size=30))
def test_no_chunking_changes_what_passes(name: str, pieces: list[int]) -> None:
    assert passed(GOOD[name], pieces) == GOOD[name]


@given(st.sampled_from(sorted(BAD)), st.lists(st.integers(1, 40), max_size=30))
def test_no_chunking_lets_one_through(name: str, pieces: list[int]) -> None:
    with pytest.raises(RefusedRequestError):
        passed(BAD[name][0], pieces)


@given(st.binary(max_size=300), st.lists(st.integers(1, 20), max_size=20))
def test_of_garbage_nothing_passes_and_little_is_held(data: bytes, pieces: list[int]) -> None:
    guard, at = HttpGuard(NAMES), 0
    try:
        for size in (*pieces, len(data)):
            out = bytes(guard.feed(memoryview(data[at : at + size])))
            assert b"host" in out.lower() or not out
            at += size
    except RefusedRequestError:
        pass


def test_the_answer_is_whole_and_says_what_to_do() -> None:
    answer = refusal_answer("another web page asks for it", "http://dashboard.demo.localhost:15001")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"another web page" in body
    assert b"http://dashboard.demo.localhost:15001" in body
