"""exec, logs and cp as users type them, over the real API server, in processes and folders that stand for the pod."""

import fcntl
import os
import pty
import random
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.conftest import Krayne, Ran
from tests.cluster.using import LIMIT, becomes, home_with
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]
RUN = [sys.executable, "-m", "krayne_client.main"]
BIG = 8_000_000


@pytest.fixture(autouse=True)
def as_new(plane: ControlPlane) -> Iterator[None]:
    """What a test sets on the nodes ends with it."""
    yield
    plane.node.reset()


class There(Krayne):
    """Every command names the test's namespace: another test's demo may not be gone yet."""

    namespace = ""

    @property
    def argv(self) -> list[str]:
        """The command, for who starts it himself."""
        return [*RUN, "-n", self.namespace]

    def __call__(self, *args: str, code: int | None = 0, stdin: str | None = None, **env: str) -> Ran:
        return super().__call__("-n", self.namespace, *args, code=code, stdin=stdin, **env)


@pytest.fixture
def krayne(plane: ControlPlane, namespace: str) -> Iterator[There]:
    """`krayne -n` the test's namespace."""
    with home_with(plane.kubeconfig) as made:
        there = There(made.home, made.env)
        there.namespace = namespace
        yield there


@pytest.fixture
def pod(plane: ControlPlane, namespace: str, krayne: There, tmp_path: Path) -> Path:
    """The head of a cluster demo: its folder."""
    krayne("create", "demo", "--wait", "--timeout", "60s")
    root = tmp_path / "pod"
    root.mkdir()
    plane.node.allow_exec(namespace, "demo-head-*", root=root, env={"WHO": "head"})
    return root


def run(krayne: There, *args: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    """A command whose input and output are bytes."""
    done = subprocess.run(
        [*krayne.argv, *args],
        env=krayne.env,
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
        cwd=krayne.home,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_command_runs_with_its_streams_and_its_exit_code(krayne: There, pod: Path) -> None:
    said = krayne("exec", "demo", "--", "sh", "-c", "echo $WHO $PWD; echo oops >&2; exit 7", code=7)
    assert (said.out, said.err) == (f"head {pod}\n", "oops\n")
    # An option, a dash and spaces arrive as they are.
    assert krayne("exec", "demo", "--", "printf", "%s|", "-n", "a  b", "--", "$WHO").out == "-n|a  b|--|$WHO|"
    lost = krayne("exec", "demo", "--", "no-such-program", code=1)
    assert "no-such-program" in lost.err
    assert lost.err.startswith("krayne: ")


def test_input_goes_in_whole_and_ends(krayne: There, pod: Path) -> None:
    data = random.Random(7).randbytes(BIG)
    code, out, err = run(krayne, "exec", "demo", "-i", "--", "cat", stdin=data)
    assert (code, err, len(out), out == data) == (0, b"", BIG, True)
    assert run(krayne, "exec", "demo", "-i", "--", "wc", "-c", stdin=data)[1].strip() == str(BIG).encode()
    # A command that does not read, and ends while it is written to.
    for _ in range(5):
        code, out, err = run(krayne, "exec", "demo", "-i", "--", "sh", "-c", "exit 3", stdin=data)
        assert (code, err) == (3, b""), krayne.log()
    # Without -i the command's input is empty.
    assert run(krayne, "exec", "demo", "--", "cat", stdin=b"not for it") == (0, b"", b"")


class Terminal:
    """krayne on a terminal of 33 rows and 101 columns."""

    def __init__(self, krayne: There, *args: str) -> None:
        self.here, there = pty.openpty()
        self.before = termios.tcgetattr(there)
        self.resize(33, 101)
        self.there = there
        self.process = subprocess.Popen(
            [*krayne.argv, *args], stdin=there, stdout=there, stderr=there, env=krayne.env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), cwd=krayne.home,
        )  # fmt: skip
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.here, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.here, text.encode())

    def until(self, text: str) -> None:
        """Read until this was shown."""
        deadline = time.monotonic() + LIMIT
        while text.encode() not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"never {text!r}: {self.seen!r}"
            if select.select([self.here], [], [], left)[0]:
                with suppress(OSError):
                    self.seen += os.read(self.here, 65536)

    def end(self) -> int:
        code = self.process.wait(LIMIT)
        assert termios.tcgetattr(self.there) == self.before, "the terminal is left as it was found"
        os.close(self.there)
        os.close(self.here)
        return code


def test_a_terminal_has_its_size_its_keys_and_its_exit_code(krayne: There, pod: Path) -> None:
    there = Terminal(krayne, "exec", "demo", "-it", "--", "sh", "-c", "tty; echo rea''dy; exec sh -i")
    there.until("ready")
    there.type("stty size\n")
    there.until("33 101")
    there.resize(50, 120)
    there.type("until stty size | grep '50 12'0; do sleep 0.1; done\n")  # sizes and keys travel apart
    there.until("50 120")
    # ^C is the command's, not ours.
    there.type("trap 'echo cau$((1+1))ght' INT; tr a-z A-Z\n")
    there.type("seen\n")
    there.until("SEEN")
    there.type("\x03")
    there.until("cau2ght")
    there.type("exit 5\n")
    assert there.end() == 5
    assert b"/dev/pts/" in there.seen


def test_interrupting_without_a_terminal_ends_the_connection(krayne: There, pod: Path) -> None:
    child = subprocess.Popen(
        [*krayne.argv, "exec", "demo", "--", "sh", "-c", "echo begun; sleep 60"],
        env=krayne.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=krayne.home,
    )  # fmt: skip
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"begun\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(LIMIT) == 130
    assert krayne("exec", "demo", "--", "true").code == 0


def test_a_worker_is_reached_by_name_or_alone(
    plane: ControlPlane, namespace: str, krayne: There, tmp_path: Path
) -> None:
    krayne("create", "demo", "--workers", "1", "--wait", "--timeout", "60s")
    becomes(krayne, "demo", lambda row: bool(row["workers"]["ready"] == 1))
    plane.node.allow_exec(namespace, "*-worker-*", root=tmp_path, env={"WHO": "worker"})
    names = plane.kubectl("-n", namespace, "get", "pods", "-l", "ray.io/node-type=worker", "-o", "name").split()
    name = names[0].removeprefix("pod/")
    for worker in (name, name.rpartition("-")[2]):
        said = krayne("exec", "demo", "--worker", worker, "--", "sh", "-c", "echo $WHO")
        assert said.out == "worker\n"
    refused = krayne("exec", "demo", "--worker", "nope", "--", "true", code=2)
    assert name in refused.err
    log = tmp_path / "log"
    log.write_text("worker's\n")
    plane.node.serve_log(namespace, name, log)
    assert krayne("logs", "demo", "--worker").out == "worker's\n"


def test_logs_are_shown_and_followed(
    plane: ControlPlane, namespace: str, krayne: There, pod: Path, tmp_path: Path
) -> None:
    log, before = tmp_path / "log", tmp_path / "before"
    log.write_text("one\ntwo\n")
    before.write_text("died\n")
    plane.node.serve_log(namespace, "demo-head-*", log, previous=before)
    assert krayne("logs", "demo").out == "one\ntwo\n"
    assert krayne("logs", "demo", "--tail", "1").out == "two\n"
    assert krayne("logs", "demo", "--previous").out == "died\n"
    child = subprocess.Popen(
        [*krayne.argv, "logs", "demo", "-f"],
        env=krayne.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=krayne.home,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    with child.stdout, child.stderr:
        assert [child.stdout.readline() for _ in range(2)] == [b"one\n", b"two\n"]
        with log.open("a") as more:
            more.write("three\n")
        assert child.stdout.readline() == b"three\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(LIMIT) == 130


def test_a_log_that_is_not_there_is_said(krayne: There, pod: Path) -> None:
    refused = krayne("logs", "demo", "--previous", code=1)
    assert refused.err.startswith("krayne: ")
    assert "Traceback" not in refused.err
    silent = krayne("logs", "demo", "--service", "ssh", code=1)
    assert silent.err.startswith("krayne: ")


def test_files_and_folders_go_there_and_back(krayne: There, pod: Path, tmp_path: Path) -> None:
    data = random.Random(3).randbytes(BIG)
    (tmp_path / "one").write_bytes(data)
    krayne("cp", str(tmp_path / "one"), "demo:")
    assert (pod / "one").read_bytes() == data
    krayne("cp", str(tmp_path / "one"), f"demo:{pod}/other name")
    assert (pod / "other name").read_bytes() == data
    krayne("cp", "demo:other name", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data

    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "file").write_text("found")
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o755)
    (tree / "link").symlink_to("deep/er/file")
    krayne("cp", str(tree), "demo:")
    assert (pod / "tree" / "link").read_text() == "found"
    krayne("cp", "demo:tree", str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "link").read_text() == "found"
    assert os.access(tmp_path / "copy" / "run", os.X_OK)
    krayne("cp", "demo:tree", str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "tree" / "deep" / "er" / "file").read_text() == "found"


def test_what_cannot_be_copied_is_said(plane: ControlPlane, namespace: str, krayne: There, pod: Path) -> None:
    assert "there is no nope in the pod" in krayne("cp", "demo:nope", ".", code=2).err
    (krayne.home / "mine").write_text("x")
    assert "no folder no/where" in krayne("cp", "mine", "demo:no/where/x", code=1).err
    bare = pod / "bin"
    bare.mkdir()
    (bare / "sh").symlink_to("/bin/sh")
    plane.node.allow_exec(namespace, "demo-head-*", root=pod, env={"PATH": str(bare)})
    assert "has no tar" in krayne("cp", "mine", "demo:", code=1).err
    assert "has no tar" in krayne("cp", "demo:bin", ".", code=1).err


def test_a_pod_that_lies_writes_nothing_outside(
    plane: ControlPlane, namespace: str, krayne: There, pod: Path, tmp_path: Path
) -> None:
    (pod / "bin").mkdir()
    (pod / "tree").mkdir()
    liar = pod / "bin" / "tar"
    liar.write_text(f"#!{sys.executable}\n" + LIAR)
    liar.chmod(0o755)
    plane.node.allow_exec(namespace, "demo-head-*", root=pod, env={"PATH": f"{pod}/bin:{os.environ['PATH']}"})
    target = tmp_path / "target"
    target.mkdir()
    for kind in ("dots", "absolute", "other"):
        (pod / "kind").write_text(kind)
        refused = krayne("cp", "demo:tree", str(target / kind), code=1)
        assert "which was not asked for" in refused.err, kind
    for kind in ("link", "hardlink"):
        (pod / "kind").write_text(kind)
        krayne("cp", "demo:tree", str(target / kind))
        assert not (target / kind / "through" / "x").exists()
    assert sorted(one.name for one in target.iterdir()) == ["dots", "hardlink", "link"]
    assert not (tmp_path / "escaped").exists()


LIAR = """
import io, sys, tarfile
kind = open("kind").read()
out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|")
def file(name):
    one = tarfile.TarInfo(name)
    one.size = 1
    out.addfile(one, io.BytesIO(b"x"))
def link(name, to, hard=False):
    one = tarfile.TarInfo(name)
    one.type, one.linkname = (tarfile.LNKTYPE if hard else tarfile.SYMTYPE), to
    out.addfile(one)
if kind == "dots":
    file("tree/a")
    file("tree/../../escaped")
elif kind == "absolute":
    file("/etc/escaped")
elif kind == "other":
    file("escaped")
elif kind == "link":
    file("tree/a")
    link("tree/through", "../..")
    link("tree/out", "/etc")
else:
    file("tree/a")
    link("tree/h", "tree/../../../etc/passwd", hard=True)
out.close()
"""


def test_who_may_not_exec_is_told_the_right_that_is_missing(plane: ControlPlane, namespace: str, krayne: There) -> None:
    krayne("create", "demo", "--wait", "--timeout", "60s")
    rules = [
        {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    ]
    kubeconfig = plane.kubeconfig_for("bob", rules=rules, namespace=namespace)
    with home_with(kubeconfig) as bob:
        becomes(bob, "demo", lambda row: row["phase"] == "ready")
        assert "pods/exec" in bob("exec", "demo", "--", "true", code=1).err
        assert "pods/log" in bob("logs", "demo", code=1).err
