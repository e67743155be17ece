"""Kubernetes timestamps as wall-clock seconds, and back. Pure: never asks the time."""

from datetime import UTC, datetime
from typing import Any


def unix(stamp: Any) -> float | None:
    """RFC 3339 text ("2026-01-02T03:04:05Z", with or without micros) as unix seconds; None for anything else."""
    if not isinstance(stamp, str) or not stamp:
        return None
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None


def stamp(wall: float) -> str:
    """Unix seconds as Kubernetes writes them: "2026-01-02T03:04:05Z"."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
