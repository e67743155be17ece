"""The declared clusters: every cluster file below ~/.krayne/clusters, as one stable, whole snapshot.

Events lie, so a whole scan is the input: a change counts once two scans agree. A broken or half-written file keeps its
last good spec; a vanished one is reported as missing and never as a deletion. Writes are atomic.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import anyio
import msgspec
import yaml
from anyio import to_thread

from kraynd.core.model import ClusterKey
from kraynd.core.plan import Declared, FileProblem, Snapshot
from kraynd.core.rounds import ROUND, until_round
from kraynd.core.yamledit import CannotEditError, set_value
from kraynd.local.home import (
    Home,
    UnsafeFileError,
    atomic_write,
    read_own_file,
    remove_quietly,
    sync_folder,
)
from krayne.config import ClusterConfig, dump_cluster_yaml, parse_cluster_yaml
from krayne.errors import (
    ClusterAlreadyExistsError,
    ClusterNotFoundError,
    ConfigValidationError,
    StateError,
)

FILE_LIMIT = 256 * 1024  # bytes; the largest useful cluster file is a few KiB
MOST_FILES = 2_000  # past this the folder is not ours by mistake
MOST_DEPTH = 8  # folders below clusters/
SCAN_EVERY = 0.3  # seconds between two looks: home folders on NFS give no events, and an edit acts within a second
SCAN_QUIET = ROUND  # ... once nothing has changed for QUIET_AFTER: still within a second, at a third of the cost
QUIET_AFTER = 60.0  # seconds
SETTLE = 0.1  # seconds between the two scans that must agree after a change

Stamp = tuple[int, int, int, int]  # inode, size, mtime, ctime


class _File(msgspec.Struct, frozen=True):
    """One cluster file as last read. `config` is the last good one, also while the file is broken."""

    stamp: Stamp
    config: ClusterConfig | None
    message: str = ""
    hint: str = ""

    @property
    def key(self) -> ClusterKey | None:
        return None if self.config is None else ClusterKey(self.config.namespace, self.config.name)


class Desired:
    """Owns the clusters folder. `snapshot` is always the newest stable one."""

    def __init__(self, home: Home, clock: Callable[[], float] = anyio.current_time) -> None:
        self._home = home
        self._clock = clock
        self._files: dict[str, _File] = {}
        self._missing: dict[ClusterKey, float] = {}
        self._poked = anyio.Event()
        self._writing = anyio.Lock()
        self._unreadable = ""
        self.snapshot = Snapshot(clusters={}, problems=(), healthy=False, marker=False, missing={})

    async def run(self, on_change: Callable[[], None]) -> None:
        """Look at the folder until cancelled; `on_change` after each new snapshot."""
        changed = self._clock()
        while True:
            if await self._look():
                changed = self._clock()
                on_change()
            every = SCAN_EVERY if self._clock() - changed < QUIET_AFTER else SCAN_QUIET
            with anyio.move_on_after(until_round(anyio.current_time(), every)):
                await self._poked.wait()
            self._poked = anyio.Event()

    def poke(self) -> None:
        """Look now rather than at the next turn."""
        self._poked.set()

    async def refresh(self) -> Snapshot:
        """One look now; the snapshot it leads to."""
        await self._look()
        return self.snapshot

    async def write(self, config: ClusterConfig, *, replace: bool, text: str | None = None) -> str:
        """Declare a cluster in its file and return the file's path below clusters/.

        `text` is kept to the letter where the user wrote one. Raises ClusterAlreadyExistsError, StateError.
        """
        key = ClusterKey(config.namespace, config.name)
        async with self._writing:
            self.check_free(key, replace=replace)
            declared = self.snapshot.clusters.get(key)
            source = declared.source if declared is not None else _file_name(key)
            content = text if text is not None else dump_cluster_yaml(config)
            await to_thread.run_sync(self._put, source, content)
            await self._look()
        return source

    def check_free(self, key: ClusterKey, *, replace: bool) -> None:
        """Raises ClusterAlreadyExistsError when a file declares the cluster and it is not to be replaced."""
        declared = self.snapshot.clusters.get(key)
        if declared is not None and not replace:
            raise ClusterAlreadyExistsError(
                f"cluster {key} is already declared in clusters/{declared.source}",
                hint=f"krayne apply -f FILE changes it; krayne describe {key.name}",
            )

    async def remove(self, key: ClusterKey) -> None:
        """Take the cluster's file away, because its user said so. A cluster without one is fine."""
        async with self._writing:
            declared = self.snapshot.clusters.get(key)
            if declared is None:
                self._missing.pop(key, None)
                return
            await to_thread.run_sync(self._delete, declared.source)
            self._files.pop(declared.source, None)
            await self._look()
            self._missing.pop(key, None)
            self._publish()

    async def edit(self, key: ClusterKey, changes: Mapping[tuple[str | int, ...], str | int]) -> None:
        """Change values of a cluster file in place, comments kept. Raises ConfigValidationError and keeps the file."""
        async with self._writing:
            declared = self.snapshot.clusters.get(key)
            if declared is None:
                raise ClusterNotFoundError(f"no file declares cluster {key}", hint="krayne ls")
            path = os.path.join(self._home.clusters, declared.source)
            data, _ = await to_thread.run_sync(read_own_file, path, FILE_LIMIT)
            text = _edited(data.decode(), changes, declared)
            parse_cluster_yaml(text.encode(), source=declared.source)
            await to_thread.run_sync(self._put, declared.source, text)
            await self._look()

    async def read(self, key: ClusterKey) -> str:
        """The text of the file that declares a cluster, as it is on disk now. Raises ClusterNotFoundError."""
        declared = self.snapshot.clusters.get(key)
        if declared is None:
            raise ClusterNotFoundError(f"no file declares cluster {key}", hint="krayne ls")
        path = os.path.join(self._home.clusters, declared.source)
        try:
            data, _ = await to_thread.run_sync(read_own_file, path, FILE_LIMIT)
        except OSError as error:
            raise StateError(
                f"clusters/{declared.source} cannot be read: {error.strerror}", hint="krayne ls"
            ) from error
        return data.decode("utf-8", "replace")

    def forget_missing(self, key: ClusterKey) -> None:
        """The user has dealt with a vanished file."""
        self._missing.pop(key, None)
        self._publish()

    def _put(self, source: str, content: str) -> None:
        path = os.path.join(self._home.clusters, source)
        try:
            self._home.mark()
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            atomic_write(path, content.encode())
        except OSError as error:
            raise StateError(
                f"clusters/{source} cannot be written: {os.strerror(error.errno or 0)}",
                hint="nothing was changed; check the disk and the folder's permissions",
            ) from error

    def _delete(self, source: str) -> None:
        path = os.path.join(self._home.clusters, source)
        remove_quietly(path)
        sync_folder(os.path.dirname(path))

    async def _look(self) -> bool:
        """Scan, read what changed, and publish once two scans agree. True when the snapshot is a new one."""
        before = self.snapshot
        stamps, marked = await to_thread.run_sync(self._seen)
        same = stamps == {name: file.stamp for name, file in self._files.items()}
        if same and marked == before.healthy:
            return False
        if stamps is not None and not same:
            await anyio.sleep(SETTLE)
            if await to_thread.run_sync(self._stamps) != stamps:
                self.poke()  # still being written: look again at once
                return False
            await to_thread.run_sync(self._read, stamps, self._clock())
        self._publish()
        return self.snapshot != before

    def _seen(self) -> tuple[dict[str, Stamp] | None, bool]:
        """The stamps, and whether the home is as it should be: one trip to a worker thread."""
        return self._stamps(), self._home.healthy()

    def _stamps(self) -> dict[str, Stamp] | None:
        """Every cluster file's stamp, or None (and `_unreadable`) when the folder cannot be listed whole."""
        try:
            found = dict(_walk(self._home.clusters, "", 0))
        except OSError as error:
            self._unreadable = f"the clusters folder cannot be read: {os.strerror(error.errno or 0)}"
            return None
        self._unreadable = ""
        return found

    def _read(self, stamps: Mapping[str, Stamp], now: float) -> None:
        for source, stamp in stamps.items():
            known = self._files.get(source)
            if known is None or known.stamp != stamp:
                self._files[source] = fresh = self._read_one(source, stamp, known)
                if known is not None and known.key is not None and known.key != fresh.key:
                    self._missing.setdefault(known.key, now)
        for source in [name for name in self._files if name not in stamps]:
            gone = self._files.pop(source)
            if gone.key is not None:
                self._missing.setdefault(gone.key, now)

    def _read_one(self, source: str, stamp: Stamp, known: _File | None) -> _File:
        last_good = known.config if known else None
        try:
            data, _ = read_own_file(os.path.join(self._home.clusters, source), FILE_LIMIT)
            return _File(stamp, parse_cluster_yaml(data, source=source))
        except UnsafeFileError as error:
            return _File(stamp, last_good, f"{source} {error}", "put a plain file of your own there")
        except ConfigValidationError as error:
            return _File(stamp, last_good, error.message, error.hint)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            return _File(stamp, last_good, f"{source} cannot be read: {why}", "check its permissions")

    def _publish(self) -> None:
        clusters: dict[ClusterKey, Declared] = {}
        problems: list[FileProblem] = []
        for source in sorted(self._files):
            file = self._files[source]
            if file.message:
                problems.append(FileProblem(source, file.key, file.message, file.hint))
            if file.config is None or file.key is None:
                continue
            if (first := clusters.get(file.key)) is not None:
                problems.append(twice := _twice(file.key, first, source))
                clusters[file.key] = msgspec.structs.replace(first, problem=first.problem or twice.message)
                continue
            clusters[file.key] = Declared(file.key, file.config, source, file.message)
        if self._unreadable:
            problems.append(FileProblem("", None, self._unreadable, "nothing is deleted because of it"))
        for key in clusters:
            self._missing.pop(key, None)
        healthy = self._home.healthy() and not self._unreadable
        new = Snapshot(clusters, tuple(problems), healthy, healthy, dict(self._missing))
        if new != self.snapshot:
            self.snapshot = new


def _twice(key: ClusterKey, first: Declared, second: str) -> FileProblem:
    return FileProblem(
        second,
        key,
        f"cluster {key} is declared twice, in {first.source} and in {second}; {first.source} is used",
        f"remove one of the two, or give {second} another name",
    )


def _file_name(key: ClusterKey) -> str:
    if key.namespace == "default":
        return f"{key.name}.yaml"
    return os.path.join(key.namespace, f"{key.name}.yaml")


def _edited(text: str, changes: Mapping[tuple[str | int, ...], str | int], declared: Declared) -> str:
    try:
        for path, value in changes.items():
            text = set_value(text, path, value)
    except (CannotEditError, yaml.YAMLError):
        return dump_cluster_yaml(_changed(declared.config, changes))
    return text


def _changed(config: ClusterConfig, changes: Mapping[tuple[str | int, ...], str | int]) -> ClusterConfig:
    data: Any = config.model_dump()
    for path, value in changes.items():
        node: Any = data
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value
    return ClusterConfig.model_validate(data)


def _walk(top: str, below: str, depth: int) -> Iterator[tuple[str, Stamp]]:
    count = 0
    with os.scandir(os.path.join(top, below)) as entries:
        for entry in entries:
            name = os.path.join(below, entry.name)
            if entry.name.startswith("."):
                continue
            is_yaml = entry.name.endswith((".yaml", ".yml"))
            if not is_yaml and depth < MOST_DEPTH and entry.is_dir(follow_symlinks=False):
                yield from _walk(top, name, depth + 1)
            if not is_yaml:
                continue
            count += 1
            if count > MOST_FILES:
                raise OSError(errno.E2BIG, "too many files")
            try:
                st = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield name, (st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
