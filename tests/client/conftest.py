"""`krayne` as a process against the real server over clusters in memory, for the files of single subjects."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client.test_cli import Shell
from tests.daemon.backend import MemoryBackend, serving, some_cluster


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def backend() -> MemoryBackend:
    return MemoryBackend(some_cluster())


@pytest.fixture
async def shell(tmp_path: Path, backend: MemoryBackend) -> AsyncIterator[Shell]:
    made = Shell(tmp_path)
    async with serving(backend, made.socket):
        yield made


@pytest.fixture
def alone(tmp_path: Path) -> Shell:
    """No daemon."""
    return Shell(tmp_path)
