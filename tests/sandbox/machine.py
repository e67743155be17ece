"""The sandbox as a user has it, in a fresh home: the `krayne` command, and a Ray that only pretends."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from krayne_sandbox.node.processes import HOME_MARK, family
from tests.cluster.conftest import Krayne, make_krayne
from tests.sandbox import fake_ray

DEMO = "name: demo\nservices: {notebook: false, code_server: false, ssh: %s}\nworker_groups: [{replicas: %d}]\n"


@contextmanager
def fresh_home(extra: Mapping[str, str] | None = None) -> Iterator[Krayne]:
    """`krayne` with no cluster configured; whatever it started has ended afterwards, by its own commands."""
    made = make_krayne(None)
    python = fake_ray.install(made.home / "ray" / "bin")
    made.env |= {"KRAYNE_SANDBOX_PYTHON": str(python), "KUBECONFIG": "", **(extra or {})}
    try:
        yield made
    finally:
        made("daemon", "stop", code=None)
        made("sandbox", "down", "--purge", code=None)
        left = family(None, mark_of(made))
        shutil.rmtree(made.home, ignore_errors=True)
        assert left == [], left


def mark_of(krayne: Krayne) -> str:
    """What all processes of its pods bear."""
    return f"{HOME_MARK}={krayne.folder / 'sandbox'}"


def demo(krayne: Krayne, *, ssh: bool = False, workers: int = 0) -> None:
    """A cluster of that name, ready."""
    krayne("apply", "-f", "-", stdin=DEMO % (str(ssh).lower(), workers))
    krayne("wait", "demo", "--timeout", "90s")


def env_with(path: Path, **more: str) -> dict[str, str]:
    """A PATH with one more folder."""
    return {"PATH": f"{os.environ['PATH']}{os.pathsep}{path}", **more}
