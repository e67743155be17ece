"""How a member of an untrusted archive may be written, for a Python whose tarfile has no filters (before 3.11.4).

Invariant: what is let through lands below the base, and no link it makes points out of it.
"""

import copy
import os
import tarfile


class RefusedError(Exception):
    """A member that must not be written; its text says why."""


def inside(member: tarfile.TarInfo, base: str) -> tarfile.TarInfo:
    """The member with harmless rights and our own user. Raises RefusedError."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise RefusedError(f"{member.name!r} is neither a file nor a folder")
    root = os.path.realpath(base)
    if not _below(root, member.name):
        raise RefusedError(f"{member.name!r} would be written outside {base!r}")
    if member.issym() and not _below(root, os.path.join(os.path.dirname(member.name), member.linkname)):
        raise RefusedError(f"{member.name!r} would link to {member.linkname!r}, outside {base!r}")
    if member.islnk() and not _below(root, member.linkname):
        raise RefusedError(f"{member.name!r} would link to {member.linkname!r}, outside {base!r}")
    safe = copy.copy(member)
    safe.uid, safe.gid, safe.uname, safe.gname = os.geteuid(), os.getegid(), "", ""
    if not member.issym():
        safe.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return safe


def _below(root: str, path: str) -> bool:
    """Whether the path, every link on its way followed, is root or below it. An absolute path is not."""
    return not os.path.isabs(path) and os.path.commonpath([root, os.path.realpath(os.path.join(root, path))]) == root
