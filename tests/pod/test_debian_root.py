"""The very startup command of the manifest in a real Debian: real apt, sudo and sshd, entered with the real ssh client.

Needs root, debootstrap and a package mirror.
"""

import http.client
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from krayne.config import ClusterConfig
from tests.pod.debian import NEEDS_DEBIAN, debian_root, started_head
from tests.pod.lab import Pod

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), NEEDS_DEBIAN]


@pytest.fixture(scope="session")
def debian() -> Path:
    return debian_root()


@pytest.fixture
def head(debian: Path, tmp_path: Path) -> Iterator[tuple[Pod, dict[str, Any]]]:
    """The head's services for ssh and notebook, started; the pod and what they were told."""
    config = ClusterConfig.model_validate({"name": "demo", "services": {"code_server": False}})
    with started_head(debian, config, tmp_path / "copy") as started:
        yield started


def ssh(port: int, known_hosts: Path, *command: str, user: str = "ray", tty: bool = False) -> str:
    """What a command printed over ssh, which may ask nothing; its failure is the test's."""
    options = ["-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known_hosts}", "-o", "LogLevel=ERROR"]
    argv = ["ssh", "-F", "none", *(["-tt"] if tty else []), "-p", str(port), *options, f"{user}@127.0.0.1", *command]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ConnectionError(done.stderr)
    return done.stdout


def test_apt_sudo_sshd_and_pip_end_in_a_login_and_a_notebook(head: tuple[Pod, dict[str, Any]], tmp_path: Path) -> None:
    pod, told = head
    port = told["ssh"]["port"]
    reports = pod.await_reports(lambda found: found.get("ssh", {}).get("state") == "running")
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {reports['ssh']['host_key']}\n")

    seen = ssh(port, known, 'id -un; echo "$PATH"; echo "$RAY_ADDRESS"; echo "$QUOTED"')
    assert seen.splitlines() == ["ray", "/opt/ray/bin:/usr/local/bin:/usr/bin:/bin", "127.0.0.1:6379", 'a "b" c\\d # e']
    login = ssh(port, known, "bash -lc 'echo $PATH'; tty", tty=True)
    assert "/opt/ray/bin:" in login
    assert "/dev/pts/" in login
    for user in ("root", "nobody"):
        with pytest.raises(ConnectionError, match="Permission denied"):
            ssh(port, known, "true", user=user)
    check_copies(port, known, tmp_path)
    assert loopback_only(port)

    pod.await_reports(lambda found: found.get("notebook", {}).get("state") == "running")
    hosts = {
        name: status_for_host(told["notebook"]["port"], name)
        for name in ("localhost", "127.0.0.1:15001", "notebook.demo.localhost:15001", "rebound.example")
    }
    assert hosts == {
        "localhost": 200, "127.0.0.1:15001": 200, "notebook.demo.localhost:15001": 200, "rebound.example": 403
    }  # fmt: skip
    assert loopback_only(told["notebook"]["port"])


def check_copies(port: int, known_hosts: Path, folder: Path) -> None:
    """scp there and sftp back."""
    (folder / "there").write_text("seen")
    options = ["-F", "none", "-P", str(port), "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known_hosts}"]
    subprocess.run(["scp", *options, str(folder / "there"), "ray@127.0.0.1:"], check=True, timeout=60)
    batch = f"get there {folder / 'back'}\n"
    argv = ["sftp", *options, "-b", "-", "ray@127.0.0.1"]
    subprocess.run(argv, input=batch, text=True, check=True, timeout=60, capture_output=True)
    assert (folder / "back").read_text() == "seen"


def loopback_only(port: int) -> bool:
    """Whether the kernel knows no listener on the port but one on 127.0.0.1."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]
    return listening == [f"0100007F:{port:04X}"]


def status_for_host(port: int, host: str) -> int:
    """What Jupyter's API answers to a browser that came by this name."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as link:
        link.request("GET", "/api/kernels", headers={"Host": host})
        return link.getresponse().status
