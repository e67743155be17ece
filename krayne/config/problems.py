"""One wrong place in a configuration, and the error that carries all of them.

Problems travel inside `KrayneError.data`, so they survive the control socket. Values of environment variables and
other possible secrets are never part of a problem.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from krayne.errors import ConfigValidationError, KrayneError

Path = tuple[str | int, ...]
# A broken generator can produce thousands of equal mistakes; a person reads the first few.
PROBLEM_LIMIT = 20
# Parts of a cluster file whose values may be secrets: their text is never repeated in a message.
_SECRET_PARTS = frozenset({"env", "initContainers"})


class Place(NamedTuple):
    """Where something stands in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where (file and line, or the override's key), which field, a sentence, what to do next."""

    file: str
    line: int | None
    field: str
    message: str
    column: int | None = None
    hint: str = ""
    override: str = ""

    def __str__(self) -> str:
        if self.override:
            return f"override {self.override}: {self.message}"
        if self.line is None:
            return f"{self.file}: {self.message}"
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class InvalidConfigError(ConfigValidationError):
    """A configuration that cannot be used; the first line of the message is its first problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        shown = problems[:PROBLEM_LIMIT]
        lines = [str(problem) for problem in shown]
        if len(problems) > len(shown):
            lines.append("and more problems")
        super().__init__(
            "\n".join(lines),
            hint=next((problem.hint for problem in shown if problem.hint), ""),
            data={"problems": [asdict(problem) for problem in shown]},
        )

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every problem found, in the order of the file; at most `PROBLEM_LIMIT`."""
        return problems_of(self)


def problems_of(error: KrayneError) -> tuple[Problem, ...]:
    """The problems an error carries, also after it came over the control socket."""
    return tuple(Problem(**one) for one in error.data.get("problems", ()))


def invalid(
    file: str, message: str, *, place: Place | None = None, field: str = "", hint: str = ""
) -> InvalidConfigError:
    """An error with a single problem."""
    line, column = place or (None, None)
    return InvalidConfigError([Problem(file, line, field, message, column=column, hint=hint)])


def dotted(path: Iterable[str | int]) -> str:
    """`("worker_groups", 1, "max_replicas")` as a person writes it: `worker_groups[1].max_replicas`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + clipped(part)
    return text


def clipped(text: str, limit: int = 60) -> str:
    """`text` made safe and short enough to stand in a message."""
    safe = "".join(char if char.isprintable() else "?" for char in text[: limit + 1])
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


def is_secret(path: Iterable[str | int]) -> bool:
    """Whether the value at `path` may be a secret, not to be repeated in a message."""
    return not _SECRET_PARTS.isdisjoint(path)


def shown(value: Any) -> str:
    """A scalar as it would stand in a file, clipped; containers by their kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{clipped(value)}"'
    if isinstance(value, int | float):
        return clipped(str(value))
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list | tuple) else "a mapping"
