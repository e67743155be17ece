"""The real daemon's metrics: every family is there, in the format, and counts."""

import pytest

from kraynd.metering import FORWARDS
from tests.core.test_metrics import parsed
from tests.service.test_restart import daemon, environ, reached

__all__ = ["environ"]
pytestmark = pytest.mark.timeout(180)


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
