"""The unit and the agent: what they say, that systemd takes them, and that installing twice changes nothing."""

import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from krayne.errors import KrayneError
from krayne_client import service
from krayne_client.commands import doctoring

ODD_PATH = '/usr/bin:/opt/with space/100%:/a"b'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{ODD_PATH}:{os.environ['PATH']}")
    for name in ("XDG_CONFIG_HOME", "SUDO_USER", *service.RECORDED):
        if name != "PATH":
            monkeypatch.delenv(name, raising=False)
    return tmp_path


def fake_systemctl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that notes what it is told."""
    return fake_program("systemctl", folder, monkeypatch)


def fake_program(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that notes what it is told."""
    log = folder / "orders"
    log.touch()
    program = folder / "bin" / name
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


def test_what_credential_plugins_go_by_is_recorded_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "research")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-1")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:canary-2@proxy:3128")
    for system in ("linux", "darwin"):
        text = service.render(system)
        assert "research" in text
        assert "10.0.0.0/8" in text
        assert "canary" not in text


# Of launchd.plist(5): each key we use, and what its value may be.
LAUNCHD: dict[str, Callable[[Any], bool]] = {
    "Label": lambda it: isinstance(it, str) and it != "",
    "ProgramArguments": lambda it: isinstance(it, list) and it != [] and all(isinstance(one, str) for one in it),
    "EnvironmentVariables": lambda it: all(isinstance(one, str) for pair in it.items() for one in pair),
    "RunAtLoad": lambda it: isinstance(it, bool),
    "KeepAlive": lambda it: isinstance(it, bool) or all(isinstance(one, bool) for one in it.values()),
    "ProcessType": lambda it: it in ("Background", "Standard", "Adaptive", "Interactive"),
    "Umask": lambda it: isinstance(it, int) and not isinstance(it, bool),
}
KEEP_ALIVE = {"SuccessfulExit", "NetworkState", "PathState", "OtherJobEnabled", "Crashed", "AfterInitialDemand"}


def test_each_key_of_the_agent_is_one_of_launchds_with_a_value_of_its_type() -> None:
    agent = plistlib.loads(service.render("darwin").encode(), fmt=plistlib.FMT_XML)
    for key, value in agent.items():
        assert LAUNCHD[key](value), (key, value)
    assert agent["KeepAlive"].keys() <= KEEP_ALIVE
    assert service.unit_path("darwin").name == f"{agent['Label']}.plist", "its file is called so"


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
    orders = [one for one in log.read_text().splitlines() if " show " not in one]
    assert orders[:2] == ["--user daemon-reload", f"--user enable {service.UNIT}"]
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
def test_without_a_manager_nothing_is_written_and_the_other_way_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_systemctl(tmp_path, monkeypatch)
    (tmp_path / "bin" / "systemctl").write_text("#!/bin/sh\necho Failed to connect to bus >&2\nexit 1\n")
    with pytest.raises(KrayneError, match="no service manager") as told:
        service.install()
    assert "krayne daemon start" in told.value.hint
    assert not service.unit_path().exists()


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_what_an_older_version_wrote_is_renewed_with_what_it_recorded(
    monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    now = service.render(system)
    older = now.replace("WatchdogSec=60", "WatchdogSec=30").replace("Interactive", "Background")
    assert older != now
    monkeypatch.setenv("PATH", "/another/shell")
    monkeypatch.setenv("AWS_PROFILE", "another")
    assert service.renewed(older, system) == now
    assert service.renewed(now, system) == now


def test_launchd_gets_its_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as can be told without a macOS: which, in which order, and to whom."""
    monkeypatch.setattr(sys, "platform", "darwin")
    log, agent, me = fake_program("launchctl", tmp_path, monkeypatch), service.unit_path(), f"gui/{os.getuid()}"
    ours, into = f"{me}/{service.LABEL}", f"bootstrap {me} {agent}"
    assert agent.parent == tmp_path / "Library" / "LaunchAgents"

    def orders() -> list[str]:
        found = [one for one in log.read_text().splitlines() if not one.startswith("print ")]
        log.write_text("")
        return found

    assert service.install()
    assert not service.install()
    service.start()
    assert orders() == [into, f"kickstart {ours}"]
    agent.write_text(agent.read_text().replace("Interactive", "Background"))
    service.start()
    assert orders() == [f"bootout {ours}", into, f"kickstart {ours}"], "told anew what changed"
    assert agent.read_text() == service.render()
    service.stop()
    assert service.uninstall()
    assert orders() == [f"kill SIGTERM {ours}", f"bootout {ours}"]
    assert not agent.exists()


def test_the_command_is_one_that_an_upgrade_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cellar = tmp_path / "Cellar" / "krayne" / "1.0" / "libexec" / "bin"
    cellar.mkdir(parents=True)
    (cellar / "kraynd").write_text("#!/bin/sh\n")
    (cellar / "kraynd").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(cellar / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert service.service_command() == [str(cellar / "kraynd")], "there is nothing else"
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "krayne").symlink_to(tmp_path / "Cellar" / "krayne" / "1.0")
    assert service.service_command() == [str(tmp_path / "opt" / "krayne" / "libexec" / "bin" / "kraynd")]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kraynd").symlink_to(cellar / "kraynd")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert service.service_command() == [str(tmp_path / "bin" / "kraynd")]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/nowhere")
    assert service.fleeting() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert service.fleeting() == str(tmp_path / "bin" / "kraynd")


@pytest.mark.skipif(sys.platform == "darwin", reason="systemd's")
def test_doctor_knows_how_the_unit_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctoring, "LINGERING", str(tmp_path / "linger"))
    path = service.unit_path()
    assert "not installed" in doctoring._unit()["detail"]
    path.parent.mkdir(parents=True)
    path.write_text(service.render())
    assert doctoring._unit()["state"] == "ok"
    assert "ends at the last logout" in doctoring._unit()["detail"]
    path.write_text(service.render().replace("WatchdogSec=60", "WatchdogSec=30"))
    assert "another version" in doctoring._unit()["detail"]
    monkeypatch.setenv("KRAYNE_HOME", str(tmp_path / "other"))
    assert "another home" in doctoring._unit()["detail"]


@pytest.mark.skipif(sys.platform == "darwin", reason="systemd's")
def test_a_stale_unit_is_written_anew_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_systemctl(tmp_path, monkeypatch)
    service.install()
    path = service.unit_path()
    path.write_text(path.read_text().replace("ExecStart=", "ExecStart=/gone"))
    service.start()
    assert path.read_text() == service.render()
    assert log.read_text().splitlines()[-1] == f"--user start {service.UNIT}"
