"""A real Jupyter in a real browser, through a guarded forward: a notebook is opened and its cell run.

The node maps the head pod's ports to a real Debian that runs the very startup command of the manifest.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from kraynd.core.bootstrap import STATUS_PORT
from krayne.config import ClusterConfig
from tests.browser import CHROMIUM
from tests.cluster.conftest import Krayne
from tests.controlplane.plane import ControlPlane
from tests.devtools import browser
from tests.pod.debian import NEEDS_DEBIAN, debian_root, started_head

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),
    NEEDS_DEBIAN,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
SERVICES = {"code_server": False, "ssh": False}
LIMIT = 180.0  # seconds for anything the page does: a first kernel on a busy machine
AGAIN = 20.0  # seconds until the keys are pressed once more
EDITOR = "document.querySelector('.jp-CodeCell .cm-content')"
CELL = "print(6 * 7, 'in', __import__('os').getcwd())"
NOTEBOOK = {
    "type": "notebook",
    "format": "json",
    "content": {
        "cells": [{"cell_type": "code", "id": "one", "metadata": {}, "outputs": [], "execution_count": None,
                   "source": CELL}],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    },
}  # fmt: skip
SAVE = """fetch('/api/contents/sums.ipynb', {method: 'PUT', body: JSON.stringify(NOTEBOOK),
  headers: {'X-XSRFToken': (document.cookie.match(/_xsrf=([^;]*)/) || [])[1]}}).then(told => told.status)"""


@pytest.mark.anyio
async def test_a_cell_is_run_in_a_browser(plane: ControlPlane, namespace: str, krayne: Krayne, tmp_path: Path) -> None:
    config = ClusterConfig.model_validate({"name": "demo", "services": SERVICES})
    root = await to_thread.run_sync(debian_root)
    with started_head(root, config, tmp_path / "head") as (pod, told):
        plane.node.map_port(namespace, "demo-head-*", STATUS_PORT, pod.status_port)
        plane.node.map_port(namespace, "demo-head-*", 8888, told["notebook"]["port"])
        try:
            await to_thread.run_sync(pod.await_reports, runs)
            port = await to_thread.run_sync(declared, krayne, namespace)
            await run_the_cell(f"http://notebook.demo.localhost:{port}", tmp_path / "profile")
            (shown,) = [one for one in krayne("ports", "demo", "-o", "json").json() if one["service"] == "notebook"]
            assert (shown["blocked"], shown["refused"]) == (0, 0)
        finally:
            plane.node.reset()


def runs(reports: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether Jupyter is installed and answers in the pod."""
    return bool(reports.get("notebook", {}).get("state") == "running")


def declared(krayne: Krayne, namespace: str) -> int:
    """The notebook's local port, once the notebook is served."""
    services = "{code_server: false, ssh: false}"
    krayne("apply", "-f", "-", stdin=f"name: demo\nnamespace: {namespace}\nservices: {services}\n")
    krayne("wait", "demo", "-n", namespace, "--for=service=notebook", "--timeout", "100s")
    return krayne.port("demo", "notebook")


async def run_the_cell(url: str, profile: Path) -> None:
    """Make a notebook, open it, run its one cell with the keyboard, see what it prints."""
    async with browser(profile, limit=LIMIT) as page:
        await page.open(f"{url}/tree")
        saved = await page.run(SAVE.replace("NOTEBOOK", json.dumps(NOTEBOOK)))
        assert saved == 201
        await page.open(f"{url}/notebooks/sums.ipynb")
        await page.when("document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')")

        async def run_it() -> None:
            await page.when(EDITOR)
            await page.run(f"{EDITOR}.focus()")  # never within `when`: focus changes the page, which would look again
            await page.press_shift_enter()

        # The page calls itself idle a moment before its kernel takes anything; keys pressed then run nothing.
        printed = await page.repeat(run_it, "document.querySelector('.jp-OutputArea-output')?.innerText", AGAIN)
        assert printed.strip() == "42 in /home/ray"
