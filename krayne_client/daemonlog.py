"""`krayne daemon logs`: the journal where our unit is installed, else the rotated file. Becomes what reads it.

Never asks the daemon: its log is wanted most when it is gone.
"""

import os

from krayne import paths
from krayne.errors import KrayneError, UsageError

LINES = 200  # the last ones, when no number is asked for
JOURNAL = "/run/systemd/journal/stdout"  # where a unit's output goes, if there is a journal


def read_log(lines: str | None, *, follow: bool) -> int:
    """Become journalctl or tail. Raises UsageError, KrayneError when there is no log."""
    if lines is not None and not lines.isdecimal():
        raise UsageError(f"{lines!r} is no number of lines", hint="krayne daemon logs -n 50")
    command = reader(lines or str(LINES), follow=follow)
    os.execvp(command[0], command)  # noqa: S606 - the system's own reader, no shell


def reader(lines: str, *, follow: bool) -> list[str]:
    """The command that shows the log. Raises KrayneError."""
    from krayne_client import service

    path = paths.log_file()
    # Also of a unit that does not run: its last words are there.
    if service.installed() and os.path.exists(JOURNAL):
        return ["journalctl", "--user", "-u", service.UNIT, "--no-pager", "-n", lines, *(["-f"] if follow else [])]
    if not os.path.exists(path):
        raise KrayneError(f"there is no log at {path} yet", hint="krayne daemon start")
    # -F: by name, so that it goes on in the new file when the daemon rotates.
    return ["tail", "-n", lines, *(["-F"] if follow else []), path]
