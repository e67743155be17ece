"""The user's terminal lent to a program elsewhere: raw while it runs, as it was afterwards, its size told.

Invariant: whatever happens within the block, the terminal is left as it was found.
"""

import os
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager


def size() -> tuple[int, int]:
    """Columns and rows of the terminal on stdin."""
    try:
        found = os.get_terminal_size(0)
    except OSError:
        return 80, 24
    return found.columns or 80, found.lines or 24


@contextmanager
def raw() -> Iterator[None]:
    """Every key goes through as a byte, ^C too."""
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def resizes() -> Iterator[int]:
    """A descriptor that can be read when the terminal's size has changed."""
    told, teller = os.pipe()
    os.set_blocking(teller, False)
    os.set_blocking(told, False)

    def tell(number: int, frame: object) -> None:  # noqa: ARG001 - signal's own form
        try:
            os.write(teller, b"\0")
        except BlockingIOError:
            return  # it is told already

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        yield told
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(told)
        os.close(teller)
