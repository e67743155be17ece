"""What every test gets: asyncio through anyio, and a home of its own."""

from pathlib import Path

import pytest

from kraynd.local.home import Home


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
