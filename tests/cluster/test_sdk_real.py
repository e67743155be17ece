"""The SDK as a script uses it, against a real control plane through a daemon that the first call starts."""

import os
import signal
import socket
from contextlib import aclosing, closing

import anyio
import pytest
from anyio import to_thread

from krayne import api, errors
from krayne.api import aio
from krayne.config import ClusterConfig, WorkerGroupConfig
from tests.cluster.conftest import Krayne
from tests.cluster.using import Echo, exchange, until
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
LIMIT = 120.0
PORT = 9000


@pytest.fixture
def home(krayne: Krayne, monkeypatch: pytest.MonkeyPatch) -> Krayne:
    """This process lives in the home of the `krayne` command."""
    monkeypatch.delenv("KRAYNE_SOCKET", raising=False)
    for name in ("HOME", "KRAYNE_HOME", "KUBECONFIG", "PYTHONPATH"):
        monkeypatch.setenv(name, krayne.env[name])
    return krayne


def test_a_script(plane: ControlPlane, namespace: str, home: Krayne) -> None:
    config = ClusterConfig(name="demo", namespace=namespace, worker_groups=[WorkerGroupConfig(cpus="2", replicas=1)])
    seen: list[str] = []
    info = api.create_cluster(config, wait=True, timeout=LIMIT, progress=lambda one: seen.append(one.status))
    assert (info.status, info.num_workers) == ("ready", 1)
    until("the worker", lambda: api.get_cluster("demo", namespace).workers_ready == 1)  # ready is the head's word
    assert seen[-1] == "ready"
    assert info.client_url == f"ray://127.0.0.1:{home.port('demo', 'client')}"
    assert api.get_cluster_services("demo", namespace) == ["dashboard", "client", "notebook", "code-server", "ssh"]
    assert [one.name for one in api.list_clusters(namespace, kubeconfig=str(plane.kubeconfig))] == ["demo"]

    details = api.describe_cluster("demo", namespace)
    (group,) = details.worker_groups
    assert (group.name, group.replicas, group.cpus, group.memory, group.gpus) == ("worker", 1, "2", "2Gi", 0)
    assert (details.head.cpus, details.head.memory, details.head.ready) == ("1", "4Gi", True)
    assert details.python_version
    assert details.ray_version in details.head.image

    with Echo().running() as server:
        plane.node.map_port(namespace, "demo-head-*", PORT, server.port)
        with api.open_tunnel("demo", namespace, ports=[PORT]) as tunnel:
            (one,) = tunnel.tunnels
            with closing(socket.create_connection(("127.0.0.1", one.local_port), timeout=60)) as client:
                assert exchange(client, b"bytes" * 50_000) == b"bytes" * 50_000
    closed = [row for row in home.cluster("demo")["services"] if row["remote_port"] == PORT]
    assert [row["state"] for row in closed] == ["off"]

    assert api.scale_cluster("demo", namespace, "worker", 2).num_workers == 2
    assert api.wait_until_ready("demo", namespace, timeout=LIMIT).num_workers == 2
    path = f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/demo"
    assert plane.api.get(path)["spec"]["workerGroupSpecs"][0]["replicas"] == 2

    with pytest.raises(errors.ClusterAlreadyExistsError):
        api.create_cluster(config)
    api.delete_cluster("demo", namespace, wait=True, timeout=LIMIT)
    with pytest.raises(errors.ClusterNotFoundError):
        api.get_cluster("demo", namespace)
    assert plane.api.request("GET", f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters")["items"] == []


def test_a_namespace_that_is_not_there(namespace: str, home: Krayne) -> None:
    with pytest.raises(errors.NamespaceNotFoundError) as fault:
        api.create_cluster(ClusterConfig(name="demo", namespace=f"{namespace}-not"))
    assert fault.value.kind == "namespace-not-found"
    assert list((home.folder / "clusters").rglob("*.yaml")) == []
    assert home.clusters("-A") == []


def test_without_kubernetes(home: Krayne, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(home.home / "nowhere"))
    with pytest.raises(errors.KubeConnectionError) as fault:
        api.create_cluster(ClusterConfig(name="demo"))
    assert fault.value.hint
    with pytest.raises(errors.KubeConnectionError):
        api.list_clusters()


@pytest.mark.anyio
async def test_a_watch_and_a_wait_go_on_when_the_daemon_is_killed(namespace: str, home: Krayne) -> None:
    await aio.create_cluster(ClusterConfig(name="demo", namespace=namespace), wait=True, timeout=LIMIT)
    with anyio.fail_after(LIMIT):
        async with aclosing(aio.watch(namespace)) as events:
            async for event in events:
                if event.kind == "synced":
                    break
            pid = (await to_thread.run_sync(lambda: home("status", "-o", "json").json()))["pid"]
            os.kill(pid, signal.SIGKILL)
            waiting = await aio.wait_until_ready("demo", namespace, timeout=LIMIT)
            assert waiting.status == "ready"
            await aio.scale_cluster("demo", namespace, "worker", 1)
            async for event in events:
                if event.cluster is not None and event.cluster.num_workers == 1:
                    break
            await aio.delete_cluster("demo", namespace)
            async for event in events:
                if event.kind == "removed":
                    break
    assert (await to_thread.run_sync(lambda: home("status", "-o", "json").json()))["pid"] != pid


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
