"""The line codec: any bytes give lines or LineTooLongError, any line a Request or a RequestError."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from krayne import rpc
from krayne.errors import ClusterNotFoundError, KrayneError, LoginNeededError
from krayne.messages import GetParams, NoParams, Progress
from tests.daemon.backend import some_cluster


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def request(line: bytes) -> rpc.Request:
    return rpc.decode_request(line)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_any_chunking_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    whole, pieces = rpc.LineBuffer(), rpc.LineBuffer()
    expected = whole.feed(data)
    assert [line for chunk in chunked(data, cuts) for line in pieces.feed(chunk)] == expected
    assert pieces.rest() == whole.rest()
    assert len(pieces) == len(whole.rest())


@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda one: b"\n" not in one and one.strip(b" \t\r") == one)))
def test_lines_come_back(lines: list[bytes]) -> None:
    assert rpc.LineBuffer().feed(b"".join(line + b"\n" for line in lines)) == lines


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_line_limit_holds_for_whole_and_unfinished_lines(chunk: int) -> None:
    for size, fits in ((16, True), (17, False)):
        for end in (b"\n", b""):
            data = b"x" * size + end
            buffer = rpc.LineBuffer(limit=16)
            try:
                for at in range(0, len(data), chunk):
                    buffer.feed(data[at : at + chunk])
                assert fits
            except rpc.LineTooLongError:
                assert not fits


def test_single_bytes_take_linear_time() -> None:
    buffer = rpc.LineBuffer()
    for _ in range(200_000):  # quadratic work would be 10^10 steps and hit the test's timeout
        assert buffer.feed(b"x") == []


@given(st.binary(max_size=200))
def test_any_line_is_a_request_or_a_request_error(line: bytes) -> None:
    with suppress(rpc.RequestError):
        assert isinstance(rpc.decode_request(line).method, str)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_json_as_parameters_is_params_or_an_error(value: object) -> None:
    line = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "cluster.get", "params": value})
    if isinstance(value, dict) and isinstance(value.get("name"), str) and value.get("namespace") is None:
        assert rpc.decode_params(request(line), GetParams).name == value["name"]
        return
    with suppress(rpc.RequestError):
        assert isinstance(rpc.decode_params(request(line), GetParams), GetParams)


@pytest.mark.parametrize("line", [b"[" * 200_000, b'{"a":' * 200_000, b'{"params":' + b"[" * 200_000])
def test_depth_is_an_error_not_a_crash(line: bytes) -> None:
    with pytest.raises(rpc.RequestError):
        rpc.decode_request(line)


def test_deep_parameters_are_an_error() -> None:
    deep = b"[" * 5_000 + b"]" * 5_000
    line = b'{"jsonrpc":"2.0","id":1,"method":"cluster.get","params":{"name":"a","x":' + deep + b"}}"
    with pytest.raises(rpc.RequestError):
        rpc.decode_params(rpc.decode_request(line), GetParams)


def test_unknown_fields_are_ignored() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"method":"m","new":1,"params":{"name":"a","newer":{}},"meta":{"newest":2}}'
    found = request(line)
    assert rpc.decode_params(found, GetParams) == GetParams(name="a")
    assert rpc.decode_params(request(b'{"jsonrpc":"2.0","method":"m"}'), NoParams) == NoParams()


def test_the_id_comes_back_with_an_error_where_it_can_be_read() -> None:
    for line, found in (
        (b'{"jsonrpc":"2.0","id":"x","method":5}', "x"),
        (b'{"id":7,"method":"m"}', 7),
        (b'{"id":{},"method":"m"}', None),
        (b'{"id":"' + b"x" * 200 + b'","method":5}', None),
    ):
        with pytest.raises(rpc.RequestError) as caught:
            rpc.decode_request(line)
        assert caught.value.id == found


def test_wants_answer() -> None:
    assert not request(b'{"jsonrpc":"2.0","method":"m"}').wants_answer
    assert request(b'{"jsonrpc":"2.0","method":"m","id":null}').wants_answer
    assert request(b'{"jsonrpc":"2.0","method":"m","id":0}').answer_id == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KrayneError("no"), 1),
        (ClusterNotFoundError("no"), 4),
        (rpc.RequestError(rpc.INVALID_PARAMS, "no"), rpc.INVALID_PARAMS),
        (rpc.LineTooLongError(5), rpc.PARSE_ERROR),
    ],
)
def test_codes(error: KrayneError, code: int) -> None:
    assert msgspec.json.decode(rpc.encode_error(1, error))["error"]["code"] == code


def test_an_error_keeps_its_kind_hint_and_data() -> None:
    error = LoginNeededError(
        "expired", hint="aws sso login", retryable=True, data={"plugin": "aws", "kind": "not this"}
    )
    said = msgspec.json.decode(rpc.encode_error("a", error))
    assert said["id"] == "a"
    assert said["error"]["data"] == {
        "plugin": "aws",
        "kind": "login-needed",
        "hint": "aws sso login",
        "retryable": True,
    }


def test_an_error_is_always_sent() -> None:
    for data in ({"x": object()}, {"x": "y" * rpc.LINE_LIMIT}):
        line = rpc.encode_error(1, KrayneError("z" * 10_000, data=data))
        said = msgspec.json.decode(line)["error"]
        assert len(said["message"]) == rpc.MESSAGE_LIMIT
        assert said["data"]["kind"] == "internal"


def test_an_answer_too_long_for_a_line_is_an_error() -> None:
    answer = msgspec.json.decode(rpc.encode_result(1, "x" * rpc.LINE_LIMIT))
    assert "4 MiB" in answer["error"]["message"]


@given(st.text(max_size=50))
def test_an_answer_is_one_line(text: str) -> None:
    for line in (
        rpc.encode_result(1, text),
        rpc.encode_error(text[:10], KrayneError(text)),
        rpc.encode_notification("call.progress", Progress(id=1, cluster=some_cluster(reason=text))),
    ):
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
