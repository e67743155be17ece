"""The sandbox's state on disk: one SQLite file with the objects and the last changes of each.

Owns durability and the history that watches resume from. A write is one transaction: a full disk leaves nothing half.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from krayne_sandbox.core.meta import Json
from krayne_sandbox.core.statuses import internal
from krayne_sandbox.kinds import KINDS, Kind

ADDED: Final = "ADDED"
MODIFIED: Final = "MODIFIED"
DELETED: Final = "DELETED"
HISTORY: Final = 4000  # changes kept for watches that come back: minutes of a busy sandbox, a few MB of disk
TRIM_EACH: Final = 200  # changes between two clearings of the history

_BY_RESOURCE: Final = {one.resource: one for one in KINDS}
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS objects (kind TEXT, namespace TEXT, name TEXT, body TEXT NOT NULL,
  PRIMARY KEY (kind, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (revision INTEGER PRIMARY KEY, kind TEXT NOT NULL, type TEXT NOT NULL,
  body TEXT NOT NULL, before TEXT);
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


class Change(NamedTuple):
    """What happened to an object. `before` is what it was, None when it is new."""

    type: str
    object: Json
    before: Json | None


class Entry(NamedTuple):
    """A change and where it belongs."""

    revision: int
    kind: Kind
    namespace: str
    name: str
    change: Change


class StateError(OSError):
    """The file cannot be used, in a sentence."""


def _unusable(path: str, error: sqlite3.Error) -> StateError:
    if "locked" in str(error):
        return StateError(f"another sandbox is using {path}")
    return StateError(f"the sandbox's state in {path} cannot be read: {error}")


class Journal:
    """The file, held by one process. Raises StateError; StatusError (InternalError) when it cannot be written."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0.0)
        try:
            self._prepare(path)
            marks = dict(self._db.execute("SELECT name, value FROM marks"))
        except sqlite3.Error as error:
            self._db.close()
            raise _unusable(path, error) from error
        self.revision = int(marks.get("revision", 0))
        self.compacted = int(marks.get("compacted", 0))

    def _prepare(self, path: str) -> None:
        if path != ":memory:":
            Path(path).chmod(0o600)
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # two sandboxes would each believe their own memory
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Write everything down and let go of the file."""
        self._db.close()

    def objects(self) -> Iterable[tuple[Kind, Json]]:
        """All that is stored."""
        for kind, body in self._db.execute("SELECT kind, body FROM objects"):
            if kind in _BY_RESOURCE:
                yield _BY_RESOURCE[kind], json.loads(body)

    def write(self, entries: Sequence[Entry]) -> None:
        """All of it or nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for entry in entries:
                self._write(entry)
            revision = entries[-1].revision
            self._db.execute("INSERT OR REPLACE INTO marks VALUES ('revision', ?)", (revision,))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise internal(f"the sandbox's state cannot be written: {error}") from error
        self.revision = revision
        if revision - self.compacted > HISTORY + TRIM_EACH:
            self.compact(revision - HISTORY)

    def _write(self, entry: Entry) -> None:
        kind, change = entry.kind.resource, entry.change
        body = json.dumps(change.object, separators=(",", ":"))
        before = None if change.before is None else json.dumps(change.before, separators=(",", ":"))
        row = (entry.revision, kind, change.type, body, before)
        self._db.execute("INSERT INTO changes VALUES (?, ?, ?, ?, ?)", row)
        place = (kind, entry.namespace, entry.name)
        if change.type == DELETED:
            self._db.execute("DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?", place)
        else:
            self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (*place, body))

    def since(self, kind: Kind, revision: int) -> list[Change]:
        """A kind's changes after a revision that is not compacted."""
        query = "SELECT type, body, before FROM changes WHERE kind = ? AND revision > ? ORDER BY revision"
        found = self._db.execute(query, (kind.resource, revision))
        return [Change(how, json.loads(body), before and json.loads(before)) for how, body, before in found]

    def compact(self, revision: int) -> None:
        """Forget the history up to a revision. A disk that is too full for it is tried again at the next write."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM changes WHERE revision <= ?", (revision,))
            self._db.execute("INSERT OR REPLACE INTO marks VALUES ('compacted', ?)", (revision,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            return
        self.compacted = revision

    def limit_pages(self, pages: int) -> None:
        """Let the file grow no further: a disk quota, and how tests fill the disk."""
        self._db.execute(f"PRAGMA max_page_count={int(pages)}")
