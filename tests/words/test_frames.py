"""Frames: any chunking of the same bytes gives the same frames; nonsense is an error, never a wait for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krayne import frames
from krayne.errors import ProtocolError

SOME = st.lists(st.tuples(st.sampled_from([frames.STDIN, frames.STDOUT, frames.STDERR, frames.RESIZE]), st.binary()))


@given(SOME, st.integers(1, 7))
def test_any_chunking_gives_the_same_frames(sent: list[tuple[int, bytes]], size: int) -> None:
    data = b"".join(frames.frame(*one) for one in sent)
    reader = frames.Frames(data[:size])
    found = []
    for begin in range(size, len(data) + size, size):
        while (one := reader.take()) is not None:
            found.append(one)
        reader.feed(data[begin : begin + size])
    assert found == sent
    assert reader.take() is None


@pytest.mark.parametrize("data", [b"\x01\x7f\xff\xff\xff", b"\x09\x00\x00\x00\x00", b'{"jsonrpc"'])
def test_what_is_no_frame_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        frames.Frames(data).take()


def test_the_largest_frame_passes() -> None:
    data = bytes(frames.PAYLOAD_LIMIT)
    assert frames.Frames(frames.frame(frames.STDOUT, data)).take() == (frames.STDOUT, data)


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_json_comes_back(value: dict[str, int | str]) -> None:
    taken = frames.Frames(frames.json_frame(frames.END, value)).take()
    assert taken is not None
    assert frames.read_json(taken[1]) == value


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff"])
def test_json_that_is_none_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        frames.read_json(data)
