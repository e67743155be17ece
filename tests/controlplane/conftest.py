"""One plane for the plane's own tests."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.controlplane.build import build
from tests.controlplane.plane import ControlPlane
from tests.controlplane.sample import PORT, Listener, head_of, ray_cluster


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    build()
    running = ControlPlane.start(tmp_path_factory.mktemp("plane"))
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def fresh_node(plane: ControlPlane) -> None:
    plane.node.reset()


@pytest.fixture
def head(plane: ControlPlane) -> str:
    plane.kubectl("apply", "-f", "-", stdin=ray_cluster("demo"))
    name = head_of(plane, "default", "demo")
    plane.wait_pod("default", name)
    return name


@pytest.fixture
def server(plane: ControlPlane, head: str) -> Iterator[Listener]:
    with closing(Listener()) as listener:
        plane.node.map_port("default", head, PORT, listener.port)
        yield listener
