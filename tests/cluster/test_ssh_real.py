"""OpenSSH's own ssh, scp, sftp and rsync by krayne's configuration, through its forward, into the real bootstrap.

The node maps the head pod's ports to a real Debian that runs the very startup command of the manifest.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kraynd.core.bootstrap import STATUS_PORT
from krayne.config import ClusterConfig
from tests.cluster.conftest import Krayne
from tests.cluster.using import until
from tests.controlplane.plane import ControlPlane
from tests.pod.debian import INSTALL_LIMIT, NEEDS_DEBIAN, debian_root, started_head
from tests.pod.lab import Pod

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500), NEEDS_DEBIAN]

SERVICES = {"notebook": False, "code_server": False}
CONFIG = ClusterConfig.model_validate({"name": "demo", "services": SERVICES})
LIMIT = 90.0
LONG = int(INSTALL_LIMIT)


@pytest.fixture(autouse=True)
def as_new(plane: ControlPlane) -> Iterator[None]:
    """What a test sets on the nodes ends with it."""
    yield
    plane.node.reset()


class Tools:
    """OpenSSH's programs with the configuration krayne installed, asking nothing."""

    def __init__(self, krayne: Krayne) -> None:
        # By name: ssh looks for it in the user database's home, not in this test's.
        self.options = ["-F", str(krayne.home / ".ssh" / "config"), "-o", "BatchMode=yes"]

    def run(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=LONG, check=False)

    def ssh(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.run("ssh", *self.options, "krayne-demo", *argv)


def lead(plane: ControlPlane, namespace: str, pod: Pod, port: int) -> None:
    """Put a Debian behind the head pod's ports."""
    plane.node.map_port(namespace, "demo-head-*", STATUS_PORT, pod.status_port)
    plane.node.map_port(namespace, "demo-head-*", 22, port)


def running(pod: Pod) -> None:
    """Wait until its sshd runs."""
    pod.await_reports(lambda found: found.get("ssh", {}).get("state") == "running")


def test_logged_in_copied_replaced_and_an_impostor_refused(
    plane: ControlPlane, namespace: str, krayne: Krayne, tmp_path: Path
) -> None:
    debian = debian_root()
    text = f"name: demo\nnamespace: {namespace}\nservices: {{notebook: false, code_server: false}}\n"
    with started_head(debian, CONFIG, tmp_path / "first") as (pod, told):
        lead(plane, namespace, pod, told["ssh"]["port"])
        krayne("apply", "-f", "-", stdin=text)
        enter = [sys.executable, "-m", "krayne_client.main", "ssh", "demo", "--timeout", f"{LONG}s", "--", "id", "-un"]
        entered = subprocess.run(enter, env=krayne.env, capture_output=True, text=True, timeout=LONG, check=False)
        assert (entered.returncode, entered.stdout) == (0, "ray\n"), entered.stderr + krayne.log()
        assert krayne("ssh", "demo", "--", "exit 7", code=7).out == ""
        assert "Server listening on 127.0.0.1" in krayne("logs", "demo", "--service", "ssh", "--tail", "50").out
        krayne("ssh-config", "--install")
        tools = Tools(krayne)
        check_programs(tools, tmp_path)
        known = (krayne.folder / "ssh" / "known_hosts").read_text()
        assert known.startswith(f"krayne-demo.{namespace} ssh-ed25519 ")

    with started_head(debian, CONFIG, tmp_path / "second") as (pod, told):
        running(pod)
        # Another sshd answers in the place of the same pod: refused, and nothing is asked or learnt.
        plane.node.map_port(namespace, "demo-head-*", 22, told["ssh"]["port"])
        refused = tools.ssh("true")
        assert refused.returncode == 255
        assert "Host key verification failed" in refused.stderr
        assert krayne("ssh", "demo", "--", "true", code=255).out == ""
        assert (krayne.folder / "ssh" / "known_hosts").read_text() == known

        # The head is replaced by a pod that has it: the daemon learns the new key, nobody is asked or warned.
        lead(plane, namespace, pod, told["ssh"]["port"])
        name = plane.kubectl("-n", namespace, "get", "pods", "-l", "ray.io/node-type=head", "-o", "name").strip()
        plane.kubectl("-n", namespace, "delete", name, "--wait=false")
        hosts = krayne.folder / "ssh" / "known_hosts"
        until("the new pod's key", lambda: hosts.read_text() not in ("", known), LIMIT)
        again = tools.ssh("id -un")
        assert (again.returncode, again.stdout, again.stderr) == (0, "ray\n", "")
    assert krayne("ssh-config", "--remove").code == 0
    assert not (krayne.home / ".ssh" / "config").exists()


def check_programs(tools: Tools, folder: Path) -> None:
    """A login, then scp, sftp and rsync there and back, as people type them."""
    login = tools.ssh("id -un; echo $RAY_ADDRESS")
    assert (login.returncode, login.stdout, login.stderr) == (0, "ray\n127.0.0.1:6379\n", "")
    (folder / "there").write_text("seen")
    copied = tools.run("scp", *tools.options, str(folder / "there"), "krayne-demo:")
    assert copied.returncode == 0, copied.stderr
    batch = f"get there {folder / 'back'}\n"
    fetched = tools.run("sftp", *tools.options, "-b", "-", "krayne-demo", stdin=batch)
    assert fetched.returncode == 0, fetched.stderr
    assert (folder / "back").read_text() == "seen"
    if shutil.which("rsync"):
        check_rsync(tools, folder)


def check_rsync(tools: Tools, folder: Path) -> None:
    """A folder there and back; the image has no rsync, so it is installed as a user would."""
    installed = tools.ssh("sudo apt-get -q -o DPkg::Lock::Timeout=120 install -y --no-install-recommends rsync")
    assert installed.returncode == 0, installed.stderr
    tree = folder / "tree"
    tree.mkdir()
    (tree / "file").write_text("synced")
    shell = " ".join(["ssh", *tools.options])
    for source, target in ((f"{tree}/", "krayne-demo:tree"), ("krayne-demo:tree/", str(folder / "copy"))):
        synced = tools.run("rsync", "-a", "-e", shell, source, target)
        assert synced.returncode == 0, synced.stderr
    assert (folder / "copy" / "file").read_text() == "synced"
