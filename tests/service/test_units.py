"""The unit and the agent: what they say, that systemd takes them, and that installing twice changes nothing."""

import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from krayne.errors import KrayneError
from krayne_client import service

ODD_PATH = '/usr/bin:/opt/with space/100%:/a"b'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{ODD_PATH}:{os.environ['PATH']}")
    for name in ("XDG_CONFIG_HOME", "KRAYNE_HOME", "KRAYNE_SOCKET", "SUDO_USER", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def fake_systemctl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that notes what it is told."""
    log = folder / "orders"
    log.touch()
    program = folder / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return log


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_systemd_takes_the_unit_and_the_socket(tmp_path: Path) -> None:
    unit = tmp_path / "kraynd.service"
    unit.write_text(service.render("linux"))
    (tmp_path / "kraynd.socket").write_text(service._template("kraynd.socket"))
    for name in ("kraynd.service", "kraynd.socket"):
        done = subprocess.run(
            ["systemd-analyze", "--user", "verify", "--man=no", str(tmp_path / name)],
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        told = [line for line in done.stderr.splitlines() if "kraynd" in line]
        assert (done.returncode, told) == (0, []), done.stderr


def test_the_unit_records_the_path_literally() -> None:
    unit = service.render("linux")
    assert 'Environment="PATH=/usr/bin:/opt/with space/100%%:/a\\"b:' in unit or os.environ["PATH"] in unit
    assert "@" not in "".join(line for line in unit.splitlines() if not line.startswith("#"))
    assert "Type=notify\n" in unit
    assert "WatchdogSec=60" in unit


def test_the_agent_says_what_launchd_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRAYNE_HOME", "/tmp/a&b")
    agent = plistlib.loads(service.render("darwin").encode())
    assert agent["Label"] == service.LABEL
    assert agent["ProgramArguments"] == service.service_command()
    assert os.path.isabs(agent["ProgramArguments"][0])
    assert agent["EnvironmentVariables"] == {"PATH": os.environ["PATH"], "KRAYNE_HOME": "/tmp/a&b"}
    assert agent["RunAtLoad"] is True
    assert agent["KeepAlive"] == {"SuccessfulExit": False}, "a clean stop stays stopped"
    assert agent["ProcessType"] == "Interactive"
    assert agent["Umask"] == 0o077
    known = {"Label", "ProgramArguments", "EnvironmentVariables", "RunAtLoad", "KeepAlive", "ProcessType", "Umask"}
    assert agent.keys() == known, "no Sockets: launchd would accept while the daemon cannot start"


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_another_path_is_recorded_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    before = service.render(system)
    monkeypatch.setenv("PATH", f"/opt/new & \\1 $x:{os.environ['PATH']}")
    assert before != service.render(system) == service.with_path(before, system)


@pytest.mark.skipif(sys.platform == "darwin", reason="systemd's")
def test_install_twice_and_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_systemctl(tmp_path, monkeypatch)
    assert service.install()
    assert not service.install()
    assert service.installed()
    assert log.read_text().splitlines()[:2] == ["--user daemon-reload", f"--user enable {service.UNIT}"]
    assert service.uninstall()
    assert not service.uninstall()
    assert not service.unit_path().exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="systemd's")
def test_a_unit_of_another_hand_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    service.unit_path().parent.mkdir(parents=True)
    service.unit_path().write_text("[Service]\nExecStart=/bin/true\n")
    for act in (service.install, service.uninstall):
        with pytest.raises(KrayneError, match="krayne's own"):
            act()


@pytest.mark.skipif(sys.platform == "darwin", reason="systemd's")
def test_the_service_of_another_home_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_systemctl(tmp_path, monkeypatch)
    service.install()
    monkeypatch.setenv("KRAYNE_HOME", str(tmp_path / "other"))
    assert not service.installed()
    service.install()
    assert service.installed()
    monkeypatch.delenv("KRAYNE_HOME")
    assert not service.installed()


@pytest.mark.skipif(sys.platform == "darwin", reason="systemd's")
def test_a_stale_unit_is_written_anew_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_systemctl(tmp_path, monkeypatch)
    service.install()
    path = service.unit_path()
    path.write_text(path.read_text().replace("ExecStart=", "ExecStart=/gone"))
    service.start()
    assert path.read_text() == service.render()
    assert log.read_text().splitlines()[-1] == f"--user start {service.UNIT}"
