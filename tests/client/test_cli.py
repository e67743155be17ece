"""Commands as users run them: real processes against the real server over clusters in memory."""

import argparse
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from anyio import to_thread

from krayne_client import cli, words
from tests.daemon.backend import MemoryBackend, serving, some_cluster, some_services

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-c", "import sys; from krayne_client.main import main; sys.exit(main())"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Shell:
    """Runs `krayne` in a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "run" / "s"
        self.socket.parent.mkdir(mode=0o700)

    @property
    def env(self) -> dict[str, str]:
        home = {"KRAYNE_HOME": str(self.folder / "home"), "KRAYNE_SOCKET": str(self.socket)}
        plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "COLUMNS")}
        return {**plain, "PYTHONPATH": str(ROOT), "TERM": "xterm", **home}

    async def run(self, line: str, *more: str, stdin: bytes = b"") -> tuple[int, str, str]:
        done = await anyio.run_process(
            [*RUN, *line.split(), *more], input=stdin, env=self.env, stderr=subprocess.PIPE, check=False
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    async def on_terminal(self, line: str, answer: bytes = b"", **env: str) -> tuple[int, str]:
        """Run it on a terminal of 80 columns; everything it wrote."""
        return await to_thread.run_sync(self._terminal, [*RUN, *line.split()], answer, {**self.env, **env})

    @staticmethod
    def _terminal(command: list[str], answer: bytes, env: dict[str, str]) -> tuple[int, str]:
        here, there = pty.openpty()
        os.set_blocking(here, True)
        import fcntl
        import struct
        import termios

        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=env)
        os.close(there)
        os.write(here, answer)
        seen = b""
        while True:
            try:
                data = os.read(here, 65_536)
            except OSError:  # the terminal's other end is closed
                data = b""
            if not data:
                break
            seen += data
        os.close(here)
        return process.wait(), seen.decode().replace("\r\n", "\n")


@pytest.fixture
async def backend() -> MemoryBackend:
    return MemoryBackend(some_cluster())


@pytest.fixture
async def shell(tmp_path: Path, backend: MemoryBackend) -> AsyncIterator[Shell]:
    made = Shell(tmp_path)
    async with serving(backend, made.socket):
        yield made


@pytest.fixture
def alone(tmp_path: Path) -> Shell:
    """No daemon."""
    return Shell(tmp_path)


async def test_global_options_before_and_after(shell: Shell, backend: MemoryBackend) -> None:
    backend.put(some_cluster("mine", "team", declared=False))
    expected = await shell.run("ls -n team -o name")
    assert expected == (0, "mine\n", "")
    for line in ("-n team ls -o name", "-n team -o name ls", "--namespace=team ls -oname", "ls --output=name -nteam"):
        assert await shell.run(line) == expected
    assert (await shell.run("-n default ls -n team -o name"))[1] == "mine\n"


async def test_ls_json_is_the_promised_array(shell: Shell) -> None:
    code, out, _ = await shell.run("ls -o json")
    (view,) = json.loads(out)
    assert code == 0
    assert {"name", "namespace", "phase", "reason", "declared", "workers", "services"} <= set(view)


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("describe nope", 4, "there is no cluster nope"),
        ("scale nope 3", 4, "there is no cluster nope"),
        ("create demo", 1, "declared already"),
        ("frobnicate", 2, "invalid choice"),
        ("ls --frob", 2, "unrecognized arguments"),
        ("ls -o xml", 2, "invalid choice"),
        ("", 2, "required"),
        ("scale demo", 2, "nothing to scale to"),
        ("tun-open demo ssssh", 2, "no port and no service"),
        ("tun-open demo 70000", 2, "no port"),
        ("wait demo --timeout soon", 2, "not a time"),
        ("wait demo --for=happy", 2, "there is no condition"),
        ("wait demo --for=deleted --timeout 0", 124, "demo is not deleted after 0s (ready)"),
        ("delete demo", 2, "nobody to ask"),
        ("apply -f /no/such/file", 2, "cannot be read"),
        ("create x --set head", 2, "KEY=VALUE"),
        ("create x --set head.cups=1", 1, "cups"),
        ("create x --workers many", 1, "replicas"),
    ],
)
async def test_failures_are_one_sentence_a_hint_and_a_code(
    shell: Shell, backend: MemoryBackend, line: str, code: int, says: str
) -> None:
    found, out, err = await shell.run(line)
    assert (found, out) == (code, "")
    assert says in err
    assert err.startswith("krayne: ")
    assert "\ntry: " in err
    assert "Traceback" not in err
    assert backend.log == []


async def test_without_a_daemon(alone: Shell) -> None:
    code, out, err = await alone.run("status")
    assert (code, out) == (3, "")
    assert "was never started" in err
    assert "try: krayne daemon start" in err
    code, out, _ = await alone.run("status -o json")
    assert (code, json.loads(out)["running"]) == (3, False)
    assert yaml.safe_load((await alone.run("status -o yaml"))[1])["running"] is False
    assert (await alone.run("ls --no-start"))[0] == 3
    code, out, _ = await alone.run("version")
    assert code == 0
    assert "kraynd not running" in out
    assert (await alone.run("daemon stop"))[:2] == (0, "the daemon is not running\n")
    assert not (alone.folder / "home").exists(), "none of these starts anything"


async def test_create_sends_the_options_and_what_is_installed(shell: Shell, backend: MemoryBackend) -> None:
    options = "--workers 2 --max-workers 5 --gpus-per-worker 1 --cpus-in-head 4 --memory-in-head 16Gi"
    more = "--no-autoscaling --image my/ray:1 --set services.notebook=false -n team"
    code, out, err = await shell.run(f"create new {options} {more}")
    assert (code, err) == (0, "")
    assert out == "new in team is declared (pending: not sent yet)\n"
    ((_, key, config, versions),) = backend.log
    (group,) = config.worker_groups
    assert key == "team/new"
    assert (group.replicas, group.min_replicas, group.max_replicas, group.gpus) == (2, 0, 5, 1)
    assert (config.head.cpus, config.head.memory, config.head.image, group.image) == (
        "4",
        "16Gi",
        "my/ray:1",
        "my/ray:1",
    )
    assert (config.autoscaler.enabled, config.services.notebook) == (False, False)
    assert versions.python == ".".join(map(str, sys.version_info[:3]))


async def test_a_minimum_alone_is_also_the_count(shell: Shell, backend: MemoryBackend) -> None:
    assert (await shell.run("create new --min-workers 3"))[0] == 0
    assert backend.log[0][2].worker_groups[0].replicas == 3


async def test_create_from_a_file_and_from_stdin(shell: Shell, backend: MemoryBackend, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nhead: {cpus: '3'}\n")
    assert (await shell.run(f"create one --file {file}"))[0] == 0
    assert (await shell.run("create two --file -", stdin=file.read_bytes()))[0] == 0
    assert [(entry[1], entry[2].head.cpus) for entry in backend.log] == [("default/one", "3"), ("default/two", "3")]
    file.write_text("name: x\nhead: [\n")
    code, _, err = await shell.run(f"create three --file {file}")
    assert code == 1
    assert str(file) in err


async def test_dry_run_prints_the_manifest(shell: Shell, backend: MemoryBackend) -> None:
    code, out, _ = await shell.run("create new --dry-run")
    assert (code, yaml.safe_load(out)["kind"]) == (0, "RayCluster")
    assert json.loads((await shell.run("create new --dry-run -o json"))[1])["kind"] == "RayCluster"
    assert backend.log == []


async def test_create_wait_tells_the_phases(shell: Shell, backend: MemoryBackend) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_make_ready, backend)
        code, out, err = await shell.run("create new --wait")
    assert (code, out) == (0, "new in default is ready\n")
    assert "new is declared in default" in err
    assert "new: starting, workers 0/2 (pulling rayproject/ray)" in err


async def _make_ready(backend: MemoryBackend) -> None:
    """Once the client waits, the cluster goes on."""
    with backend.subscribe() as subscription:
        await subscription.changes()
        while backend.changes.listeners < 2:
            await anyio.lowlevel.checkpoint()
        workers = type(some_cluster().workers)(ready=0, desired=2)
        backend.put(some_cluster("new", phase="starting", reason="pulling rayproject/ray", workers=workers))
        for _ in range(50):  # turns of the loop for the server to send this before the next change
            await anyio.lowlevel.checkpoint()
        backend.put(some_cluster("new"))


async def test_apply_files_folders_and_stdin(shell: Shell, backend: MemoryBackend, tmp_path: Path) -> None:
    folder = tmp_path / "clusters" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.yaml").write_text("name: a\n")
    (folder.parent / "b.yml").write_text("name: b\n")
    (folder / "notes.txt").write_text("no")
    code, out, _ = await shell.run(f"apply -f {folder.parent} -f -", stdin=b"name: demo\n")
    assert code == 0
    assert [line.split(" (")[0] for line in out.splitlines()] == [
        "b in default: declared",
        "a in default: declared",
        "demo in default: updated",
    ]
    results = json.loads((await shell.run(f"apply -f {folder} --dry-run -o json"))[1])
    assert [one["action"] for one in results] == ["would-update"]


async def test_scale_and_ports(shell: Shell, backend: MemoryBackend) -> None:
    assert (await shell.run("scale demo 4 --max 9"))[1] == "demo in default is scaled\n"
    _, out, _ = await shell.run("tun-open demo ssh 9000:19000")
    assert "tcp://127.0.0.1:19000" in out
    _, out, _ = await shell.run("tun-close demo ssh -o json")
    assert {one["name"]: one["state"] for one in json.loads(out)}["ssh"] == "off"
    assert backend.log == [
        ("scale", "default/demo", None, 4, None, 9),
        ("open", "default/demo", ((22, 0), (9000, 19000))),
        ("close", "default/demo", (22,)),
    ]


async def test_delete_needs_a_yes(shell: Shell, backend: MemoryBackend) -> None:
    assert (await shell.run("delete demo --yes"))[:2] == (0, "demo in default is being deleted\n")
    assert (await shell.run("delete demo --force -o name"))[:2] == (0, "demo\n")
    assert backend.log == [("delete", "default/demo", False), ("delete", "default/demo", True)]


async def test_delete_asks_on_a_terminal(shell: Shell, backend: MemoryBackend) -> None:
    code, said = await shell.on_terminal("delete demo", b"n\n")
    assert code == 1
    assert "Delete demo in default (ready)" in said
    assert backend.log == []
    code, _ = await shell.on_terminal("delete demo", b"y\n")
    assert (code, len(backend.log)) == (0, 1)


async def test_colour_only_on_a_terminal_that_wants_it(shell: Shell, backend: MemoryBackend) -> None:
    backend.put(some_cluster(services=some_services("port-taken"), reason="x" * 200))
    code, said = await shell.on_terminal("ls")
    assert code == 0
    assert "\x1b[32mready" in said
    assert "! demo ssh: port-taken" in said
    assert all(len(line) < 140 for line in said.splitlines()), "cut to the terminal, colours aside"
    for plain in (
        await shell.on_terminal("ls", NO_COLOR="1"),
        await shell.on_terminal("ls", TERM="dumb"),
        await shell.on_terminal("ls --no-color"),
    ):
        assert plain[0] == 0
        assert "\x1b" not in plain[1]
    assert "\x1b" not in (await shell.run("ls"))[1]


async def test_yaml_and_wide_after_a_change(shell: Shell) -> None:
    assert yaml.safe_load((await shell.run("scale demo 4 -o yaml"))[1])["workers"]["desired"] == 4
    assert "IMAGE" in (await shell.run("scale demo 5 -o wide"))[1]


async def test_interrupting_a_wait_says_that_the_cluster_goes_on(shell: Shell, backend: MemoryBackend) -> None:
    argv = [*RUN, "wait", "demo", "--for=deleted"]
    async with await anyio.open_process(argv, env=shell.env) as process:
        while not backend.changes.listeners:
            await anyio.lowlevel.checkpoint()
        assert process.stderr is not None
        await process.stderr.receive()
        process.send_signal(signal.SIGINT)
        said = b"".join([chunk async for chunk in process.stderr])
        assert await process.wait() == 130
    assert b"stopped watching; demo goes on" in said


async def test_daemon_gone_in_the_middle(shell: Shell, backend: MemoryBackend, tmp_path: Path) -> None:
    path = tmp_path / "run" / "other"

    async def vanish(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, vanish)
        shell.socket = path
        code, _, err = await shell.run("scale demo 3")
        tasks.cancel_scope.cancel()
    assert code == 3
    assert "went away before it answered" in err


async def test_daemon_stop_waits_for_its_end(alone: Shell) -> None:
    script = (
        "import os, sys, anyio\n"
        "from pathlib import Path\n"
        "from tests.daemon.backend import MemoryBackend, serving\n"
        "async def main():\n"
        "    backend = MemoryBackend()\n"
        "    async with serving(backend, Path(os.environ['KRAYNE_SOCKET'])):\n"
        "        print('up', flush=True)\n"
        "        await backend.stopped.wait()\n"
        "anyio.run(main)\n"
    )
    async with await anyio.open_process([sys.executable, "-c", script], env=alone.env, cwd=ROOT) as daemon:
        assert daemon.stdout is not None
        await daemon.stdout.receive()
        assert (await alone.run("version"))[1].endswith("kraynd 0.1.0\nkuberay 1.6.2\n")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.wait)  # reaped as a service manager would
            code, out, err = await alone.run("daemon stop")
        assert (code, err) == (0, "")
        assert out.startswith("the daemon is stopped")
        assert daemon.returncode == 0
    assert (await alone.run("status"))[0] == 3


def every_command() -> list[str]:
    """As the grammar has them."""
    (verbs,) = [one for one in cli.parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return list(verbs.choices)


@pytest.mark.parametrize("verb", ["", *every_command()])
def test_every_command_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "examples:\n  krayne " in shown


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (words.seconds, "90", 90.0),
        (words.seconds, "10m", 600.0),
        (words.value, "4", 4),
        (words.value, "-4", -4),
        (words.value, "500m", "500m"),
        (words.value, "true", True),
        (words.value, "²", "²"),
        (words.port_pair, "ssh:2222", {"remote": 22, "local": 2222}),
        (words.port_pair, "9000", {"remote": 9000, "local": 0}),
    ],
)
def test_words(read: Callable[[str], Any], text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    "line", ["-n team scale demo 4", "scale -n team demo 4", "scale demo -n team 4", "scale demo 4 -n team"]
)
def test_options_may_stand_anywhere(line: str) -> None:
    found = cli.parser().parse_args(line.split())
    assert (found.verb, found.name, found.namespace, found.replicas) == ("scale", "demo", "team", 4)
