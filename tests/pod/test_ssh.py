"""How ssh is set up in a pod, with stand-ins for root's programs: the order of the steps, and what sshd is told."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kraynd.pod.board import Board, ServiceError
from kraynd.pod.ssh import Ssh, session_env, sshd_config
from tests.pod.lab import free_port, script

TOOLS = ("sh", "cat", "mkdir", "mv", "rm", "cp", "chmod", "grep", "env", "nice", "timeout", "true")
Made = Callable[..., Ssh]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """An Ssh whose root is a folder; every stand-in adds its line to `steps`."""
    own = tmp_path / "bin"
    own.mkdir()
    for name in TOOLS:
        (own / name).symlink_to(shutil.which(name) or "/nonexistent")
    steps = tmp_path / "steps"
    note = f'echo "${{0##*/}} $*" >>{steps}\n'
    script(own / "sudo", 'shift\nexec "$@"')
    script(own / "passwd", note)
    script(
        own / "ssh-keygen",
        f'{note}for key; do :; done; echo secret >"$key"; echo "ssh-ed25519 AAAA krayne" >"$key.pub"',
    )
    script(tmp_path / "sshd", f"{note}test ! -e {tmp_path}/refuse || ! grep -q REFUSED {tmp_path}/etc/config.new")
    script(
        own / "apt-get",
        f"{note}case $* in *install*) test -x {tmp_path}/etc/policy && cp {tmp_path}/sshd {own}/sshd ;; esac",
    )
    for key in list(os.environ):
        monkeypatch.delenv(key)
    monkeypatch.setenv("PATH", str(own))
    (tmp_path / "etc").mkdir()

    def make(**told: object) -> Ssh:
        ssh = Ssh(
            "ssh", {"port": free_port(), "user": "root", "apt": True, "apt_mirror": "", **told}, Board(str(tmp_path))
        )
        ssh.host_key, ssh.config, ssh.profile = (str(tmp_path / "etc" / name) for name in ("key", "config", "profile"))
        ssh.run_folder, ssh.policy, ssh.sources = (
            str(tmp_path / "etc" / name) for name in ("run", "policy", "sources")
        )
        ssh.release, ssh.places = str(tmp_path / "etc" / "release"), ""
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "services").mkdir(exist_ok=True)
        return ssh

    return make


def steps(folder: Path) -> list[str]:
    return (folder / "steps").read_text().splitlines()


def test_it_is_installed_configured_checked_and_only_then_opened(made: Made, tmp_path: Path) -> None:
    argv = made().prepare()
    assert argv[-5:] == [str(tmp_path / "bin" / "sshd"), "-D", "-e", "-f", str(tmp_path / "etc" / "config")]
    programs = [line.split()[0] for line in steps(tmp_path)]
    assert programs == ["apt-get", "apt-get", "ssh-keygen", "sshd", "passwd"]
    assert steps(tmp_path)[-1] == "passwd -d root"
    assert not (tmp_path / "etc" / "policy").exists(), "the image's own packages start as before"
    assert (tmp_path / "etc" / "config").stat().st_mode & 0o777 == 0o600


def test_a_second_time_nothing_is_installed_or_made_anew(made: Made, tmp_path: Path) -> None:
    made().prepare()
    key = (tmp_path / "etc" / "key.pub").stat().st_mtime_ns
    (tmp_path / "steps").unlink()
    made().prepare()
    assert [line.split()[0] for line in steps(tmp_path)] == ["sshd", "passwd"]
    assert (tmp_path / "etc" / "key.pub").stat().st_mtime_ns == key


def test_an_images_own_policy_file_stays(made: Made, tmp_path: Path) -> None:
    script(tmp_path / "etc" / "policy", "exit 101")
    made().prepare()
    assert (tmp_path / "etc" / "policy").exists()


def test_a_failed_install_never_empties_the_password(made: Made, tmp_path: Path) -> None:
    script(tmp_path / "bin" / "apt-get", "echo 'E: no route to the mirror' >&2; exit 100")
    with pytest.raises(ServiceError, match="no route to the mirror") as caught:
        made().prepare()
    assert not caught.value.final
    assert not (tmp_path / "steps").exists()


def test_a_refused_configuration_never_empties_the_password(made: Made, tmp_path: Path) -> None:
    script(tmp_path / "bin" / "sshd", "echo bad line >&2; exit 255")
    with pytest.raises(ServiceError, match="sshd configuration: bad line"):
        made().prepare()
    assert not [line for line in steps(tmp_path) if line.startswith("passwd")]


def test_an_environment_that_sshd_cannot_read_leaves_the_path_and_ray(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "refuse").touch()
    monkeypatch.setenv("REFUSED", "x")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    made().prepare()
    config = (tmp_path / "etc" / "config").read_text()
    assert f'SetEnv "PATH={tmp_path}/bin" "RAY_ADDRESS=127.0.0.1:6379"' in config


def test_apt_can_be_switched_off(made: Made) -> None:
    with pytest.raises(ServiceError, match="switched off") as caught:
        made(apt=False).prepare()
    assert caught.value.final


def test_a_mirror_replaces_the_images_sources(made: Made, tmp_path: Path) -> None:
    (tmp_path / "etc" / "release").write_text('NAME=x\nVERSION_CODENAME="jammy"\n')
    made(apt_mirror="https://mirror.example/ubuntu").prepare()
    assert (tmp_path / "etc" / "sources").read_text() == "deb https://mirror.example/ubuntu jammy main\n"
    assert all(f"SourceList={tmp_path}/etc/sources" in line for line in steps(tmp_path)[:2])


def test_the_host_key_is_reported(made: Made) -> None:
    ssh = made()
    ssh.prepare()
    ssh.board.report("ssh", "running")
    assert ssh.board.reports["ssh"]["host_key"] == "ssh-ed25519 AAAA"


def test_sshd_is_told_to_let_in_one_user_from_loopback() -> None:
    lines = sshd_config(22, "ray", "/key", {"A": "1"}).splitlines()
    assert {
        "ListenAddress 127.0.0.1",
        "Port 22",
        "AllowUsers ray",
        "PermitRootLogin no",
        "PermitEmptyPasswords yes",
        "UsePAM no",
        "HostKey /key",
    } <= set(lines)
    assert sum(line.startswith(("ListenAddress", "SetEnv")) for line in lines) == 2
    assert not [line for line in lines if line.startswith("Include")]


def test_sessions_get_the_containers_environment_quoted_and_nothing_of_one_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in list(os.environ):
        monkeypatch.delenv(key)
    wanted = {"PATH": "/opt/bin:/bin", "JSON": '{"a": "b\\c"}', "TOKEN": "s p # x"}
    for key, value in {**wanted, "HOME": "/", "SSH_TTY": "x", "LINES2": "a\nb", "with-dash": "x"}.items():
        monkeypatch.setenv(key, value)
    assert session_env() == wanted
    assert r'"JSON={\"a\": \"b\\c\"}"' in sshd_config(22, "ray", "/key", session_env())
