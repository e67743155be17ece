"""The port book's laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.ports import HIGH, LOW, WELL_KNOWN, PortBookFullError, assign, first_guess

NAMES = st.text(min_size=1, max_size=30)
BOOKS = st.dictionaries(NAMES, st.integers(LOW, HIGH), max_size=40)


@given(NAMES)
def test_first_guess_is_in_range_and_is_what_an_empty_book_gives(name: str) -> None:
    guess = first_guess(name)
    assert LOW <= guess <= HIGH
    assert assign({}, name) == guess or guess in WELL_KNOWN


def test_first_guess_never_changes_between_versions() -> None:
    # A home that lost its book must find its ports again.
    assert first_guess("w/default/demo/dashboard") == PINNED_GUESS


PINNED_GUESS = 18779


@given(BOOKS, NAMES)
def test_equal_inputs_give_equal_ports_whatever_the_books_order(book: dict[str, int], name: str) -> None:
    assert assign(book, name) == assign(dict(reversed(book.items())), name)


@given(BOOKS)
def test_an_existing_entry_is_returned_unchanged(book: dict[str, int]) -> None:
    for name, port in book.items():
        assert assign(book, name) == port


def test_an_entry_outside_the_range_is_the_users_choice_and_stays() -> None:
    assert assign({"a": 80}, "a") == 80


@given(st.lists(NAMES, unique=True, max_size=60))
def test_a_growing_book_has_no_duplicates_and_never_moves_an_entry(names: list[str]) -> None:
    book: dict[str, int] = {}
    for name in names:
        before = dict(book)
        book[name] = assign(book, name)
        assert before.items() <= book.items()
    assert len(set(book.values())) == len(book)
    for name, port in book.items():
        assert assign(book, name) == port


@given(st.integers(1, 60), st.text(max_size=8))
def test_a_small_range_fills_to_its_last_port_and_then_says_so(size: int, prefix: str) -> None:
    low, high = 30000, 30000 + size - 1
    book: dict[str, int] = {}
    for number in range(size):
        name = f"{prefix}{number}"
        book[name] = assign(book, name, low=low, high=high)
    assert set(book.values()) == set(range(low, high + 1))
    with pytest.raises(PortBookFullError, match="30000") as caught:
        assign(book, f"{prefix}more", low=low, high=high)
    assert caught.value.kind == "port-book-full"
    assert caught.value.hint


def test_well_known_and_unusable_ports_are_never_given() -> None:
    book: dict[str, int] = {}
    unusable = range(LOW + 100, HIGH + 1)
    for number in range(100 - sum(port < LOW + 100 for port in WELL_KNOWN)):
        book[str(number)] = assign(book, str(number), unusable=unusable)
    assert all(LOW <= port < LOW + 100 and port not in WELL_KNOWN for port in book.values())
    with pytest.raises(PortBookFullError):
        assign(book, "one more", unusable=unusable)


def test_two_users_with_equal_names_get_different_guesses() -> None:
    names = [f"w/default/demo-{number}/ssh" for number in range(50)]
    differing = sum(assign({}, name, salt="1000") != assign({}, name, salt="1001") for name in names)
    assert differing >= 48
