"""SPDY frames: the wire's exact bytes, and that no chunking and no garbage can change or hang anything."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core import headerblock, spdy
from krayne.errors import ProtocolError


class Log:
    """A sink that writes down what it is told, payload of neighbouring calls together."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.calls = 0

    def on_data(self, stream: int, data: memoryview) -> None:
        assert len(data)
        self.calls += 1
        last = self.events[-1] if self.events else ()
        if last and last[0] == "data" and last[1] == stream:
            self.events[-1] = ("data", stream, bytes(last[2]) + bytes(data))  # type: ignore[call-overload]
        else:
            self.events.append(("data", stream, bytes(data)))

    def on_fin(self, stream: int) -> None:
        self.events.append(("fin", stream))

    def on_control(self, kind: int, flags: int, body: bytes) -> None:
        self.events.append(("control", kind, flags, body))


def read(data: bytes, cuts: list[int] | None = None, *, writable: bool = True) -> Log:
    log = Log()
    reader = spdy.FrameReader(log)
    at = 0
    for cut in [*sorted(cuts or []), len(data)]:
        piece = data[at:cut]
        at = max(at, cut)
        if piece:
            reader.feed(memoryview(bytearray(piece) if writable else piece))
    return log


ids = st.integers(1, spdy.MAX_ID)
frames = st.one_of(
    st.builds(
        lambda stream, data, fin: spdy.data_header(stream, len(data), spdy.FIN if fin else 0) + data,
        st.sampled_from([1, 3, spdy.MAX_ID]), st.binary(max_size=60), st.booleans(),
    ),
    st.builds(spdy.ping, ids),
    st.builds(spdy.rst_stream, ids, st.integers(1, 11)),
    st.builds(spdy.goaway, ids),
    st.builds(spdy.syn_reply, ids, st.binary(max_size=30)),
    st.builds(spdy.syn_stream, ids, st.binary(max_size=30)),
)  # fmt: skip


def test_the_exact_bytes_of_each_frame() -> None:
    assert spdy.data_header(5, 0x010203, spdy.FIN).hex() == "0000000501010203"
    assert spdy.ping(1).hex() == "800300060000000400000001"
    assert spdy.rst_stream(7, spdy.CANCEL).hex() == "80030003000000080000000700000005"
    assert spdy.goaway(9).hex() == "80030007000000080000000900000000"
    assert spdy.syn_stream(1, b"hi", spdy.FIN).hex() == "800300010100000c0000000100000000" + "0000" + b"hi".hex()
    assert spdy.syn_reply(1, b"hi").hex() == "800300020000000600000001" + b"hi".hex()


@given(st.lists(frames, max_size=12), st.lists(st.integers(0, 400), max_size=12), st.booleans())
def test_any_chunking_gives_the_same_events(made: list[bytes], cuts: list[int], writable: bool) -> None:
    data = b"".join(made)
    assert read(data, cuts, writable=writable).events == read(data).events


@given(st.lists(frames, max_size=6))
def test_byte_by_byte_gives_the_same_events(made: list[bytes]) -> None:
    data = b"".join(made)
    assert read(data, list(range(len(data)))).events == read(data).events


def test_payload_of_one_stream_is_handed_over_once() -> None:
    frames = b"".join(spdy.data_header(3, 1000) + bytes([index]) * 1000 for index in range(100))
    log = read(frames + spdy.ping(1))
    assert log.calls == 1
    assert log.events[0] == ("data", 3, b"".join(bytes([index]) * 1000 for index in range(100)))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_garbage_ends_in_an_error_or_in_waiting_for_more(data: bytes, cuts: list[int]) -> None:
    try:
        log = read(data, cuts)
    except ProtocolError:
        return
    told = b"".join(bytes(event[2]) for event in log.events if event[0] == "data")  # type: ignore[call-overload]
    assert len(told) <= len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01",  # version 2
        b"\x80\x03\x00\x05\x00\x00\x00\x04\x00\x00\x00\x01",  # no such type
        b"\x80\x03\x00\x63\x00\x00\x00\x00",
        b"\x80\x03\x00\x02\x00\xff\xff\xff",  # a control frame of 16 MiB
        b"\x80\x03\x00\x06\x00\x00\x00\x05\x00\x00\x00\x01\x00",  # a ping of five bytes
        b"\x80\x03\x00\x07\x00\x00\x00\x04\x00\x00\x00\x01",  # a short GOAWAY
        b"\x80\x03\x00\x01\x00\x00\x00\x04\x00\x00\x00\x01",  # a SYN_STREAM without its fields
        b"\x00\x00\x00\x00\x00\x00\x00\x01x",  # data for stream 0
    ],
)
def test_malformed_frames_are_protocol_errors(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(data)
    with pytest.raises(ProtocolError):
        read(data, list(range(len(data))))


def test_a_control_frame_is_refused_before_it_is_gathered() -> None:
    reader = spdy.FrameReader(Log())
    with pytest.raises(ProtocolError):
        reader.feed(memoryview(b"\x80\x03\x00\x08\x00\x10\x00\x00"))


def test_the_dictionary_is_the_drafts() -> None:
    assert len(headerblock.DICTIONARY) == 1423
    assert zlib.adler32(headerblock.DICTIONARY) == headerblock.DICTIONARY_ADLER == 0xE3C6A7C2


names = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=12)
headers = st.dictionaries(names, st.text(st.characters(codec="ascii", min_codepoint=32), max_size=40), max_size=8)


@given(st.lists(headers, min_size=1, max_size=5))
def test_header_blocks_come_back(blocks: list[dict[str, str]]) -> None:
    reader = headerblock.HeaderReader()
    for index, block in enumerate(blocks):
        assert (
            reader.read(
                (b"" if index else headerblock.START)
                + headerblock.stored(*(headerblock.field(*one) for one in block.items()))
            )
            == block
        )


@given(st.lists(headers, min_size=1, max_size=5))
def test_compressed_blocks_are_read_too(blocks: list[dict[str, str]]) -> None:
    reader, deflate = headerblock.HeaderReader(), zlib.compressobj(9, zdict=headerblock.DICTIONARY)
    for block in blocks:
        plain = len(block).to_bytes(4, "big")
        for text in (text for pair in block.items() for text in pair):
            plain += len(text).to_bytes(4, "big") + text.encode()
        assert reader.read(deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)) == block


@given(st.binary(max_size=200))
def test_a_block_of_garbage_is_a_protocol_error(block: bytes) -> None:
    try:
        headerblock.HeaderReader().read(headerblock.START + block)
    except ProtocolError:
        return


def test_a_compression_bomb_is_refused() -> None:
    deflate = zlib.compressobj(9, zdict=headerblock.DICTIONARY)
    bomb = deflate.compress(bytes(10_000_000)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(ProtocolError, match="more than"):
        headerblock.HeaderReader().read(bomb)
