"""sshd on the pod's loopback, configured whole by us, with the container's environment in its sessions.

Invariant: the empty password exists only after a configuration that keeps sshd on loopback has passed sshd's own test.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil

from kraynd.pod.board import ServiceError, say
from kraynd.pod.service import INSTALL_LIMIT, Service, as_root, gentle, limited

# Variables that belong to one process, or that sshd sets itself.
PRIVATE = re.compile(r"HOME|PWD|OLDPWD|SHLVL|_|USER|LOGNAME|SHELL|TERM|MAIL|SSH_.*|SUDO_.*|KRAYNE_.*")


class Ssh(Service):
    """sshd on loopback: one user, no password, no root. Whoever may forward a port of this pod may log in."""

    answer = b"SSH-2.0-"
    # Of our own: an image that brings host keys shares their private half with everybody who can pull it.
    host_key = "/etc/ssh/krayne_host_ed25519_key"
    config = "/etc/ssh/krayne_sshd_config"
    profile = "/etc/profile.d/krayne.sh"
    run_folder = "/run/sshd"  # sshd refuses to start without it
    policy = "/usr/sbin/policy-rc.d"  # what packages ask before they start anything
    sources = "/etc/apt/krayne.list"
    release = "/etc/os-release"
    places = ":/usr/sbin:/usr/local/sbin:/sbin"  # where sshd may be although the user's PATH lacks it

    def prepare(self) -> list[str]:
        """sshd's command line, once all it needs is in place."""
        user = self.told["user"]
        try:
            pwd.getpwnam(user)
        except KeyError:
            raise ServiceError(f"the image has no user {user}", final=True) from None
        self._check_root()
        sshd = self._sshd()
        self.step("configuring sshd")
        self.root("run folder", f"mkdir -p {self.run_folder} {os.path.dirname(self.config)}")
        key = self.host_key
        make_key = f"rm -f {key}; ssh-keygen -q -t ed25519 -N '' -C krayne -f {key}"
        self.root("host key", f"test -s {key}.pub || {{ {make_key}; }}")
        self._configure(sshd)
        # Last, so that no moment exists in which the empty password meets another configuration.
        self.root("empty password", f"passwd -d {user}")
        with open(key + ".pub", encoding="ascii") as public:
            self.board.report(self.name, "installing", "starting", host_key=" ".join(public.read().split()[:2]))
        return as_root([sshd, "-D", "-e", "-f", self.config])

    def root(self, what: str, script: str, text: str = "") -> None:
        """A line of shell as root."""
        self.run(what, as_root(["sh", "-c", script]), text=text)

    def _check_root(self) -> None:
        try:
            self.root("sudo", "true")
        except ServiceError as failure:
            raise ServiceError(f"needs root, by sudo without a password: {failure}", final=True) from None

    def _sshd(self) -> str:
        """sshd's path (it insists on an absolute one), installed first when it is missing."""
        path = os.environ.get("PATH", "") + self.places
        found = shutil.which("sshd", path=path)
        if found:
            return found
        missing = "openssh-server is not in the image, and"
        if not self.told["apt"]:
            raise ServiceError(f"{missing} installing by apt is switched off", final=True)
        if not shutil.which("apt-get", path=path):
            raise ServiceError(f"{missing} there is no apt-get to install it", final=True)
        self._install()
        found = shutil.which("sshd", path=path)
        if not found:
            raise ServiceError("openssh-server was installed, but there is no sshd")
        return found

    def _install(self) -> None:
        options = ["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=2", *self._mirror()]
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", *options]
        self.step("apt-get update")
        self._apt("apt-get update", [*quiet, "update"])
        self.step("apt-get install openssh-server")
        # The package would start its own sshd, on every address; an absent policy file is how it is told not to.
        policy, mine = self.policy, "# krayne"
        script = f"test -e {policy} || {{ printf '#!/bin/sh\\n{mine}\\nexit 101\\n' >{policy} && chmod 755 {policy}; }}"
        self.root("policy-rc.d", script)
        try:
            install = [*quiet, "install", "-y", "--no-install-recommends", "openssh-server"]
            self._apt("apt-get install openssh-server", install)
        finally:
            self.root("policy-rc.d", f"if grep -qx '{mine}' {policy}; then rm -f {policy}; fi")

    def _apt(self, what: str, argv: list[str]) -> None:
        self.run(what, as_root(limited(INSTALL_LIMIT, [*gentle(), *argv])), limit=INSTALL_LIMIT + 30)

    def _mirror(self) -> list[str]:
        """apt's options for a mirror instead of the image's own sources."""
        if not self.told["apt_mirror"]:
            return []
        with open(self.release, encoding="utf-8") as release:
            found = re.search(r"^VERSION_CODENAME=\"?([a-z]+)", release.read(), re.MULTILINE)
        if not found:
            raise ServiceError("/etc/os-release names no VERSION_CODENAME for the apt mirror", final=True)
        self.root("apt mirror", f"cat >{self.sources}", f"deb {self.told['apt_mirror']} {found[1]} main\n")
        return ["-o", f"Dir::Etc::SourceList={self.sources}", "-o", "Dir::Etc::SourceParts=-"]

    def _configure(self, sshd: str) -> None:
        """With the container's environment in the sessions; without it where this sshd cannot read it."""
        path = re.sub(r"[^A-Za-z0-9/:._+-]", "", os.environ.get("PATH", ""))
        # /etc/profile sets PATH anew in login shells, and reads this after it.
        self.root(
            "profile", f"mkdir -p {os.path.dirname(self.profile)} && cat >{self.profile}", f'export PATH="{path}"\n'
        )
        plain = {"PATH": path, "RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "")}
        try:
            self._write_config(sshd, session_env())
        except ServiceError as failure:
            say(f"ssh: sessions get PATH and RAY_ADDRESS alone: {failure}")
            self._write_config(sshd, plain)

    def _write_config(self, sshd: str, env: dict[str, str]) -> None:
        new = self.config + ".new"
        # The environment may hold secrets: root's eyes only.
        script = f"umask 077; cat >{new} && {sshd} -t -f {new} && mv {new} {self.config}"
        self.root("sshd configuration", script, sshd_config(self.port, self.told["user"], self.host_key, env))


def session_env() -> dict[str, str]:
    """The container's environment as an ssh session should see it. A value of several lines cannot be passed."""
    env = {key: value for key, value in os.environ.items() if not PRIVATE.fullmatch(key)}
    return {key: value for key, value in sorted(env.items()) if key.isidentifier() and value.isprintable()}


def sshd_config(port: int, user: str, host_key: str, env: dict[str, str]) -> str:
    """The whole configuration: nothing of the image's own is read. SetEnv counts once, so it is one line."""
    quoted = " ".join('"{}={}"'.format(key, re.sub(r'(["\\])', r"\\\1", value)) for key, value in env.items())
    return f"""\
ListenAddress 127.0.0.1
Port {port}
HostKey {host_key}
AllowUsers {user}
PermitRootLogin no
PasswordAuthentication yes
PermitEmptyPasswords yes
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
X11Forwarding no
PrintMotd no
PidFile none
ClientAliveInterval 60
MaxSessions 100
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
SetEnv {quoted}
"""
