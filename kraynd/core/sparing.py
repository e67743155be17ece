"""What goes into the log of a thing that can fail a thousand times a second. Pure: time comes in."""

from typing import Final

AGAIN: Final = 60.0  # seconds until the same words are worth another line
GAP: Final = 1.0  # seconds between two lines, whatever they say


class Sparing:
    """One per thing that speaks. The newest words are always the ones to show; not all of them are to be logged."""

    __slots__ = ("_at", "_said")

    def __init__(self) -> None:
        self._said = ""
        self._at = float("-inf")

    def wants(self, words: str, now: float) -> bool:
        """Whether these words, at this time (monotonic seconds), are worth a line; if so they count as logged."""
        if now - self._at < (AGAIN if words == self._said else GAP):
            return False
        self._said, self._at = words, now
        return True
