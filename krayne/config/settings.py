"""User-level settings, kept in `config.yaml` of the home folder: which kubeconfig and which context.

Saved atomically and readable by their owner alone. An absent file means defaults; a malformed one is an error with a
place, never silently the defaults, because the defaults could be another Kubernetes cluster.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from krayne import paths
from krayne.config.document import Document, read_document
from krayne.config.explain import nearest
from krayne.config.loading import dump_plain, read_bounded
from krayne.config.problems import InvalidConfigError, Problem, clipped, dotted, invalid, shown
from krayne.errors import StateError


@dataclass
class KrayneSettings:
    """Which kubeconfig file and context to use; None means the usual ones."""

    kubeconfig: str | None = None
    kube_context: str | None = None


def load_krayne_settings() -> KrayneSettings:
    """The saved settings, or defaults when there are none; ConfigValidationError when the file is malformed."""
    path = Path(paths.settings_file())
    document = read_document(read_bounded(path, absent=b""), str(path))
    if document.data is None:
        return KrayneSettings()
    if not isinstance(document.data, dict):
        raise invalid(str(path), "settings are fields, such as kube_context: prod", place=document.values[()])
    problems = [problem for name in document.data if (problem := _check(str(path), document, name))]
    if problems:
        raise InvalidConfigError(problems)
    return KrayneSettings(**document.data)


def _check(file: str, document: Document, name: str) -> Problem | None:
    known = [field.name for field in fields(KrayneSettings)]
    value = document.data[name]
    place = document.values[(name,)]
    field = dotted((name,))
    if name not in known:
        place = document.keys[(name,)]
        near = nearest(name, known)
        says = f"{field} is not a setting" + (f"; did you mean {near}?" if near else "")
        hint = f"settings: {', '.join(known)}"
        return Problem(file, place.line, field, says, place.column, hint)
    if value is None or (isinstance(value, str) and value):
        return None
    if isinstance(value, bool | int | float):
        word = clipped(document.words[(name,)])
        says = f'{field} must be text: write "{word}" in quotes'
    else:
        says = f"{field} must not be empty" if value == "" else f"{field} must be text, not {shown(value)}"
    return Problem(file, place.line, field, says, place.column)


def save_krayne_settings(settings: KrayneSettings) -> None:
    """Write the settings, creating the home folder if needed; StateError when the disk refuses."""
    path = Path(paths.settings_file())
    kept = {name: value for name, value in asdict(settings).items() if value is not None}
    with _explained(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, dump_plain(kept).encode())


def clear_krayne_settings() -> None:
    """Remove the settings file if it exists; StateError when the disk refuses."""
    path = Path(paths.settings_file())
    with _explained(path):
        path.unlink(missing_ok=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        says = f"the settings in {path} cannot be changed: {error.strerror or error}"
        raise StateError(says, hint="check the folder's owner, mode and free space") from error


def _replace(path: Path, content: bytes) -> None:
    """Readers see the old file or the whole new one, also after a power cut."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:  # mkstemp made it 0600
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
