"""This shell's PATH for a daemon that lacks a credential plugin: given when it asks, and recorded in its unit.

A service starts with the PATH it was installed with; what was installed since is on the user's alone.
"""

import os

from krayne.errors import KrayneError
from krayne_client import words
from krayne_client.connection import connect

GIVE_SECONDS = 30.0  # the daemon tries to connect before it answers


def give_path() -> bool:
    """Offer it; whether the daemon took it, because it has what was missing."""
    # Not every byte of a PATH is text.
    path = os.environ.get("PATH", "").encode(errors="ignore").decode()
    found = connect()
    if found is None:
        return False
    with found:
        found.gives_path = False
        try:
            if not found.call("daemon.path", {"path": path}, seconds=GIVE_SECONDS)["taken"]:
                return False
        except KrayneError:  # what was asked for is answered without it
            return False
    words.aside("the daemon lacked the credential plugin and looks for it in this shell's PATH now")
    _record()
    return True


def _record() -> None:
    """For the next start. A unit that cannot be written costs nothing today."""
    from krayne_client import service

    try:
        if service.installed() and service.record_path():
            words.aside(f"{service.unit_path()} has it too")
    except (KrayneError, OSError) as error:
        words.aside(f"{service.unit_path()} keeps the old PATH: {error}")
