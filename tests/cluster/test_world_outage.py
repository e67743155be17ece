"""The connection through each kind of API server outage: said in words, over by itself, the caches true after it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path

import anyio.to_thread
import pytest

from kraynd.core.model import ClusterKey
from kraynd.kube.watch import WatchSettings
from tests.cluster.using import until
from tests.controlplane.api import ApiError
from tests.controlplane.plane import ControlPlane
from tests.golden.cases import manifest
from tests.kube.running import Running, running

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.timeout(400)]
ATTENTIVE = WatchSettings(silence=3.0)
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rayclusters.ray.io"


async def off_loop(call: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(call)


async def make(plane: ControlPlane, namespace: str, name: str) -> ClusterKey:
    body = manifest("bare", namespace=namespace)
    body["metadata"]["name"] = name
    await off_loop(partial(plane.api.request, "POST", f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters", body))
    return ClusterKey(namespace, name)


async def drop(plane: ControlPlane, key: ClusterKey) -> None:
    where = f"/apis/ray.io/v1/namespaces/{key.namespace}/rayclusters/{key.name}"
    await off_loop(partial(plane.api.request, "DELETE", where))


def is_gone(plane: ControlPlane, path: str) -> bool:
    """Whether the API server knows the object no more."""
    try:
        plane.api.get(path)
    except ApiError as error:
        return error.status == HTTPStatus.NOT_FOUND
    return False


def truth(plane: ControlPlane, namespace: str) -> dict[str, str]:
    """Names and versions of what the API server has."""
    found = plane.api.get(f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters")["items"]
    return {one["metadata"]["name"]: one["metadata"]["resourceVersion"] for one in found}


def seen(run: Running, namespace: str) -> dict[str, str]:
    """The same of the cache."""
    return {
        key.name: live["metadata"]["resourceVersion"]
        for key, live in run.world.clusters.items()
        if key.namespace == namespace
    }


@pytest.mark.parametrize("how", ["stop_apiserver", "kill_apiserver"])
async def test_a_restart_is_survived_and_what_happened_meanwhile_is_seen(
    plane: ControlPlane, namespace: str, how: str
) -> None:
    async with running(plane.kubeconfig) as run:
        await run.condition("ready")
        kept, gone = await make(plane, namespace, "kept"), await make(plane, namespace, "gone")
        await run.until(lambda: {kept, gone} <= set(run.world.clusters))
        before = dict(run.world.clusters)
        try:
            await off_loop(getattr(plane, how))
            await run.condition("unreachable")
            assert plane.server in run.world.state.reason
            assert not run.world.synced
            assert set(run.world.clusters) == set(before)  # an error is never an empty list
        finally:
            await off_loop(plane.start_apiserver)
        # The world is not ready yet, or is: either way it must learn of both.
        await drop(plane, gone)
        await make(plane, namespace, "new")
        await run.condition("ready")
        await run.until(lambda: seen(run, namespace).keys() == {"kept", "new"})
        await run.until(lambda: seen(run, namespace) == truth(plane, namespace))
        assert run.conditions == ["connecting", "ready", "unreachable", "ready"]


async def test_a_frozen_server_is_noticed_and_found_again(plane: ControlPlane, namespace: str) -> None:
    async with running(plane.kubeconfig, watching=ATTENTIVE) as run:
        await run.condition("ready")
        key = await make(plane, namespace, "demo")
        await run.until(lambda: key in run.world.clusters)
        plane.pause_apiserver()
        try:
            await run.condition("unreachable")
            assert "no answer in time" in run.world.state.reason
            assert key in run.world.clusters
        finally:
            plane.resume_apiserver()
        await run.condition("ready")
        await drop(plane, key)
        await run.until(lambda: key not in run.world.clusters)


async def test_silence_of_an_idle_server_is_not_an_outage(plane: ControlPlane) -> None:
    quick = WatchSettings(silence=0.3)
    async with running(plane.kubeconfig, watching=quick) as run:
        await run.condition("ready")
        with anyio.fail_after(30):
            while run.world.watch_restarts < 8:
                await anyio.sleep(0.1)  # nothing tells of it, which is the point
        assert run.conditions == ["connecting", "ready"]


async def test_a_server_that_is_down_at_first_is_waited_for(plane: ControlPlane) -> None:
    await off_loop(plane.stop_apiserver)
    try:
        async with running(plane.kubeconfig) as run:
            await run.condition("unreachable")
            assert "connection refused" in run.world.state.reason
            await off_loop(plane.start_apiserver)
            await run.condition("ready")
    finally:
        if "kube-apiserver" not in plane._children:
            await off_loop(plane.start_apiserver)


@pytest.fixture
def bare_plane() -> Iterator[ControlPlane]:
    """A plane of this test's own, since what it takes away others need: no operator."""
    root = Path(tempfile.mkdtemp(prefix="krb-"))
    made = ControlPlane.start(root)
    try:
        made.stop_operator()
        every = CRD.rpartition("/")[0]
        for crd in made.api.get(every)["items"]:
            made.api.request("DELETE", f"{every}/{crd['metadata']['name']}")
        # Applied to a definition that is still being deleted, the new one would go with it.
        until("no definitions", lambda: not made.api.get(every)["items"])
        yield made
    finally:
        made.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.whole("start without KubeRay")
async def test_kuberay_may_come_later_and_go_again(bare_plane: ControlPlane) -> None:
    async with running(bare_plane.kubeconfig) as run:
        await run.condition("kuberay-missing")
        assert "KubeRay is not installed" in run.world.state.reason
        assert run.world.state.hint.startswith("install the KubeRay operator")
        assert not run.world.kuberay.installed
        await off_loop(bare_plane.start_operator)
        await run.condition("ready")
        assert run.world.kuberay.installed
        key = await make(bare_plane, "default", "demo")
        await run.until(lambda: key in run.world.clusters)
        await off_loop(bare_plane.stop_operator)
        await off_loop(partial(bare_plane.api.request, "DELETE", CRD))
        await run.condition("kuberay-missing")
        assert not run.world.synced
        await off_loop(partial(until, "no definition", lambda: is_gone(bare_plane, CRD)))
        await off_loop(bare_plane.start_operator)
        await run.condition("ready")
