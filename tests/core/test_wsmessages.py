"""WebSocket messages with their borders: any chunking gives the same ones, and nothing grows without end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.websocket import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame_header
from kraynd.core.wsmessages import MESSAGE_LIMIT, MessageReader
from krayne.errors import ProtocolError

PAYLOADS = st.lists(st.binary(max_size=300) | st.sampled_from([b"x" * 126, b"y" * 70_000]), max_size=5)


def framed(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    return frame_header(opcode, len(payload), fin=fin) + payload


def read(data: bytes, size: int) -> list[tuple[int, bytes]]:
    reader, found = MessageReader(data[:size]), []
    for begin in range(size, len(data) + size, size):
        while (one := reader.take()) is not None:
            found.append(one)
        reader.feed(data[begin : begin + size])
    return found


@given(PAYLOADS, st.sampled_from([1, 3, 1000, 100_000]))
def test_any_chunking_gives_the_same_messages(payloads: list[bytes], size: int) -> None:
    if size < 100 and sum(map(len, payloads)) > 1000:
        size = 1000
    data = b"".join(framed(BINARY, one) for one in payloads)
    assert read(data, size) == [(BINARY, one) for one in payloads]


def test_a_message_in_parts_with_a_ping_between_is_one() -> None:
    data = (
        framed(BINARY, b"a", fin=False) + framed(PING, b"p") + framed(CONTINUATION, b"b") + framed(CLOSE, b"\x03\xe8")
    )
    assert read(data, 2) == [(PING, b"p"), (BINARY, b"ab"), (CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize(
    "data",
    [
        framed(CONTINUATION, b"a"),
        framed(BINARY, b"a", fin=False) + framed(TEXT, b"b"),
        framed(PING, b"p", fin=False),
        b"\x8b\x00",
        b"\xc2\x00",
        b"\x82\x80",
        frame_header(BINARY, MESSAGE_LIMIT + 1),
        frame_header(PING, 126),
    ],
)
def test_what_breaks_the_protocol_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(data, len(data))


def test_parts_without_end_are_an_error() -> None:
    data = framed(BINARY, b"", fin=False) + framed(CONTINUATION, bytes(1 << 20), fin=False) * 6
    with pytest.raises(ProtocolError):
        read(data, 1 << 20)
