"""Ray's real dashboard in a real browser, through a guarded forward; and what a foreign page meets there.

Needs chromium; skipped without it.
"""

import http.client
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, dump_dom
from tests.cluster.conftest import Krayne
from tests.controlplane.plane import ControlPlane
from tests.controlplane.ray import follow

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
LIMIT = 120.0  # seconds for one page on a busy machine


def test_the_dashboard_is_used_as_ever_and_no_foreign_page_submits_a_job(
    plane: ControlPlane, namespace: str, krayne: Krayne, tmp_path: Path
) -> None:
    krayne("create", "demo", "-n", namespace)
    with follow(plane, "demo", namespace) as ray:
        krayne("wait", "demo", "-n", namespace, "--for=ready", "--timeout", "120s")
        ray.wait()
        port = krayne.port("demo", "dashboard")
        found = dump_dom(f"http://dashboard.demo.localhost:{port}/", tmp_path / "own", limit=LIMIT, budget_ms=30_000)
        assert "Overview" in found
        assert "Jobs" in found  # drawn by its scripts, from its API
        rebound = dump_dom(f"http://evil.example:{port}/", tmp_path / "rebound", limit=LIMIT)
        assert "krayne refused this request" in rebound
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        asked.request("POST", "/api/jobs/", b'{"entrypoint": "true"}', {"Origin": "http://evil.example"})
        assert asked.getresponse().status == http.client.FORBIDDEN
        asked.close()
        (shown,) = [one for one in krayne("ports", "demo", "-o", "json").json() if one["service"] == "dashboard"]
        assert shown["blocked"] >= 2
