"""Which first words an application may hear twice: those whose protocol promises that this changes nothing."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.repeat import may_repeat

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, WINDOW_UPDATE, PING, PRIORITY, DATA, HEADERS, CONTINUATION = 4, 8, 6, 2, 0, 1, 9


def frame(kind: int, payload: bytes = b"") -> bytes:
    """HTTP/2, on the whole connection."""
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + bytes(4) + payload


def record(kind: int, payload: bytes) -> bytes:
    """TLS 1.2's and 1.3's on the wire."""
    return bytes([kind, 3, 1]) + len(payload).to_bytes(2, "big") + payload


def client_hello() -> bytes:
    """What OpenSSL says first."""
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="a.example").do_handshake()
    return out.read()


def get(*headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} /api?x=1 HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


GREETING = PREFACE + frame(SETTINGS, bytes(30)) + frame(WINDOW_UPDATE, bytes(4))
HARMLESS = {
    "ssh": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "ssh with its offers": b"SSH-2.0-OpenSSH_9.2p1\r\n\0\0\5\x14\x06\x14" + bytes(1300),
    "tls": client_hello(),
    "tls, cut in the hello": client_hello()[:100],
    "tls, cut in the record's header": client_hello()[:4],
    "tls in two records": record(22, b"\1" + bytes(99)) + record(22, bytes(50)),
    "a gRPC client": GREETING,
    "http/2, cut in a frame's header": GREETING + b"\0\0",
    "http/2, cut in a frame": PREFACE + frame(SETTINGS, bytes(30))[:20],
    "http/2 that asks whether one is there": GREETING + frame(PING, bytes(8)) + frame(PRIORITY, bytes(5)),
    "a request": get(),
    "its head alone": get(method="HEAD"),
    "what is allowed": get(method="OPTIONS"),
    "an old request": b"GET / HTTP/1.0\r\n\r\n",
    "two requests": get() + get(),
    "a request that is not whole": get()[:-2],
    "a request cut in a header": get("Accept: text/html")[:-10],
    "a websocket": get("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"),
}
WHO_KNOWS = {
    "nothing": b"",
    "another protocol": b"000000001",
    "a word of redis": b"INCR visits\r\n",
    "a get of another protocol": b"GET visits\r\n",
    "a get that may become anything": b"GET /",
    "the beginning of ssh's name": b"SSH",
    "a post": get("Content-Length: 2", method="POST") + b"{}",
    "a post without a body": get(method="POST"),
    "a put": get("Content-Length: 0", method="PUT"),
    "a delete": get(method="DELETE"),
    "a get with a body": get("Content-Length: 2") + b"{}",
    "a get with chunks": get("Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "a get that expects leave": get("Expect: 100-continue"),
    "a post behind a get": get() + get("Content-Length: 2", method="POST") + b"{}",
    "the beginning of one behind a get": get() + b"PO",
    "a body hidden by a fold": get("X: a\r\n Content-Length: 2") + b"{}",
    "a body hidden by a bare line feed": get("X: a\nContent-Length: 2") + b"{}",
    "a body behind a head that ends in bare line feeds": b"GET / HTTP/1.1\r\nContent-Length: 5\n\nhello",
    "a post behind such a head": b"GET / HTTP/1.1\r\nHost: a\n\nPOST /x HTTP/1.1\nHost: a\nContent-Length: 0\n\n",
    "a head that ends in a bare carriage return": b"GET / HTTP/1.1\r\nHost: a\r\rPOST",
    "two hosts": get("Host: b"),
    "small letters": get(method="get"),
    "tls with early data": client_hello() + record(20, b"\1") + record(23, bytes(80)),
    "tls with a record of another kind": client_hello() + b"\x17",
    "old tls": b"\x16\x02\0\0\1\1",
    "what begins as tls does": b"\x16\x03\xff\xff\xff" + b"INCR visits",
    "a message with its length in front": (790).to_bytes(2, "little") + bytes(790),
    "tls with another first message": record(22, b"\2" + bytes(60)),
    "an empty record": client_hello() + record(22, b""),
    "http/2 with a request": GREETING + frame(HEADERS, bytes(40)),
    "http/2 with a frame that carries a request on": GREETING + frame(CONTINUATION, bytes(40)),
    "http/2 with data": GREETING + frame(DATA, b"x"),
    "http/2 with a frame of a later day": GREETING + frame(0x21, b"x"),
    "http/2 with the header of a request alone": GREETING + frame(HEADERS, bytes(40))[:4],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_it_may_be_said_again(name: str) -> None:
    assert may_repeat(HARMLESS[name])


@pytest.mark.parametrize("name", WHO_KNOWS)
def test_it_may_not_be_said_again(name: str) -> None:
    assert not may_repeat(WHO_KNOWS[name])


@given(st.sampled_from(sorted(HARMLESS)), st.integers(0, 1400), st.binary(max_size=40))
def test_nothing_said_is_too_strange_to_judge(name: str, size: int, more: bytes) -> None:
    assert may_repeat(HARMLESS[name][:size] + more) in (True, False)


@given(st.lists(st.sampled_from(["a request", "its head alone", "what is allowed", "a websocket"]), max_size=4))
def test_whatever_comes_before_a_post_it_is_not_repeated(names: list[str]) -> None:
    before = b"".join(HARMLESS[name] for name in names)
    assert may_repeat(before) is bool(names)
    assert not may_repeat(before + WHO_KNOWS["a post"])
