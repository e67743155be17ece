"""Ray's job API over a dashboard's local port: upload a folder, submit, ask, stop. Plain HTTP, blocking.

Knows no cluster and prints nothing. Every failure is a KrayneError.
"""

import hashlib
import http.client
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from krayne.errors import KrayneError, UsageError

ANSWER_SECONDS = 90.0  # a forward holds a connection half a minute while the head is being replaced
UPLOAD_LIMIT = 200 * 1024 * 1024  # bytes zipped; Ray keeps packages in the head's memory
FILES_LIMIT = 20_000
NEVER = (".git", "__pycache__", "*.pyc", ".venv", "venv", "node_modules", ".mypy_cache", ".ruff_cache", ".DS_Store")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files make the same package, which is then uploaded once

Job = dict[str, Any]


class Jobs:
    """The jobs of the cluster whose dashboard answers on a local port."""

    def __init__(self, cluster: str, port: int) -> None:
        self._cluster = cluster
        self._port = port

    def every(self) -> list[Job]:
        """All jobs, the newest last."""
        found: list[Job] = self._ask("GET", "/api/jobs/")
        return sorted(found, key=lambda one: one.get("start_time") or 0)

    def get(self, job: str) -> Job:
        """One job. Raises KrayneError when there is none."""
        found: Job = self._ask("GET", f"/api/jobs/{quote(job, safe='')}")
        return found

    def logs(self, job: str) -> str:
        """Everything it has written."""
        return str(self._ask("GET", f"/api/jobs/{quote(job, safe='')}/logs").get("logs") or "")

    def stop(self, job: str) -> bool:
        """Whether there was something to stop."""
        return bool(self._ask("POST", f"/api/jobs/{quote(job, safe='')}/stop").get("stopped"))

    def submit(self, entrypoint: str, runtime_env: dict[str, Any], job: str | None) -> str:
        """Begin it; its id."""
        body = {"entrypoint": entrypoint, "runtime_env": runtime_env, **({"submission_id": job} if job else {})}
        return str(self._ask("POST", "/api/jobs/", json.dumps(body).encode())["submission_id"])

    def upload(self, folder: str, excludes: Iterable[str]) -> tuple[str, int]:
        """The folder as a package Ray unpacks as a job's working directory: its address, and the bytes sent."""
        with tempfile.TemporaryFile() as file:
            size = pack(Path(folder), (*NEVER, *excludes), file)
            file.seek(0)
            name = f"_ray_pkg_{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}.zip"
            path = f"/api/packages/gcs/{name}"
            if self._status("GET", path) == http.HTTPStatus.OK:
                return f"gcs://{name}", 0
            file.seek(0)
            self._ask("PUT", path, file, size=size)
        return f"gcs://{name}", size

    def _ask(self, method: str, path: str, body: bytes | IO[bytes] | None = None, size: int | None = None) -> Any:
        status, data = self._exchange(method, path, body, size)
        text = data.decode("utf-8", "replace")
        if status == http.HTTPStatus.NOT_FOUND:
            raise KrayneError(f"{self._cluster} knows no such job", hint=f"krayne job ls {self._cluster}")
        if status >= http.HTTPStatus.BAD_REQUEST:
            last = text.strip().splitlines()[-1:] or [str(status)]
            raise KrayneError(f"Ray on {self._cluster} refuses: {last[0][:300]}", hint="krayne job submit --help")
        try:
            return json.loads(text) if text.strip() else {}
        except ValueError:
            raise self._strange() from None

    def _status(self, method: str, path: str) -> int:
        return self._exchange(method, path, None, None)[0]

    def _exchange(self, method: str, path: str, body: bytes | IO[bytes] | None, size: int | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        headers = {"Content-Type": "application/json"} if isinstance(body, bytes) else {}
        if size is not None:
            headers["Content-Length"] = str(size)
        try:
            connection.request(method, path, body=body, headers=headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except TimeoutError as error:
            raise KrayneError(
                f"the dashboard of {self._cluster} does not answer", hint=f"krayne describe {self._cluster}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._strange() from error
        finally:
            connection.close()

    def _strange(self) -> KrayneError:
        return KrayneError(
            f"the dashboard of {self._cluster} ends connections or does not speak Ray's job API",
            hint=f"krayne describe {self._cluster}; its image needs ray[default]",
        )


def pack(folder: Path, excludes: Iterable[str], file: IO[bytes]) -> int:
    """Zip a folder's files into `file`; the size. Raises UsageError for one that is too large."""
    patterns = tuple(excludes)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        for count, name in enumerate(chosen_files(folder, patterns), 1):
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (folder / name).stat().st_mode << 16
            with (folder / name).open("rb") as source, package.open(info, "w", force_zip64=True) as target:
                while block := source.read(1 << 20):
                    target.write(block)
                    if file.tell() > UPLOAD_LIMIT or count > FILES_LIMIT:
                        raise UsageError(
                            f"{folder} is more than {UPLOAD_LIMIT >> 20} MiB zipped or {FILES_LIMIT} files",
                            hint="--exclude 'data/*' leaves some out; --working-dir takes another folder",
                        )
    return file.tell()


def chosen_files(folder: Path, patterns: tuple[str, ...]) -> Iterator[str]:
    """The files to send, by their path below the folder; a pattern matches a name or a path. Links are followed."""
    for where, below, names in os.walk(folder):
        inside = os.path.relpath(where, folder)
        at = "" if inside == "." else f"{inside}/"
        below[:] = sorted(name for name in below if not _left_out(at + name, patterns))
        for name in sorted(names):
            path = at + name
            if not _left_out(path, patterns) and os.path.isfile(os.path.join(folder, path)):
                yield path


def _left_out(path: str, patterns: tuple[str, ...]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatch(path, one.rstrip("/")) or fnmatch(name, one.rstrip("/")) for one in patterns)
