"""The Kubernetes connection against the real API server: watches, writes with their guards, and what RBAC allows."""

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kraynd.core.model import ClusterKey, Json
from krayne.errors import (
    ClusterAlreadyExistsError,
    ClusterNotFoundError,
    ConflictError,
    ForbiddenError,
    KrayneError,
    NamespaceNotFoundError,
)
from tests.controlplane.plane import ControlPlane
from tests.golden.cases import manifest
from tests.kube.running import LIMIT, Running, running

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.timeout(400)]
RAY: dict[str, list[str]] = {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["*"]}
PODS: dict[str, list[str]] = {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["get", "list", "watch"]}


def path(key: ClusterKey) -> str:
    return f"/apis/ray.io/v1/namespaces/{key.namespace}/rayclusters/{key.name}"


async def ask(plane: ControlPlane, method: str, where: str, body: object = None) -> Any:
    return await anyio.to_thread.run_sync(partial(plane.api.request, method, where, body))


async def created(run: Running, namespace: str, case: str = "bare") -> tuple[ClusterKey, Json]:
    """A cluster made through the world, seen by its watch."""
    made = await run.world.create(manifest(case, namespace=namespace))
    key = ClusterKey(namespace, made["metadata"]["name"])
    await run.until(lambda: key in run.world.clusters)
    return key, run.world.clusters[key]


async def test_it_knows_the_cluster_and_follows_every_change(plane: ControlPlane, namespace: str) -> None:
    async with running(plane.kubeconfig) as run:
        await run.condition("ready")
        world = run.world
        assert world.id == plane.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
        assert world.kuberay.installed
        key, live = await created(run, namespace)
        assert "managedFields" not in live["metadata"]
        await run.until(lambda: any(pod["status"].get("phase") == "Running" for pod in world.pods_of(key)))
        # Only then has the operator seen its own pod; one deleted before is not replaced for minutes.
        await run.until(lambda: world.clusters[key].get("status", {}).get("state") == "ready")
        assert world.kuberay.version.lstrip("v") == plane.operator_version
        uid = world.clusters[key]["metadata"]["uid"]
        events = await world.events_for(namespace, {uid})
        assert {one["involvedObject"]["uid"] for one in events} == {uid}
        (pod,) = world.pods_of(key)
        await ask(
            plane, "DELETE", f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}?gracePeriodSeconds=0"
        )
        await run.until(lambda: pod["metadata"]["uid"] not in {one["metadata"]["uid"] for one in world.pods_of(key)})
        await run.until(lambda: len(world.pods_of(key)) == 1)  # KubeRay's next one
        await world.delete(key, uid=uid, resource_version=None)
        # Pods go by garbage collection, which knows a new CRD's owners only after its next look at discovery (30 s).
        await run.until(lambda: key not in world.clusters and not world.pods_of(key), limit=120.0)
        assert key in run.changed
        assert run.conditions == ["connecting", "ready"]


async def test_a_patch_is_guarded_by_its_tests(plane: ControlPlane, namespace: str) -> None:
    async with running(plane.kubeconfig) as run:
        await run.condition("ready")
        key, live = await created(run, namespace)
        note: Json = {"op": "add", "path": "/metadata/annotations/krayne.dev~1note", "value": "x"}
        with pytest.raises(ConflictError, match="not as it was"):
            await run.world.patch(key, [{"op": "test", "path": "/metadata/uid", "value": "another"}, note])
        with pytest.raises(ConflictError):
            await run.world.patch(key, [{"op": "remove", "path": "/spec/workerGroupSpecs/7/replicas"}])
        answer = await run.world.patch(
            key, [{"op": "test", "path": "/metadata/uid", "value": live["metadata"]["uid"]}, note]
        )
        assert answer["metadata"]["annotations"]["krayne.dev/note"] == "x"
        await run.until(lambda: "krayne.dev/note" in run.world.clusters[key]["metadata"].get("annotations", {}))
        with pytest.raises(KrayneError, match="headGroupSpec") as wrong:
            await run.world.patch(key, [{"op": "replace", "path": "/spec/headGroupSpec", "value": "nonsense"}])
        assert wrong.value.kind == "rejected"
        with pytest.raises(ClusterNotFoundError):
            await run.world.patch(ClusterKey(namespace, "nobody"), [note])


async def test_only_the_object_that_was_meant_is_deleted(plane: ControlPlane, namespace: str) -> None:
    async with running(plane.kubeconfig) as run:
        await run.condition("ready")
        key, live = await created(run, namespace)
        uid = live["metadata"]["uid"]
        with pytest.raises(ConflictError):
            await run.world.delete(key, uid="00000000-0000-0000-0000-000000000000", resource_version=None)
        with pytest.raises(ConflictError):
            await run.world.delete(key, uid=uid, resource_version="1")
        assert plane.api.get(path(key))["metadata"]["uid"] == uid
        await run.world.delete(key, uid=uid, resource_version=None)
        await run.until(lambda: key not in run.world.clusters)
        await run.world.delete(key, uid=uid, resource_version=None)  # gone already is fine


async def test_what_cannot_be_created_says_why(plane: ControlPlane, namespace: str) -> None:
    async with running(plane.kubeconfig) as run:
        await run.condition("ready")
        await created(run, namespace)
        with pytest.raises(ClusterAlreadyExistsError):
            await run.world.create(manifest("bare", namespace=namespace))
        with pytest.raises(NamespaceNotFoundError) as lost:
            await run.world.create(manifest("bare", namespace="no-such-place"))
        assert lost.value.kind == "namespace-not-found"
        assert lost.value.hint == "kubectl create namespace no-such-place"
        broken = manifest("bare", namespace=namespace)
        broken["metadata"]["name"] = "broken"
        del broken["spec"]["headGroupSpec"]
        with pytest.raises(KrayneError, match="headGroupSpec: Required") as refused:
            await run.world.create(broken)
        assert refused.value.kind == "rejected"


async def test_rights_in_one_namespace_are_enough(plane: ControlPlane, namespace: str) -> None:
    config = plane.kubeconfig_for(f"dev-{namespace}", rules=[RAY, PODS], namespace=namespace)
    async with running(config) as run, running(plane.kubeconfig) as admin:
        await run.condition("ready")
        await admin.condition("ready")
        assert run.world.limited_to == (namespace,)
        assert namespace in run.world.state.reason
        assert run.world.id  # another than the admin's: kube-system cannot be read
        key, _ = await created(run, namespace)
        await run.until(lambda: len(run.world.pods_of(key)) == 1)
        with pytest.raises(ForbiddenError, match="cannot create"):
            await run.world.create(manifest("bare", namespace="default"))
        await admin.until(lambda: key in admin.world.clusters)
        assert set(run.world.clusters) == {key}


async def test_no_rights_is_a_state_that_ends_when_they_come(plane: ControlPlane, namespace: str) -> None:
    user = f"guest-{namespace}"
    config = plane.kubeconfig_for(user, rules=[], namespace=namespace)
    async with running(config) as run:
        await run.condition("forbidden")
        assert f'User "{user}" cannot list resource "rayclusters"' in run.world.state.reason
        assert not run.world.synced
        role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/test:{user}"
        await anyio.to_thread.run_sync(plane.api.merge, role, {"rules": [RAY, PODS]})
        await run.condition("ready")


async def test_a_revoked_token_needs_a_login_and_a_new_one_is_noticed(plane: ControlPlane, namespace: str) -> None:
    user = f"token-{namespace}"
    config = plane.kubeconfig_for(user, rules=[RAY, PODS], namespace=namespace, auth="token")
    text = config.read_text()
    async with running(config) as run:
        await run.condition("ready")
        world = run.world
        assert not world.stale()
        token = str(world.transport.access.user["token"])
        plane.node.revoke_token(token)
        await _refused(run)
        assert token not in repr(world.state)
        config.write_text(text.replace(token, plane.token(user)))
        assert not world.stale()  # the same place, with a new key: taken over without a new world
        await run.condition("ready")
        config.write_text(text.replace(plane.server, "https://127.0.0.1:1"))
        assert world.stale()


async def _refused(run: Running) -> None:
    """An open watch outlives its token, and the API server remembers a good one for 10 s: wake it until it is asked."""
    with anyio.fail_after(LIMIT):
        while run.world.state.condition != "login-needed":
            run.world.wake()
            with anyio.move_on_after(1.0):
                await run.until(lambda: run.world.state.condition == "login-needed")


async def test_in_a_pod_the_service_account_is_enough(
    plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = f"pod-{namespace}"
    plane.kubeconfig_for(user, rules=[RAY, PODS], namespace=namespace)
    (tmp_path / "token").write_text(plane.token(user) + "\n")
    (tmp_path / "namespace").write_text(namespace)
    (tmp_path / "ca.crt").write_text(plane.ca_file.read_text())
    monkeypatch.setattr("kraynd.kube.kubeconfig.IN_CLUSTER", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(plane.port)}
    async with running(None, environ=environ) as run:
        await run.condition("ready")
        assert run.world.limited_to == (namespace,)
        assert run.world.context == "in-cluster"
