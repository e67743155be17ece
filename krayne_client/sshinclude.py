"""The one line of ours in ~/.ssh/config: where it goes in, and how it goes out again.

Text in, text out, and one careful write. Invariant: every other byte of the user's file stays, and so do its mode and
the link it may be.
"""

import os
import tempfile

from krayne.errors import KrayneError

MADE = "# Made by krayne ssh-config --install, and removed with it while it holds nothing else.\n"
SSH_FOLDER_MODE, SSH_FILE_MODE = 0o700, 0o600


def line_for(config: str) -> str:
    """The Include of our configuration."""
    return f'Include "{config}"\n'


def installed(text: str | None, line: str) -> str:
    """The file's text with the line at its top, where it holds for every host and editors look for it.

    A file that was not there gets a note, so that taking the line out takes the file away too.
    """
    if text is None:
        return MADE + line
    if text.startswith((line, MADE + line)):
        return text
    return line + (removed(text, line) or "")


def removed(text: str | None, line: str) -> str | None:
    """The file's text without the line; None: there is to be no file."""
    if text is None or text == MADE + line:
        return None
    return "".join(one for one in text.splitlines(keepends=True) if one not in (line, MADE))


def user_config() -> str:
    """The user's own configuration."""
    return os.path.join(os.path.expanduser("~"), ".ssh", "config")


def read(path: str) -> str | None:
    """Its text, every byte of it; None when there is no file. Raises KrayneError."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KrayneError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error


def write(path: str, text: str | None, line: str) -> None:
    """Replace the file whole; a link stays a link. Raises KrayneError."""
    place = os.path.realpath(path)
    try:
        if text is None:
            os.unlink(place)
            return
        os.makedirs(os.path.dirname(place), mode=SSH_FOLDER_MODE, exist_ok=True)
        mode = os.stat(place).st_mode & 0o7777 if os.path.exists(place) else SSH_FILE_MODE
        if os.path.exists(place) and not os.access(place, os.W_OK):
            raise PermissionError(13, "it is read-only")
        _replace(place, text, mode)
    except OSError as error:
        raise KrayneError(
            f"{path} cannot be changed: {error.strerror}", hint=f"put this line at its top yourself: {line.strip()}"
        ) from error


def _replace(place: str, text: str, mode: int) -> None:
    handle, temporary = tempfile.mkstemp(prefix=".krayne-", dir=os.path.dirname(place))
    try:
        with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, place)
    except BaseException:
        os.unlink(temporary)
        raise
