"""The real daemon's metrics: every family is there, in the format, and counts."""

import socket
from pathlib import Path

import pytest

from kraynd.metering import FORWARDS
from tests.core.test_metrics import parsed
from tests.service.test_reload import until
from tests.service.test_restart import daemon, environ, reached
from tests.service.test_unix_doors import declared, doors

__all__ = ["declared", "environ"]
pytestmark = pytest.mark.timeout(180)


def test_who_waits_and_who_is_refused_is_counted(declared: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / "home" / "kraynd.yaml").open("a") as settings:
        settings.write("hold: {connections: 1, seconds: 3000}\n")
    with daemon(declared) as process, reached(process) as found:
        path, port = doors(found)["ssh"]

        def counted(name: str) -> float:
            families = parsed(found.call("daemon.metrics", seconds=60.0)["text"])
            return next(value for labels, value in families[f"krayne_forward_{name}"][1] if labels["service"] == "ssh")

        with socket.create_connection(("127.0.0.1", port)):
            until(found, lambda _: counted("held_connections") == 1)
            with socket.socket(socket.AF_UNIX) as another:
                another.connect(path)
                until(found, lambda _: counted("refused_total") == 1)
        until(found, lambda _: counted("held_connections") == 0)
        assert (counted("held_total"), counted("connections_total")) == (1, 2)


def test_the_families_of_a_daemon(environ: dict[str, str]) -> None:
    with daemon(environ) as process, reached(process) as found:
        status = found.call("daemon.status", seconds=60.0)
        families = parsed(found.call("daemon.metrics", seconds=60.0)["text"])
    assert families["krayne_info"] == (
        "gauge", [({"version": status["version"], "api": str(status["api"])}, 1.0)]
    )  # fmt: skip
    assert families["krayne_uptime_seconds"][1][0][1] >= status["uptime_s"]
    assert families["krayne_connected"] == ("gauge", [({}, 0.0)])
    assert families["krayne_reconcile_conflicts_total"] == ("counter", [({}, 0.0)])
    for name in ("reconcile_passes_total", "watch_restarts_total", "api_requests_total", "connection_tries_total"):
        assert f"krayne_{name}" in families
    assert families.keys() >= {f"krayne_forward_{name}" for name, _, _ in FORWARDS}
