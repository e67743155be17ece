"""suspend, resume, idle, events, diff, edit and ls -w as processes."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import anyio
import pytest

from kraynd.core.model import ClusterKey
from krayne.messages import EventView, FieldChange
from tests.client.test_cli import RUN, Shell
from tests.daemon.backend import MemoryBackend, some_cluster, some_services

pytestmark = pytest.mark.anyio

DEMO = ClusterKey("default", "demo")
PULLING = EventView(id="1", at=1.8e9, object="pod/demo-head", reason="Pulling", text='Pulling image "ray:1"')
FAILED = EventView(id="2", at=1.8e9 + 1, warning=True, object="pod/demo-head", reason="Failed", text="no\x1b", count=3)


async def test_suspend_and_resume(shell: Shell, backend: MemoryBackend) -> None:
    assert (await shell.run("suspend demo --wait"))[:2] == (0, "demo in default is suspended\n")
    assert (await shell.run("resume demo --wait"))[:2] == (0, "demo in default is ready\n")
    assert json.loads((await shell.run("suspend demo -o json"))[1])["phase"] == "suspended"
    assert [entry[0] for entry in backend.log] == ["suspend", "resume", "suspend"]
    assert (await shell.run("suspend nope"))[0] == 4


async def test_idle_is_a_time_or_off(shell: Shell, backend: MemoryBackend) -> None:
    assert "is suspended when idle for 2h" in (await shell.run("idle demo 2h"))[1]
    assert "never suspended by itself" in (await shell.run("idle demo off"))[1]
    for wrong in ("soon", "0", "5s"):
        assert (await shell.run(f"idle demo {wrong}"))[0] == 2
    assert backend.log == [("idle", "default/demo", 7200), ("idle", "default/demo", 0)]


async def test_events(shell: Shell, backend: MemoryBackend) -> None:
    code, out, err = await shell.run("events demo")
    assert (code, out) == (0, "")
    assert "no events of demo" in err
    backend.told = (PULLING, FAILED)
    _, out, _ = await shell.run("events demo")
    first, second = out.splitlines()
    assert first.endswith('pod/demo-head Pulling: Pulling image "ray:1"')
    assert second.endswith("! pod/demo-head Failed: no  (x3)")
    assert [one["reason"] for one in json.loads((await shell.run("events demo -o json"))[1])] == ["Pulling", "Failed"]


async def test_events_go_on_with_new_ones(shell: Shell, backend: MemoryBackend) -> None:
    backend.told = (PULLING,)
    async with await anyio.open_process([*RUN, "events", "demo", "-w"], env=shell.env) as process:
        assert process.stdout is not None
        said = await process.stdout.receive()
        assert said.count(b"Pulling:") == 1
        backend.told = (PULLING, FAILED)
        backend.more_told.set()
        said = await process.stdout.receive()
        assert (said.count(b"Pulling:"), said.count(b"Failed:")) == (0, 1)
        process.kill()


async def test_diff_exits_like_kubectls(shell: Shell, backend: MemoryBackend, tmp_path: Path) -> None:
    assert await shell.run("diff demo") == (0, "", "")
    backend.differences = (FieldChange(field="spec.x", op="replace", live="1", declared="2"),)
    assert await shell.run("diff demo") == (1, "spec.x\n  - 1\n  + 2\n", "")
    file = tmp_path / "new.yaml"
    file.write_text("name: new\n")
    backend.differences = ()
    code, out, err = await shell.run(f"diff -f {file}")
    assert (code, out) == (1, "+ kind: RayCluster\n")
    assert "would be created" in err
    file.write_text("name: new\nheda: {}\n")
    code, out, err = await shell.run(f"diff -f {file}")
    assert (code, out) == (2, ""), "a failure is no difference"
    assert "heda" in err
    assert (await shell.run("diff"))[0] == 2
    assert (await shell.run("diff nope"))[0] == 4
    assert json.loads((await shell.run("diff demo -o json"))[1])["exists"] is True


def editor(folder: Path, script: str) -> dict[str, str]:
    path = folder / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"EDITOR": str(path), "TMPDIR": str(folder)}


async def edited(shell: Shell, script: str) -> tuple[int, str, str]:
    done = await anyio.run_process(
        [*RUN, "edit", "demo"], env={**shell.env, **editor(shell.folder, script)}, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_edit_saves_what_is_right(shell: Shell, backend: MemoryBackend) -> None:
    code, out, err = await edited(shell, "echo '# mine' >> $1")
    assert (code, out, err) == (0, "demo in default is changed\n", "")
    assert backend.files[DEMO].endswith("# mine\n")
    code, _, err = await edited(shell, "true")
    assert (code, err) == (0, "demo is unchanged\n")
    assert list(shell.folder.glob("krayne-demo-*")) == []


async def test_edit_keeps_what_is_wrong(shell: Shell, backend: MemoryBackend) -> None:
    code, out, err = await edited(shell, "echo 'heda: {}' >> $1")
    assert (code, out) == (1, "")
    assert "heda" in err
    (kept,) = shell.folder.glob("krayne-demo-*")
    assert f"your text is in {kept}" in err
    assert kept.read_text().endswith("heda: {}\n")
    assert "heda" not in backend.files[DEMO]


async def test_edit_opens_again_with_the_mistake_on_top(shell: Shell, backend: MemoryBackend) -> None:
    mend = "grep '^#! ' $1 > $(dirname $1)/said; sed -i /heda/d $1"
    script = f"if grep -q heda $1; then {mend}; else echo 'heda: {{}}' >> $1; fi; echo '# end' >> $1"
    code, said = await shell.on_terminal("edit demo", b"", **editor(shell.folder, script))
    assert code == 0, said
    assert "heda" in (shell.folder / "said").read_text()
    assert "#!" not in backend.files[DEMO]
    assert backend.files[DEMO].endswith("# end\n# end\n")


async def test_edit_with_a_failing_or_missing_editor(shell: Shell, backend: MemoryBackend) -> None:
    code, _, err = await edited(shell, "echo '# half' >> $1; exit 3")
    assert code == 1
    assert "the editor ended with 3" in err
    assert len(list(shell.folder.glob("krayne-demo-*"))) == 1
    assert (await shell.run("edit nope"))[0] == 4


async def lines_of_a_watch(shell: Shell, backend: MemoryBackend, *options: str) -> list[str]:
    """What `ls -w` says of a cluster that comes, changes and goes."""
    found: list[str] = []
    async with await anyio.open_process([*RUN, "ls", "-w", *options], env=shell.env) as process:
        assert process.stdout is not None

        async def more(text: bytes) -> None:
            assert process.stdout is not None
            data = b""
            while text not in data:
                data += await process.stdout.receive()
            found.extend(data.decode().splitlines())

        await more(b"\n")
        backend.put(some_cluster("new", phase="starting", reason="pulling"))
        await more(b"starting")
        backend.put(some_cluster("new"))
        await more(b"ready")
        backend.remove(ClusterKey("default", "new"))
        await more(b"\n")
        process.kill()
    return found


async def test_watching_in_a_pipe_is_a_line_for_each_change(shell: Shell, backend: MemoryBackend) -> None:
    assert await lines_of_a_watch(shell, backend) == [
        "default/demo ready 2/2",
        "default/new starting 2/2 pulling",
        "default/new ready 2/2",
        "default/new gone",
    ]


async def test_watching_as_json_lines(shell: Shell, backend: MemoryBackend) -> None:
    events: list[dict[str, Any]] = [json.loads(line) for line in await lines_of_a_watch(shell, backend, "-o", "json")]
    assert [(one["kind"], one["name"]) for one in events] == [
        ("added", "demo"),
        ("added", "new"),
        ("changed", "new"),
        ("removed", "new"),
    ]
    assert events[1]["cluster"]["phase"] == "starting"


async def test_watching_on_a_terminal_draws_the_page_anew(shell: Shell, backend: MemoryBackend) -> None:
    def typed() -> tuple[int, bytes]:
        pid, terminal = os.forkpty()
        if pid == 0:  # a terminal of its own, so that ^C reaches it
            os.execvpe(RUN[0], [*RUN, "ls", "-w"], shell.env)
        seen = b""
        while b"ready" not in seen:
            seen += os.read(terminal, 65_536)
        anyio.from_thread.run_sync(backend.put, some_cluster("new", phase="pending"))
        while b"pending" not in seen:
            seen += os.read(terminal, 65_536)
        os.write(terminal, b"\x03")
        try:
            while data := os.read(terminal, 65_536):
                seen += data
        except OSError:
            pass
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen

    code, seen = await anyio.to_thread.run_sync(typed)
    assert code == 0
    assert seen.count(b"\x1b[H\x1b[2J") >= 2
    assert b"Traceback" not in seen


async def test_the_story_of_a_wait_names_what_installs(shell: Shell, backend: MemoryBackend) -> None:
    backend.put(some_cluster(phase="starting", services=some_services("installing")))
    code, _, err = await shell.run("wait demo --timeout 1s")
    assert code == 124
    assert "demo: starting, workers 2/2, installing dashboard, client, ssh" in err
