"""A real Debian that stands for the head pod: built once into the cache, started as a container with the real hook."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kraynd.core.bootstrap import STATE_FOLDER, BootstrapSettings, head_lifecycle, startup_command
from krayne.config import ClusterConfig
from tests.controlplane.build import cache_dir, locked
from tests.pod.lab import Pod, free_port

NEEDS_DEBIAN = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("debootstrap") or not shutil.which("ssh"),
    reason="needs root, debootstrap and ssh",
)
PACKAGES = "sudo,python3,python3-pip,ca-certificates"
BUILD_LIMIT = 600
INSTALL_LIMIT = 400.0  # seconds for apt or pip on a slow mirror


def debian_root() -> Path:
    """A root with the user of Ray's images: ray, uid 1000, group 100, sudo without a password."""
    root = cache_dir() / "debian-ray"
    with locked("debian"):
        if not root.exists():
            new = root.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(new))
            _run("chroot", str(new), "useradd", "-m", "-u", "1000", "-g", "100", "-G", "sudo", "-s", "/bin/bash", "ray")
            (new / "etc" / "sudoers.d" / "ray").write_text("%sudo ALL=(ALL) NOPASSWD:ALL\n")
            new.rename(root)
    return root


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_LIMIT, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@contextmanager
def started_head(debian: Path, config: ClusterConfig, copy: Path) -> Iterator[tuple[Pod, dict[str, Any]]]:
    """The hook of `config`'s head run to its end; the pod, and what its services were told. One at a time."""
    command = head_lifecycle(config, BootstrapSettings())["postStart"]["exec"]["command"]
    pod = Pod(Path(STATE_FOLDER), {}, free_port(), INSTALL_LIMIT)
    told = _with_own_ports(command, pod.status_port)
    copy.mkdir()
    script = Path(__file__).with_name("container.sh")
    inside = ["sh", str(script), str(debian), str(copy), *startup_command(told)]
    apart = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount", "--propagation=private"]
    child = subprocess.Popen([*apart, *inside], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "hook ended with 0\n"
        yield pod, told["services"]
    finally:
        child.kill()
        child.communicate()


def _with_own_ports(command: list[str], status_port: int) -> dict[str, Any]:
    """The settings of a manifest's command, on ports that are free here."""
    told: dict[str, Any] = json.loads(command[5])
    assert startup_command(told) == command
    told["status_port"] = status_port
    for service in told["services"].values():
        service["port"] = free_port()
    return told
