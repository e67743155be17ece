"""The screen at 80x24 against the real server over clusters in memory."""

from tests.api.conftest import anyio_backend, house

__all__ = ["anyio_backend", "house"]
