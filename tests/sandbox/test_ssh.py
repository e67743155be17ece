"""ssh into the sandbox with OpenSSH's own programs: in, there and back, refused without the key, nothing left."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from krayne_sandbox.node.ssh import PLACES
from tests.cluster.conftest import Krayne
from tests.controlplane.build import cache_dir, locked
from tests.sandbox.machine import demo, env_with, fresh_home

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not sys.platform.startswith("linux") or not shutil.which("ssh"), reason="needs Linux and ssh"),
]
LIMIT = 120.0
NO_LIBRARY = 127  # how the loader ends a program that lacks one
PACKAGES = ("openssh-server", "libwrap0")
# Root's sshd wants a user of its own, which the package would have made: added where only the sandbox sees it.
APART = 'mount --bind "$0" /etc/passwd && exec "$@"'
PRIVATE = ("unshare", "--mount", "--propagation=private", "sh", "-c", APART)


def sshd_folder() -> Path:
    """Where an sshd is: the machine's, or one unpacked into the cache from the distribution's package."""
    found = shutil.which("sshd", path=os.environ["PATH"] + PLACES)
    if found:
        return Path(found).parent
    kept = cache_dir() / "sshd"
    with locked("sshd"):
        if not kept.exists():
            unpack(kept)
    return kept / "usr" / "sbin"


def unpack(kept: Path) -> None:
    new = kept.with_name("sshd.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        subprocess.run(
            ["apt-get", "download", "-q", *PACKAGES], cwd=new, check=True, timeout=LIMIT, capture_output=True
        )
        for package in new.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, new], check=True, timeout=LIMIT, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"there is no sshd, and none can be had: {error}")
    new.rename(kept)


def libraries(folder: Path) -> str:
    return os.pathsep.join(sorted({str(one.parent) for one in folder.parent.glob("lib/**/*.so*")}))


@contextmanager
def sandbox_with_ssh() -> Iterator[Krayne]:
    """A sandbox that is up, and finds an sshd."""
    folder = sshd_folder()
    more = env_with(folder)
    if cache_dir() in folder.parents:
        more["LD_LIBRARY_PATH"] = libraries(folder)
        tried = subprocess.run([folder / "sshd", "-?"], env=more, check=False, capture_output=True, timeout=LIMIT)
        if tried.returncode == NO_LIBRARY:
            pytest.skip(f"the distribution's sshd does not run here: {tried.stderr!r}")
    with fresh_home(more) as krayne:
        command = [sys.executable, "-m", "krayne_client.main", "sandbox", "up"]
        known = {one.pw_name for one in pwd.getpwall()}
        if os.getuid() == 0 and "sshd" not in known:
            passwd = krayne.home / "passwd"
            line = "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
            passwd.write_text(Path("/etc/passwd").read_text(encoding="utf-8") + line, encoding="utf-8")
            if subprocess.run([*PRIVATE, passwd, "true"], check=False, capture_output=True).returncode:
                pytest.skip("root's sshd wants a user that is not there, and it cannot be lent one")
            command = [*PRIVATE, str(passwd), *command]
        done = subprocess.run(command, env=krayne.env, text=True, capture_output=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, done.stderr
        yield krayne


def run(krayne: Krayne, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """One of OpenSSH's programs, by the configuration krayne installed."""
    program, *rest = argv
    options = ["-F", str(krayne.home / ".ssh" / "config"), "-o", "BatchMode=yes"]
    return subprocess.run(
        [program, *options, *rest], env=krayne.env, input=stdin, text=True, capture_output=True, timeout=LIMIT,
        check=False,
    )  # fmt: skip


def test_the_machines_own_programs_log_in_and_copy(tmp_path: Path) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    with sandbox_with_ssh() as krayne:
        demo(krayne, ssh=True)
        krayne("wait", "demo", "--for", "service=ssh", "--timeout", "90s")
        command = [sys.executable, "-m", "krayne_client.main", "ssh", "demo", "--", "id -un; echo $RAY_ADDRESS"]
        entered = subprocess.run(command, env=krayne.env, text=True, capture_output=True, timeout=LIMIT, check=False)
        assert entered.stdout.startswith(f"{me}\n127.0.0.1:"), entered.stderr + krayne.log()
        assert "krayne ssh demo" in krayne("describe", "demo").out
        assert "Accepted publickey" in krayne("logs", "demo", "--service", "ssh").out

        krayne("ssh-config", "--install")
        assert run(krayne, "ssh", "krayne-demo", "exit 7").returncode == 7
        (tmp_path / "here").write_text("copied")
        assert run(krayne, "scp", str(tmp_path / "here"), f"krayne-demo:{tmp_path}/there").returncode == 0
        batch = f"get {tmp_path}/there {tmp_path}/back\n"
        assert run(krayne, "sftp", "-b", "-", "krayne-demo", stdin=batch).returncode == 0
        assert (tmp_path / "back").read_text() == "copied"

        # What a login leaves running is the pod's, and ends with it; so does an open login.
        assert run(krayne, "ssh", "krayne-demo", "setsid sleep 600 >/dev/null 2>&1 &").returncode == 0

        # Whoever reaches the port without the key stays outside.
        (krayne.folder / "sandbox" / "identity").rename(tmp_path / "identity")
        refused = run(krayne, "ssh", "-o", "IdentityAgent=none", "krayne-demo", "true")
        assert (refused.returncode, "Permission denied (publickey)" in refused.stderr) == (255, True), refused.stderr


def test_without_sshd_it_is_said_and_what_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from krayne_sandbox.node import ssh
    from krayne_sandbox.node.run import Run

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ssh, "PLACES", "")
    with pytest.raises(ssh.NoSshError, match="apt install openssh-server"):
        ssh.prepare(Run({"metadata": {"uid": "u", "name": "n", "namespace": "d"}}, tmp_path))
