"""The fuzz target on its corpus and on anything, in every run of the tests; `make fuzz` looks longer."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core import spdy
from kraynd.core.portforward import ClientSession
from tests.fuzz.__main__ import CORPUS, mutated
from tests.fuzz.target import run

INPUTS = sorted(CORPUS.iterdir())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name)
def test_the_corpus_keeps_the_laws(path: Path) -> None:
    run(path.read_bytes())


@given(st.binary(max_size=300))
def test_anything_keeps_the_laws(data: bytes) -> None:
    run(data)


def test_mutations_keep_the_laws() -> None:
    rand, corpus = random.Random(1), [path.read_bytes() for path in INPUTS]
    for _ in range(2000):
        run(mutated(rand, corpus))


def all_of(inputs: list[bytes]) -> None:
    for data in inputs:
        run(data)


def test_the_target_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data after the end of the error stream, and an unbounded error text: two laws broken on purpose."""
    corpus = [path.read_bytes() for path in INPUTS]

    def careless(self: ClientSession, pair: object, data: bytes, now: float) -> None:
        self._write((spdy.data_header(pair.data_id, len(data)), data))  # type: ignore[attr-defined]

    monkeypatch.setattr(ClientSession, "send", careless)
    with pytest.raises(AssertionError):
        all_of(corpus)
    monkeypatch.undo()
    monkeypatch.setattr("kraynd.core.portforward.TEXT_LIMIT", 1 << 30)
    with pytest.raises(AssertionError):
        all_of(corpus)
