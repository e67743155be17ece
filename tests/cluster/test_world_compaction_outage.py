"""A watch whose place in history etcd has thrown away: 410, a new list, and nothing missed."""

import json
import urllib.request

import anyio.to_thread
import pytest

from kraynd.core.model import ClusterKey
from tests.controlplane.api import ApiError
from tests.controlplane.plane import ControlPlane
from tests.golden.cases import manifest
from tests.kube.running import running

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.timeout(400)]
RAY = "/apis/ray.io/v1"


def compact(plane: ControlPlane) -> int:
    """Make etcd forget everything before now, by its JSON gateway; returns the revision."""

    def ask(path: str, body: object) -> dict[str, dict[str, str]]:
        url = f"http://127.0.0.1:{plane._ports['etcd'].number}/v3/kv/{path}"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=10) as reply:
            found: dict[str, dict[str, str]] = json.loads(reply.read())
        return found

    revision = int(ask("range", {"key": "AA=="})["header"]["revision"])
    ask("compaction", {"revision": revision, "physical": True})
    return revision


def resumed(plane: ControlPlane, version: str) -> str:
    """What the API server says to a watch that resumes there."""
    try:
        query = f"watch=1&timeoutSeconds=1&resourceVersion={version}"
        return str(plane.api.request("GET", f"{RAY}/rayclusters?{query}"))
    except ApiError as error:
        return str(error)


async def test_history_thrown_away_in_an_outage_costs_nothing_but_a_list(plane: ControlPlane, namespace: str) -> None:
    off_loop = anyio.to_thread.run_sync
    path = f"{RAY}/namespaces/{namespace}/rayclusters"

    def make(name: str) -> ClusterKey:
        body = manifest("bare", namespace=namespace)
        body["metadata"]["name"] = name
        plane.api.request("POST", path, body)
        return ClusterKey(namespace, name)

    async with running(plane.kubeconfig) as run:
        await run.condition("ready")
        gone = await off_loop(make, "gone")
        await run.until(lambda: gone in run.world.clusters)
        place = run.world.clusters[gone]["metadata"]["resourceVersion"]
        await off_loop(plane.stop_apiserver)
        try:
            await run.condition("unreachable")
            assert await off_loop(compact, plane) > int(place)
        finally:
            await off_loop(plane.start_apiserver)
        new = await off_loop(make, "new")
        await off_loop(plane.api.request, "DELETE", f"{path}/gone")
        assert "too old resource version" in await off_loop(resumed, plane, place)
        await run.until(lambda: new in run.world.clusters and gone not in run.world.clusters)
        await run.condition("ready")
        assert run.conditions == ["connecting", "ready", "unreachable", "ready"]
