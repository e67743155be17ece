"""The fast way: which words it takes, what it sends, what it prints, and that it loads next to nothing."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from krayne_client.main import fast_request
from tests.daemon.backend import MemoryBackend, serving, some_cluster

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
# Everything `krayne ls` loads that `python -c pass` does not. A new name here is a cost each call pays: think twice.
LOADED = {"pwd", "krayne", "krayne.paths", "krayne_client", "krayne_client.main", "_socket"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def backend() -> MemoryBackend:
    return MemoryBackend(some_cluster())


@pytest.fixture
async def socket_path(tmp_path: Path, backend: MemoryBackend) -> AsyncIterator[Path]:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    async with serving(backend, folder / "s"):
        yield folder / "s"


def environ(socket_path: Path) -> dict[str, str]:
    home = socket_path.parent / "home"
    return {**os.environ, "PYTHONPATH": str(ROOT), "KRAYNE_SOCKET": str(socket_path), "KRAYNE_HOME": str(home)}


async def python(code: str, *words: str, env: dict[str, str]) -> "subprocess.CompletedProcess[bytes]":
    return await anyio.run_process([sys.executable, "-c", code, *words], env=env, stderr=subprocess.PIPE, check=False)


RUN = "import sys; from krayne_client.main import main; sys.exit(main())"


def params(words: Sequence[str]) -> dict[str, object]:
    line = fast_request(list(words))
    assert line is not None
    assert line.endswith(b"}\n")
    found: dict[str, object] = json.loads(line)["params"]
    return {name: value for name, value in found.items() if name not in ("width", "color")}


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ("ls", {"view": "clusters", "format": "table"}),
        ("get demo", {"view": "clusters", "format": "table", "name": "demo"}),
        ("-n team ls -o json", {"view": "clusters", "format": "json", "namespace": "team"}),
        ("ls --namespace team", {"view": "clusters", "format": "table", "namespace": "team"}),
        ("ls -A --no-color --no-start", {"view": "clusters", "format": "table", "all_namespaces": True}),
        ("describe ls", {"view": "cluster", "format": "table", "name": "ls"}),
        ("ports demo", {"view": "ports", "format": "table", "name": "demo"}),
        ("status", {"view": "status", "format": "table"}),
    ],
)
def test_plain_words_are_taken(words: str, sent: dict[str, object]) -> None:
    assert params(words.split()) == sent


@pytest.mark.parametrize(
    "words",
    [
        ["", "ls --help", "ls -n", "ls -o xml", "ls -o", "ls a b", "describe", "describe a b", "status demo", "lss"],
        ["create demo", "-n", "describe -x", "ls -n -A ls", "describe De", 'describe a"b', "describe a\\b"],
        ["ls -n é", "ls -nteam", "ls -w"],
    ],
)
def test_anything_else_is_left_to_the_full_command_line(words: list[str]) -> None:
    for one in words:
        assert fast_request(one.split(" ")) is None, one


@given(
    st.lists(st.one_of(st.sampled_from(["ls", "-n", "-o", "describe", "-A", "json", "demo", ""]), st.text(max_size=6)))
)
def test_any_words_give_valid_json_or_none(words: list[str]) -> None:
    line = fast_request(words)
    if line is not None:
        request = json.loads(line)
        assert request["method"] == "view.render"
        named = {request["params"].get("name"), request["params"].get("namespace")} - {None}
        assert named <= set(words)


async def test_ls_loads_exactly_this(socket_path: Path) -> None:
    listing = "\nimport sys; sys.stderr.write(' '.join(sorted(sys.modules)))"
    run = "import sys; from krayne_client.main import main; main()" + listing
    bare = await python("pass" + listing, env=environ(socket_path))
    full = await python(run, "ls", env=environ(socket_path))
    assert b"demo" in full.stdout
    assert set(full.stderr.decode().split()) - set(bare.stderr.decode().split()) == LOADED


async def test_ls_prints_what_the_daemon_rendered(socket_path: Path) -> None:
    done = await python(RUN, "ls", env=environ(socket_path))
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[0].split()[:3] == ["NAME", "PHASE", "WORKERS"]
    assert done.stderr == b""


async def test_remarks_go_to_stderr(socket_path: Path, backend: MemoryBackend) -> None:
    backend.views.clear()
    done = await python(RUN, "ls", env=environ(socket_path))
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"try: krayne create demo" in done.stderr


async def test_errors_come_from_the_full_command_line(socket_path: Path) -> None:
    done = await python(RUN, "describe", "nope", env=environ(socket_path))
    assert done.returncode == 4
    assert done.stderr.decode() == "krayne: there is no cluster nope\ntry: krayne ls -A\n"


async def test_a_large_view_arrives_whole_and_a_closed_pipe_is_quiet(socket_path: Path, backend: MemoryBackend) -> None:
    for number in range(1000):
        backend.put(some_cluster(f"c{number}"))
    done = await python(RUN, "ls", "-o", "json", env=environ(socket_path))
    assert len(json.loads(done.stdout)) == 1001
    shell = f"'{sys.executable}' -c '{RUN}' ls -o json | head -1; exit ${{PIPESTATUS[0]}}"
    cut = await anyio.run_process(["bash", "-c", shell], env=environ(socket_path), stderr=subprocess.PIPE, check=False)
    assert (cut.stdout, cut.stderr) == (b"[\n", b"")
    assert cut.returncode in (0, 141)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}\n",
        b"nonsense\n",
        b'{"jsonrpc":"2.0","id":1,"result":{"upgrade":"raw","exit":x}}\n',
        b'{"jsonrpc":"2.0","id":1,"result":{"upgrade":"raw","exit":0,"stdout":9,"stderr":0}}\nshort',
    ],
)
async def test_a_strange_daemon_is_said_in_one_sentence(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "s"

    async def speak(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if answer:
                await stream.send(answer)

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, speak)
        done = await python(RUN, "ls", "--no-start", env=environ(path))
        tasks.cancel_scope.cancel()
    assert done.stdout == b""
    assert done.returncode in (1, 3)
    first, second = done.stderr.decode().splitlines()
    assert first.startswith("krayne: ")
    assert second.startswith("try: ")
