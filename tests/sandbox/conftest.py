"""A sandbox's API for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.running import Running, running


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "home") as made:
        yield made
