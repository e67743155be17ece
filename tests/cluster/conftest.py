"""One real control plane for all tests here, a namespace for each, and `krayne` as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from tests.controlplane.plane import ControlPlane
from tests.sandbox.plane import SandboxPlane

OPERATOR = os.environ.get("KRAYNE_TEST_OPERATOR", "1.6.2")
SANDBOX = os.environ.get("KRAYNE_TEST_PLANE") == "sandbox"
COMMAND_LIMIT = 120.0  # seconds for one command, far above any that works


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a sandbox, say what it has no counterpart of."""
    for item in items if SANDBOX else ():
        if (mark := item.get_closest_marker("whole")) is not None:
            item.add_marker(pytest.mark.skip(reason=f"a sandbox has no {mark.args[0]}"))


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """The real thing: etcd, API server, controllers, scheduler, kwok, the KubeRay operator; or the sandbox."""
    root = Path(tempfile.mkdtemp(prefix="krp-"))
    running = cast("ControlPlane", SandboxPlane(root)) if SANDBOX else ControlPlane.start(root, operator=OPERATOR)
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test's own."""
    made: dict[str, Any] = plane.api.request(
        "POST", "/api/v1/namespaces", {"metadata": {"generateName": "test-", "labels": {"made-by": "tests"}}}
    )
    name = made["metadata"]["name"]
    yield name
    plane.api.request("DELETE", f"/apis/ray.io/v1/namespaces/{name}/rayclusters")
    plane.api.request("DELETE", f"/api/v1/namespaces/{name}")


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Krayne:
    """The `krayne` command in a fresh home, with an environment of its own."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    def __call__(self, *args: str, code: int | None = 0, stdin: str | None = None, **env: str) -> Ran:
        """Run it; `code` is the exit code it must have (None: any)."""
        done = subprocess.run(
            [sys.executable, "-m", "krayne_client.main", *args],
            env={**self.env, **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT,
            check=False,
            cwd=self.home,
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert code is None or ran.code == code, f"krayne {' '.join(args)}: {ran}\n{self.log()}"
        return ran

    def clusters(self, *args: str) -> list[dict[str, Any]]:
        """`krayne ls -o json`."""
        found: list[dict[str, Any]] = self("ls", "-o", "json", *args).json()
        return found

    def cluster(self, name: str) -> dict[str, Any]:
        """One row of it."""
        return next(one for one in self.clusters("-A") if one["name"] == name)

    def port(self, cluster: str, service: str) -> int:
        """A service's local port."""
        services = {one["name"]: one for one in self.cluster(cluster)["services"]}
        return int(services[service]["local_port"])

    def log(self) -> str:
        """What the daemon said, for a failing test's report."""
        path = self.home / ".krayne" / "logs" / "kraynd.log"
        return path.read_text()[-4000:] if path.exists() else ""

    @property
    def folder(self) -> Path:
        return self.home / ".krayne"


def make_krayne(kubeconfig: Path | None, extra: Mapping[str, str] | None = None) -> Krayne:
    """A fresh home; short, because Unix socket paths are."""
    home = Path(tempfile.mkdtemp(prefix="krh-"))
    env = {
        "HOME": str(home),
        "KRAYNE_HOME": str(home / ".krayne"),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    if kubeconfig is not None:
        env["KUBECONFIG"] = str(kubeconfig)
    return Krayne(home, {**env, **(extra or {})})


@pytest.fixture
def krayne(plane: ControlPlane) -> Iterator[Krayne]:
    """`krayne` against the plane, as its admin. Its daemon ends with the test."""
    made = make_krayne(plane.kubeconfig)
    try:
        yield made
    finally:
        made("daemon", "stop", code=None)
        shutil.rmtree(made.home, ignore_errors=True)
