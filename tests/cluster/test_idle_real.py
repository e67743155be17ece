"""An idle cluster on a real control plane with a real Ray: kept while it is used, then suspended with the reason."""

import socket

import pytest

from tests.cluster.conftest import Krayne
from tests.cluster.using import becomes, service
from tests.controlplane.plane import ControlPlane
from tests.controlplane.ray import follow

pytestmark = [pytest.mark.real, pytest.mark.timeout(500)]


def test_an_idle_cluster_is_suspended_and_woken_by_command_alone(
    plane: ControlPlane, namespace: str, krayne: Krayne
) -> None:
    krayne("create", "demo", "-n", namespace)
    with follow(plane, "demo", namespace) as ray:
        krayne("wait", "demo", "--timeout", "120s")
        ray.wait()
        krayne("idle", "demo", "60s")
        with socket.create_connection(("127.0.0.1", krayne.port("demo", "client")), timeout=10):
            with pytest.raises(AssertionError, match="suspended"):
                krayne("wait", "demo", "--for=suspended", "--timeout", "95s")
        row = becomes(krayne, "demo", lambda row: "unless it is used" in " ".join(row["notes"]), 120.0)
        assert row["phase"] == "ready"
        krayne("wait", "demo", "--for=suspended", "--timeout", "100s")
        row = krayne.cluster("demo")
        assert "suspended after 1m without use; krayne resume demo" in row["notes"]
        with socket.create_connection(("127.0.0.1", krayne.port("demo", "ssh")), timeout=10) as client:
            client.sendall(b"x")
            becomes(krayne, "demo", lambda row: service(row, "ssh")["state"] == "holding")
        assert krayne.cluster("demo")["phase"] == "suspended"
        krayne("idle", "demo", "off")
        krayne("resume", "demo")
        becomes(krayne, "demo", lambda row: row["phase"] in ("pending", "starting", "ready"))
