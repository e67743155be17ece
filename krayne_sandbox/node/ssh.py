"""ssh into a pod here: the system's sshd run as this user, a process of its own for each connection the API brings.

It listens nowhere, so that only who may forward a port of the pod reaches it; then a key of this user opens it (sshd
run as a user cannot check an empty password). Installs nothing.
"""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from krayne_sandbox.node.processes import HOME_MARK, POD_MARK
from krayne_sandbox.node.run import Run

PORT: Final = 22
PLACES: Final = ":/usr/sbin:/usr/local/sbin:/sbin"  # where sshd may be although the user's PATH lacks it
IDENTITY: Final = "identity"  # in the sandbox's folder, where krayne's ssh looks for it (krayne.paths)
RUN_FOLDER: Final = re.compile(r"Missing privilege separation directory: (/\S+)")
KEY_LINE: Final = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/]{20,}={0,3}")
STEP_SECONDS: Final = 30.0  # for a key or a look at a configuration, on any machine
PASSED: Final = ("PATH", "RAY_ADDRESS", "LD_LIBRARY_PATH", HOME_MARK, POD_MARK)


class Login(NamedTuple):
    """How ssh is served: the command for one connection, and what the client must know."""

    argv: list[str]
    host_key: str
    user: str


class NoSshError(Exception):
    """Why there is no ssh, in one sentence with what mends it."""


def prepare(run: Run) -> Login:
    """Keys and configuration in the pod's private folder, tried by sshd itself. Blocks. Raises NoSshError, OSError."""
    places = os.environ.get("PATH", os.defpath) + PLACES
    sshd, keygen = shutil.which("sshd", path=places), shutil.which("ssh-keygen", path=places)
    if sshd is None or keygen is None:
        raise NoSshError("there is no sshd on this machine: sudo apt install openssh-server (or as your system has it)")
    folder = Path(run.short) / "ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    _make_key(keygen, run.home / IDENTITY)
    _make_key(keygen, folder / "host_key")
    (folder / "authorized_keys").write_text("".join(f"{one}\n" for one in _keys(run.home)), encoding="ascii")
    user = pwd.getpwuid(os.getuid()).pw_name
    config = folder / "sshd_config"
    config.touch(mode=0o600)
    config.write_text(sshd_config(folder, user, run.env()), encoding="utf-8")
    _try(sshd, config)
    host_key = " ".join((folder / "host_key.pub").read_text(encoding="ascii").split()[:2])
    return Login([os.path.abspath(sshd), "-i", "-e", "-f", str(config)], host_key, user)


def _make_key(keygen: str, path: Path) -> None:
    if path.exists() and path.with_name(path.name + ".pub").exists():
        return
    path.unlink(missing_ok=True)  # half made
    code, said = _run(keygen, "-q", "-t", "ed25519", "-N", "", "-C", "krayne-sandbox", "-f", str(path))
    if code:
        raise NoSshError(f"ssh-keygen cannot make {path}: {said}")


def _keys(home: Path) -> list[str]:
    """Public keys of this user: the sandbox's own, and those in ~/.ssh."""
    files = [home / f"{IDENTITY}.pub", *sorted((Path.home() / ".ssh").glob("*.pub"))]
    lines = [line for file in files if file.is_file() for line in file.read_text("utf-8", "replace").splitlines()]
    return [found[0] for line in lines if (found := KEY_LINE.match(line))]


def _try(sshd: str, config: Path) -> None:
    """Ask sshd whether it would run. Root's wants a folder that its service would have made."""
    code, said = _run(sshd, "-t", "-f", str(config))
    missing = RUN_FOLDER.search(said)
    if code and missing and os.getuid() == 0:
        Path(missing[1]).mkdir(mode=0o755, parents=True, exist_ok=True)
        code, said = _run(sshd, "-t", "-f", str(config))
    if code:
        raise NoSshError(f"sshd refuses to run: {said}")


def _run(*argv: str) -> tuple[int, str]:
    done = subprocess.run(  # noqa: S603 - the system's own, no shell
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=STEP_SECONDS,
        check=False,
    )  # fmt: skip
    lines = [line.strip() for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
    return done.returncode, lines[-1][:300] if lines else f"it ended with code {done.returncode}"


def sshd_config(folder: Path, user: str, env: Mapping[str, str]) -> str:
    """The whole configuration: nothing of the machine's own is read. `folder` holds no space: it is ours."""
    told = {key: env[key] for key in PASSED if key in env and env[key].isprintable()}
    quoted = " ".join('"{}={}"'.format(key, re.sub(r'(["\\])', r"\\\1", one)) for key, one in told.items())
    return f"""\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
AllowUsers {user}
PermitRootLogin prohibit-password
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
X11Forwarding no
PrintMotd no
PidFile none
ClientAliveInterval 60
MaxAuthTries 20
MaxSessions 100
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
SetEnv {quoted}
"""
