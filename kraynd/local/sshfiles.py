"""Our files for ssh in ~/.krayne/ssh: written when their content changes, whole or not at all.

Never touches ~/.ssh: that is the client's, and only when it is asked to.
"""

import logging
import os

from kraynd.local.home import UnsafeFileError, atomic_write, private_dir, read_own_file
from krayne import paths
from krayne.errors import StateError

log = logging.getLogger("kraynd.ssh")

READ_LIMIT = 4 * 1024 * 1024  # bytes of a known_hosts of ours; a thousand clusters are about 150 KiB


class SshFiles:
    """The two files as they stand on disk."""

    def __init__(self) -> None:
        self.trouble = ""
        self._written = {path: _read(path) for path in (paths.known_hosts_file(), paths.ssh_config_file())}

    @property
    def known_hosts(self) -> str:
        """What known_hosts holds."""
        return self._written[paths.known_hosts_file()]

    @property
    def config(self) -> str:
        """What the configuration holds."""
        return self._written[paths.ssh_config_file()]

    def update(self, *, known_hosts: str, config: str) -> None:
        """Make the files say this. A disk that takes nothing is told once and tried again at the next change."""
        # Keys first: a host without its key is refused, a key without its host is nothing.
        for path, text in ((paths.known_hosts_file(), known_hosts), (paths.ssh_config_file(), config)):
            if self._written[path] == text and not self.trouble:
                continue
            try:
                private_dir(paths.ssh_dir(), "the ssh folder")
                atomic_write(path, text.encode())
                self._written[path], self.trouble = text, ""
            except (OSError, StateError) as error:
                said = f"{path} cannot be written: {error}"
                if said != self.trouble:
                    log.warning("%s", said)
                self.trouble = said


def _read(path: str) -> str:
    try:
        return read_own_file(path, READ_LIMIT)[0].decode()
    except (OSError, UnsafeFileError, UnicodeDecodeError) as error:
        if os.path.lexists(path):
            log.warning("%s is written anew: %s", path, error)
        return ""
