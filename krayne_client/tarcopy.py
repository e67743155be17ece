"""cp's work: a tar stream through exec, packed and unpacked here without any trust in what the pod sends.

Invariant: nothing is ever written outside the target that was named, whatever names and links an archive holds.
"""

import argparse
import copy
import io
import os
import posixpath
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from typing import IO, Any

from krayne import frames
from krayne.errors import KrayneError, UsageError
from krayne_client import tarfilter, words
from krayne_client.asking import reach
from krayne_client.remote import Remote

Say = Callable[[int, str], None]
NO_TAR, IS_FOLDER, NO_PARENT, ABSENT = 90, 91, 92, 93  # exit codes of our own scripts
LAST_WORDS = 2000  # characters of tar's own complaints
PIECE = 1 << 18
# Arguments come as $1 ...: no quoting, no injection.
LOOK = f"""command -v tar >/dev/null 2>&1 || exit {NO_TAR}
test -d "$1" && exit {IS_FOLDER}
test -d "$2" || exit {NO_PARENT}"""
PACK = f"""command -v tar >/dev/null 2>&1 || exit {NO_TAR}
test -e "$1/$2" || test -h "$1/$2" || exit {ABSENT}
exec tar -cf - -C "$1" -- "$2" """
UNPACK = 'exec tar -xmof - -C "$1"'


def send(options: argparse.Namespace, here: str, there: str, say: Say | None) -> None:
    """A file or folder of ours into the pod. Raises KrayneError."""
    if not os.path.lexists(here):
        raise UsageError(f"there is no {here}", hint="check the path")
    there = _plain(there)
    folder, name = posixpath.split(there.rstrip("/") or "/")
    code = _ask(options, LOOK, there, folder or ".")
    if code == IS_FOLDER:
        folder, name = there, os.path.basename(os.path.realpath(here) if here in (".", "..") else here.rstrip("/"))
    elif code == NO_PARENT or there.endswith("/"):
        raise KrayneError(f"there is no folder {folder if code == NO_PARENT else there} in the pod of {options.name}",
                          kind="rejected", hint=f"krayne exec {options.name} -- mkdir -p PATH")  # fmt: skip
    with _run(options, UNPACK, folder or ".", stdin=True) as remote:
        heard = _Heard()
        try:
            with tarfile.open(fileobj=_Into(remote, heard, say), mode="w|", bufsize=PIECE) as archive:
                archive.add(here, arcname=name, filter=_modest)
            remote.put(frames.frame(frames.STDIN))
        except BrokenPipeError:
            pass  # the other side's tar has ended: what it said follows
        while (one := remote.next()) is not None:
            heard(*one)
        heard.check(remote.exit_code, options.name)


def fetch(options: argparse.Namespace, there: str, here: str, say: Say | None) -> None:
    """A file or folder of the pod's to here. Raises KrayneError."""
    folder, name = posixpath.split(_plain(there).rstrip("/"))
    if name in ("", ".", ".."):
        raise UsageError(f"{there} names no file and no folder to copy", hint="name the folder itself")
    target = os.path.join(here, name) if os.path.isdir(here) else here.rstrip("/")
    with _run(options, PACK, folder or ("/" if there.startswith("/") else "."), name) as remote:
        heard = _Heard()
        source = _From(remote, heard, say)
        try:
            _unpack(source, name, target)
        except tarfile.ReadError as error:
            _drain(source)
            heard.check(remote.exit_code, options.name, there)
            raise KrayneError(f"what the pod sent is no archive: {error}", kind="protocol") from error
        _drain(source)
        heard.check(remote.exit_code, options.name, there)


def _unpack(source: "_From", name: str, target: str) -> None:
    """Members are `name` or below it; they become `target` or go below it. Raises KrayneError."""
    with tarfile.open(fileobj=source, mode="r|", bufsize=PIECE) as archive:
        for member in archive:
            source.now = member.name
            parts = [one for one in member.name.split("/") if one not in ("", ".")]
            if parts[:1] != [name] or ".." in parts:
                raise KrayneError(f"the pod sent {member.name!r}, which was not asked for", kind="protocol")
            if len(parts) > 1:
                _below(archive, member, "/".join(parts[1:]), target)
            elif member.isdir():
                os.makedirs(target, exist_ok=True)
            elif member.isreg():
                _single(archive, member, target)
            else:
                raise KrayneError(f"{member.name} in the pod is neither a file nor a folder", kind="rejected")


def _below(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, target: str) -> None:
    moved = copy.copy(member)  # TarInfo.replace came with Python 3.11.4
    moved.name = path
    if member.islnk():  # its other name is told from the archive's own root
        parts = [one for one in member.linkname.split("/") if one not in ("", ".")]
        moved.linkname = "/".join(parts[1:])
    if hasattr(tarfile, "data_filter"):
        try:
            archive.extract(moved, target, filter="data")
        except tarfile.FilterError as error:
            words.aside(f"left out: {error}")
        return
    try:
        archive.extract(tarfilter.inside(moved, target), target)
    except tarfilter.RefusedError as error:
        words.aside(f"left out: {error}")


def _single(archive: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> None:
    """A file by itself: whole or not at all."""
    data: IO[bytes] | None = archive.extractfile(member)
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder {folder}", hint="check the path")
    handle, temporary = tempfile.mkstemp(prefix=".krayne-", dir=folder)
    try:
        with open(handle, "wb") as file:
            if data is not None:
                shutil.copyfileobj(data, file, PIECE)
            os.fchmod(file.fileno(), (member.mode or 0o644) & 0o755 | 0o600)
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _modest(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without our user and group; pipes and devices stay here."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        words.aside(f"left out: {member.name} is neither a file nor a folder")
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _plain(path: str) -> str:
    """A path that no program takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def _run(options: argparse.Namespace, script: str, *arguments: str, stdin: bool = False) -> Remote:
    params = {
        "name": options.name,
        "namespace": options.namespace,
        "worker": options.worker,
        "command": ["sh", "-c", script, "sh", *arguments],
        "stdin": stdin,
    }
    _, connected, first = reach(options).upgrade("pod.exec", params)
    return Remote(connected, first)


def _ask(options: argparse.Namespace, script: str, *arguments: str) -> int:
    """The exit code of a script in the pod."""
    with _run(options, script, *arguments) as remote:
        heard = _Heard()
        while (one := remote.next()) is not None:
            heard(*one)
        code = remote.exit_code or 0
        if code not in (0, IS_FOLDER, NO_PARENT):
            heard.check(code, options.name)
        return code


class _Heard:
    """What the other side's programs complain of."""

    def __init__(self) -> None:
        self._text = b""

    def __call__(self, channel: int, data: bytes) -> None:
        if channel == frames.STDERR:
            self._text = (self._text + data)[-LAST_WORDS:]

    def check(self, code: int | None, name: str, path: str = "") -> None:
        """Raises KrayneError unless all went well."""
        if code == 0:
            return
        said = " ".join(self._text.decode("utf-8", "replace").split())
        if code in (NO_TAR, 127):
            hint = f"krayne ssh-config --install, then scp FILE krayne-{name}:"
            raise KrayneError(f"the pod of {name} has no tar, and copying needs it", kind="rejected", hint=hint)
        if code == ABSENT:
            raise UsageError(f"there is no {path} in the pod of {name}", hint=f"krayne exec {name} -- ls")
        raise KrayneError(f"the copy failed in the pod of {name}: {said or f'exit code {code}'}", kind="rejected")


class _Into(io.RawIOBase):
    """The archive being written, as the command's input."""

    def __init__(self, remote: Remote, heard: _Heard, say: Say | None) -> None:
        self._remote, self._heard, self._say = remote, heard, say
        self._size = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """All of it. Raises BrokenPipeError once the other side has ended."""
        if not self._remote.send(bytes(data), self._heard):
            raise BrokenPipeError
        self._size += len(data)
        if self._say is not None:
            self._say(self._size, "sent")
        return len(data)


class _From(io.RawIOBase):
    """The archive being read, from the command's output."""

    def __init__(self, remote: Remote, heard: _Heard, say: Say | None) -> None:
        self._remote, self._heard, self._say = remote, heard, say
        self._rest = b""
        self._size = 0
        self.now = ""

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes; none at the end."""
        while not self._rest and (one := self._remote.next()) is not None:
            if one[0] == frames.STDOUT:
                self._rest = one[1]
            else:
                self._heard(*one)
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        self._size += len(data)
        if self._say is not None:
            self._say(self._size, self.now)
        return data


def _drain(source: _From) -> None:
    while source.read(PIECE):
        pass


__all__: Sequence[str] = ("fetch", "send")
