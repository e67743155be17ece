"""kraynd.yaml while the daemon runs: what changes at once, what waits for a restart, what a bad file does."""

import logging
from pathlib import Path

import anyio
import pytest

from kraynd.settingsfile import SettingsFile
from krayne.config.daemon import HoldBounds

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(home_path: Path) -> Path:
    home_path.mkdir(mode=0o700)
    return home_path / "kraynd.yaml"


async def test_a_changed_file_is_told_once(file: Path) -> None:
    settings, told = SettingsFile(), []
    settings.attach(lambda: told.append(settings.current))
    file.write_text("hold: {seconds: 5}\nprune: true\n")
    await settings.look()
    await settings.look()
    assert [(one.hold, one.prune) for one in told] == [(HoldBounds(seconds=5), True)]
    assert settings.notes == ()


async def test_the_file_is_followed(file: Path) -> None:
    settings, told = SettingsFile(), anyio.Event()
    settings.attach(told.set)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(settings.run)
            file.write_text("log_level: debug\n")
            await told.wait()
            tasks.cancel_scope.cancel()
    assert settings.current.log_level == "debug"


async def test_a_bad_file_leaves_what_was_in_force(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text("prune: true\n")
    settings, told = SettingsFile(), []
    settings.attach(lambda: told.append(1))
    file.write_text("log_level: info\nprune: perhaps\n")
    await settings.look()
    await settings.look()
    assert settings.current.prune
    assert settings.problem is not None
    assert f"{file}:2" in settings.problem.message
    assert [one.levelno for one in caplog.records] == [logging.ERROR], "said once"
    caplog.set_level(logging.INFO)
    file.write_text("prune: true\n")
    await settings.look()
    assert told == []
    assert "good again" in caplog.text


async def test_what_needs_a_restart_is_said_until_it_is_taken_back(file: Path) -> None:
    settings = SettingsFile()
    file.write_text("ports: {low: 20000}\nnamespaces: [team]\n")
    await settings.look()
    assert settings.waiting == ("ports", "namespaces")
    assert "krayne daemon restart" in settings.notes[0]
    file.write_text("")
    await settings.look()
    assert settings.notes == ()
