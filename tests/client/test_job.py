"""`krayne job` against an HTTP server that keeps jobs as Ray's dashboard does; what is packed, and what is not."""

import io
import json
import signal
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from krayne.errors import UsageError
from krayne.messages import ServiceView
from krayne_client import rayjobs
from krayne_client.rayjobs import NEVER, chosen_files, pack
from tests.client.test_cli import RUN, Shell
from tests.client.test_tending import DEMO
from tests.daemon.backend import MemoryBackend

pytestmark = pytest.mark.anyio


class Dashboard:
    """Jobs that end once they were looked at `looks` times, with a code."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.packages: dict[str, bytes] = {}
        self.looks = 2
        self.code = 0
        self.log = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if parts[1] == "packages":
            if method == "PUT":
                self.packages[parts[3]] = body
            return (200 if parts[3] in self.packages else 404), {}
        if len(parts) == 2 and method == "POST":
            asked = json.loads(body)
            name = asked.get("submission_id") or "raysubmit_1"
            self.jobs[name] = {**asked, "submission_id": name, "status": "RUNNING", "start_time": len(self.jobs)}
            return 200, {"submission_id": name}
        if len(parts) == 2:
            return 200, list(self.jobs.values())
        found = self.jobs.get(parts[2])
        if found is None:
            return 404, "no such job"
        return 200, self._about(found, parts[3:])

    def _about(self, found: dict[str, Any], what: list[str]) -> Any:
        if what == ["logs"]:
            self.log += "line\n"
            return {"logs": self.log}
        if what == ["stop"]:
            running, found["status"] = found["status"] == "RUNNING", "STOPPED"
            return {"stopped": running}
        self.looks -= 1
        if self.looks <= 0 and found["status"] == "RUNNING":
            found |= {"status": "FAILED" if self.code else "SUCCEEDED", "driver_exit_code": self.code, "message": "end"}
        return found


@pytest.fixture
def dashboard(backend: MemoryBackend) -> Iterator[Dashboard]:
    made = Dashboard()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            status, found = made.answer(self.command, self.path, self.rfile.read(size))
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _serve  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name upstream
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = server.server_address[1]
    view = ServiceView("dashboard", 8265, port, f"http://127.0.0.1:{port}", "ready")
    backend.put(msgspec.structs.replace(backend.views[DEMO], services=(view,)))
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_job_is_sent_followed_and_its_code_passed_on(shell: Shell, dashboard: Dashboard) -> None:
    folder = shell.folder / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "train.py").write_text("print(1)")
    (folder / "data.bin").write_text("x")
    dashboard.code = 7
    line = f"job submit demo --working-dir {folder} --exclude *.bin --pip six --env A=b=c -- python sub/train.py --lr"
    code, out, err = await shell.run(line, "a b")
    assert (code, out) == (7, "line\nline\n")
    assert "raysubmit_1 failed: end" in err
    asked = dashboard.jobs["raysubmit_1"]
    assert asked["entrypoint"] == "python sub/train.py --lr 'a b'"
    assert (asked["runtime_env"]["pip"], asked["runtime_env"]["env_vars"]) == (["six"], {"A": "b=c"})
    (name,) = dashboard.packages
    assert asked["runtime_env"]["working_dir"] == f"gcs://{name}"
    assert zipfile.ZipFile(io.BytesIO(dashboard.packages[name])).namelist() == ["sub/train.py"]
    _, _, err = await shell.run(line, "a b")
    assert "has these files already" in err


async def test_submit_and_leave_then_look_and_stop(shell: Shell, dashboard: Dashboard) -> None:
    assert (await shell.run("job submit demo mine --no-upload --no-wait -- true"))[:2] == (0, "mine\n")
    assert (await shell.run("job ls demo -o name"))[1] == "mine\n"
    assert json.loads((await shell.run("job status demo mine -o json"))[1])["entrypoint"] == "true"
    assert (await shell.run("job logs demo mine"))[:2] == (0, "line\n")
    assert (await shell.run("job stop demo mine"))[1] == "job mine is being stopped\n"
    assert (await shell.run("job stop demo mine"))[1] == "job mine had ended already\n"
    code, _, err = await shell.run("job status demo other")
    assert code == 1
    assert "no such job" in err


async def test_interrupting_leaves_the_job_and_says_so(shell: Shell, dashboard: Dashboard) -> None:
    dashboard.looks = 1_000_000
    argv = [*RUN, "job", "submit", "demo", "--no-upload", "--", "sleep"]
    async with await anyio.open_process(argv, env=shell.env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.receive()
        process.send_signal(signal.SIGINT)
        said = b"".join([chunk async for chunk in process.stderr]).decode()
        assert await process.wait() == 130
    assert "job raysubmit_1 goes on" in said
    assert "krayne job stop demo raysubmit_1" in said
    assert dashboard.jobs["raysubmit_1"]["status"] == "RUNNING"


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("job submit demo", 2, "after --"),
        ("job ls demo -- true", 2, "only for submit"),
        ("job logs demo", 2, "which job?"),
        ("job submit demo --working-dir /no/where -- true", 2, "is no folder"),
        ("job submit demo --no-upload --env A -- true", 2, "NAME=VALUE"),
        ("job ls nope", 4, "there is no cluster nope"),
        ("job dance demo", 2, "invalid choice"),
    ],
)
async def test_mistakes(shell: Shell, dashboard: Dashboard, line: str, code: int, says: str) -> None:
    found, out, err = await shell.run(line)
    assert (found, out) == (code, "")
    assert says in err
    assert dashboard.jobs == {}


async def test_a_dashboard_that_is_not_there(shell: Shell, backend: MemoryBackend) -> None:
    away = ServiceView("dashboard", 8265, 15001, "", "holding", "suspended: no pods run")
    backend.put(msgspec.structs.replace(backend.views[DEMO], phase="suspended", services=(away,)))
    code, _, err = await shell.run("job ls demo")
    assert code == 1
    assert "suspended: no pods run" in err
    assert "try: krayne resume demo" in err
    backend.put(msgspec.structs.replace(backend.views[DEMO], services=()))
    assert "has no dashboard port" in (await shell.run("job ls demo"))[2]


def test_what_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.py", "b/c.py", ".git/x", "b/__pycache__/y", "data/z", "venv/q"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name * 100)
    assert list(chosen_files(tmp_path, (*NEVER, "data/"))) == ["a.py", "b/c.py"]
    packs = [io.BytesIO(), io.BytesIO()]
    for one in packs:
        pack(tmp_path, NEVER, one)
    assert packs[0].getvalue() == packs[1].getvalue()
    monkeypatch.setattr(rayjobs, "UPLOAD_LIMIT", 100)
    with pytest.raises(UsageError, match="more than"):
        pack(tmp_path, (), io.BytesIO())
