"""The WebSocket skin: the stream inside is the same however messages and reads are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core import websocket
from kraynd.kube.mask import mask
from krayne.errors import ProtocolError

KEY = b"\x01\x80\xfe\x33"


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = False) -> bytes:
    body = bytearray(payload)
    if masked:
        websocket.mask_plainly(KEY, body)
    return websocket.frame_header(opcode, len(payload), KEY if masked else b"", fin=fin) + bytes(body)


def message(parts: list[bytes], *, masked: bool) -> bytes:
    """One message in fragments, a PING between them."""
    made = b""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        made += frame(websocket.CONTINUATION if index else websocket.BINARY, part, fin=last, masked=masked)
        if index % 3 == 1:
            made += frame(websocket.PING, b"are you there", masked=masked)
    return made


def strip(data: bytes, cuts: list[int], *, masked: bool) -> tuple[bytes, websocket.FrameStripper]:
    stripper = websocket.FrameStripper(masked=masked, mask=mask)
    out, at = b"", 0
    for cut in [*sorted(cuts), len(data)]:
        piece = bytearray(data[at:cut])
        at = max(at, cut)
        view = memoryview(piece)
        out += bytes(view[: stripper.strip(view)])
    return out, stripper


fragments = st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), max_size=6)


@given(fragments, st.lists(st.integers(0, 2000), max_size=10), st.booleans())
def test_any_cutting_gives_the_same_stream(messages: list[list[bytes]], cuts: list[int], masked: bool) -> None:
    data = b"".join(message(parts, masked=masked) for parts in messages)
    want = b"".join(part for parts in messages for part in parts)
    assert strip(data, cuts, masked=masked)[0] == want
    assert strip(data, list(range(len(data))), masked=masked)[0] == want


@given(st.binary(max_size=70_000), st.binary(min_size=4, max_size=4))
def test_what_a_client_sends_a_server_reads(data: bytes, key: bytes) -> None:
    sent = websocket.Dress(lambda: key, mask).frame((data[:10], memoryview(data)[10:]))
    assert strip(sent, [], masked=True)[0] == data
    assert len(sent) <= len(data) + 14


@given(st.binary(max_size=500), st.binary(min_size=4, max_size=4))
def test_the_fast_mask_is_the_plain_one(data: bytes, key: bytes) -> None:
    one, other = bytearray(data), bytearray(data)
    mask(key, one)
    websocket.mask_plainly(key, other)
    assert one == other == bytes(byte ^ key[index % 4] for index, byte in enumerate(data))


def test_pings_are_kept_for_an_answer_and_a_close_ends_the_stream() -> None:
    data = frame(websocket.PING, b"1") + frame(websocket.BINARY, b"data") + frame(websocket.CLOSE, b"\x03\xe8bye")
    got, stripper = strip(data + frame(websocket.BINARY, b"never"), [], masked=False)
    assert (got, stripper.replies, stripper.closed) == (b"data", [b"1"], 1000)


@pytest.mark.parametrize(
    "data",
    [
        frame(websocket.TEXT, b"text"),
        frame(websocket.BINARY, b"masked", masked=True),
        frame(websocket.CONTINUATION, b"of nothing"),
        frame(websocket.BINARY, b"unfinished", fin=False) + frame(websocket.BINARY, b"another"),
        frame(websocket.PING, bytes(126)),
        frame(websocket.PING, b"", fin=False),
        b"\xc2\x00",  # a reserved bit
        b"\x83\x00",  # a reserved opcode
        b"\x82\x7f" + (1 << 63).to_bytes(8, "big"),
    ],
)
def test_what_breaks_the_protocol_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        strip(data, [], masked=False)
    with pytest.raises(ProtocolError):
        strip(data, list(range(len(data))), masked=False)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4), st.booleans())
def test_garbage_never_makes_more_of_itself(data: bytes, cuts: list[int], masked: bool) -> None:
    try:
        got, _ = strip(data, cuts, masked=masked)
    except ProtocolError:
        return
    assert len(got) <= len(data)


def test_endless_empty_messages_keep_nothing() -> None:
    stripper = websocket.FrameStripper(masked=False)
    view = memoryview(bytearray(frame(websocket.BINARY, b"") * 10_000 + frame(websocket.PING, b"x") * 10_000))
    assert stripper.strip(view) == 0
    assert stripper.replies == [b"x"]


# The key and its answer are the example of RFC 6455, 1.3.
def test_the_handshake_of_the_rfc() -> None:
    assert websocket.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "change",
    [
        {"upgrade": "h2c"},
        {"sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
        {"sec-websocket-protocol": "v4.channel.k8s.io"},
        {"sec-websocket-extensions": "permessage-deflate"},
    ],
)
def test_a_handshake_that_is_not_ours_is_refused(change: dict[str, str]) -> None:
    nonce = bytes(range(16))
    asked = websocket.handshake_headers(nonce, websocket.TUNNEL_PROTOCOL)
    good = {
        "upgrade": "WebSocket",
        "sec-websocket-accept": websocket.accept_key(asked["Sec-WebSocket-Key"]),
        "sec-websocket-protocol": websocket.TUNNEL_PROTOCOL,
    }
    websocket.check_handshake(good, nonce, websocket.TUNNEL_PROTOCOL)
    with pytest.raises(ProtocolError):
        websocket.check_handshake({**good, **change}, nonce, websocket.TUNNEL_PROTOCOL)
