"""The one request and the one response of an upgrade."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.http1 import HEAD_LIMIT, ResponseHead, read_head, read_refusal, request_bytes
from krayne.errors import ProtocolError


def test_the_request_is_exact() -> None:
    made = request_bytes("POST", "/api/v1/x", {"Host": "h:1", "Upgrade": "SPDY/3.1"})
    assert made == b"POST /api/v1/x HTTP/1.1\r\nHost: h:1\r\nUpgrade: SPDY/3.1\r\n\r\n"


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\x00"])
def test_no_header_can_be_smuggled_in(value: str) -> None:
    with pytest.raises(ValueError, match="control"):
        request_bytes("GET", "/", {"Authorization": f"Bearer {value}"})


def test_a_head_is_read_when_it_is_whole_and_not_before() -> None:
    data = b"HTTP/1.1 101 Switching Protocols\r\nUPGRADE: SPDY/3.1\r\nX-A: 1\r\nx-a:  2 \r\n\r\nSPDY bytes"
    for size in range(data.index(b"\r\n\r\n") + 4):
        assert read_head(data[:size]) is None
    head = read_head(data)
    assert head is not None
    assert (head.status, head.headers) == (101, {"upgrade": "SPDY/3.1", "x-a": "1, 2"})
    assert data[head.size :] == b"SPDY bytes"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2\xb200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEAD_LIMIT,
    ],
)
def test_what_is_no_http_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_head(data)


@given(st.binary(max_size=200))
def test_garbage_is_an_error_or_unfinished(data: bytes) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n"):
        try:
            head = read_head(start + data)
        except ProtocolError:
            continue
        assert head is None or head.size <= len(start + data)


def head(status: int, **headers: str) -> ResponseHead:
    return ResponseHead(status, "Reason", {name.replace("_", "-"): value for name, value in headers.items()}, 0)


def test_a_status_is_told_from_a_proxys_page() -> None:
    said = json.dumps({"kind": "Status", "message": "pods is\nforbidden"}).encode()
    refusal = read_refusal(head(403, content_type="application/json"), said)
    assert (refusal.spoken, refusal.message) == (True, "pods is forbidden")
    page = read_refusal(head(403, content_type="text/html; charset=utf-8"), b"<html>no</html>")
    assert (page.spoken, page.message) == (False, "Reason")
    assert read_refusal(head(426), b"Upgrade request required\n").message == "Upgrade request required"
    assert read_refusal(head(503, retry_after="12"), b"").retry_after == 12.0
    assert read_refusal(head(503, retry_after="Mon, 23 Nov"), b"").retry_after is None


@given(st.binary(max_size=300))
def test_any_body_can_be_shown(body: bytes) -> None:
    message = read_refusal(head(500), body).message
    assert len(message) <= 300
    assert message.isprintable()
