"""What every test gets: asyncio through anyio, a terminal's signals, and a home of its own."""

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kraynd.local.home import Home

# Where the tests run in the background of a shell, SIGINT is ignored, and would be by every process they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A stall of a busy machine is no fault of an example; pytest-timeout ends what hangs.
settings.register_profile("krayne", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("krayne")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def home_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty KRAYNE_HOME; no other variable of the caller's reaches the code."""
    where = tmp_path / "home"
    monkeypatch.setenv("KRAYNE_HOME", str(where))
    monkeypatch.delenv("KRAYNE_SOCKET", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return where


@pytest.fixture
def home(home_path: Path) -> Home:
    """An opened home."""
    assert not home_path.exists()
    return Home.open()
