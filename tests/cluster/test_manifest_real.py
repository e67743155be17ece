"""The golden manifests before the real API server, with the real RayCluster schema, and the real KubeRay operator."""

import json
from typing import Any

import pytest

from kraynd.core.bootstrap import HOOK, PROGRAM
from kraynd.core.manifest import DEFAULT_IMAGE_ANNOTATION, TEMPLATE_HASH_ANNOTATION, template_hashes
from kraynd.core.model import Json
from tests.controlplane.plane import ControlPlane
from tests.golden.cases import NAMES, config, manifest

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
STRICT = "fieldValidation=Strict"


def clusters(namespace: str, query: str = "") -> str:
    return f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters?{STRICT}{query}"


def lacking(wanted: Any, live: Any, at: str = "") -> list[str]:
    """Where `live` lacks something of `wanted`; defaults that the server added are fine."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        return [hole for key, value in wanted.items() for hole in lacking(value, live.get(key), f"{at}.{key}")]
    if isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        pairs = zip(wanted, live, strict=True)
        return [hole for index, pair in enumerate(pairs) for hole in lacking(*pair, f"{at}[{index}]")]
    # An empty mapping or list may be dropped: it says nothing.
    return [] if wanted == live or (wanted in ({}, []) and not live) else [f"{at}: {wanted!r} became {live!r}"]


@pytest.fixture(params=NAMES)
def made(request: pytest.FixtureRequest, namespace: str) -> Json:
    """A golden manifest in this test's namespace."""
    found: Json = manifest(request.param, namespace=namespace)
    return found


@pytest.mark.parametrize("made", ["default"], indirect=True)
def test_strict_validation_is_on(plane: ControlPlane, namespace: str, made: Json) -> None:
    made["spec"]["noSuchField"] = 1
    with pytest.raises(RuntimeError, match="noSuchField"):
        plane.api.request("POST", clusters(namespace, "&dryRun=All"), made)


def test_the_api_server_takes_every_field_and_keeps_it(plane: ControlPlane, namespace: str, made: Json) -> None:
    tried = plane.api.request("POST", clusters(namespace, "&dryRun=All"), made)
    assert lacking(made, tried) == []


@pytest.mark.whole("pod template of KubeRay's own making")
def test_the_operator_makes_the_head_that_was_meant(plane: ControlPlane, namespace: str, made: Json) -> None:
    # The operator runs as it does in a cluster; what it refuses it says in events only, and then no pod appears.
    plane.api.request("POST", clusters(namespace), made)
    name = made["metadata"]["name"]
    plane.kubectl("wait", "-n", namespace, f"raycluster/{name}", "--for=condition=HeadPodReady", "--timeout=90s")
    (pod,) = plane.pods(namespace, name)
    template = made["spec"]["headGroupSpec"]["template"]
    annotations = pod["metadata"]["annotations"]
    assert annotations[TEMPLATE_HASH_ANNOTATION] == template_hashes(made)["headgroup"]
    assert lacking(template["metadata"].get("labels", {}), pod["metadata"]["labels"]) == []
    head, *others = pod["spec"]["containers"]
    check_head(template["spec"]["containers"][0], head)
    assert f"--num-cpus={made['spec']['headGroupSpec']['rayStartParams']['num-cpus']} " in head["args"][0]
    enabled = made["spec"]["enableInTreeAutoscaling"]
    assert [one["name"] for one in others] == (["autoscaler"] if enabled else [])
    assert pod["spec"]["restartPolicy"] == ("Never" if enabled else "Always")
    assert pod["status"]["qosClass"] == "Guaranteed"
    workers = plane.pods(namespace, name, "worker")
    assert len(workers) == sum(group.replicas for group in config(name).worker_groups)
    live = plane.api.get(clusters(namespace).replace("?", f"/{name}?"))
    assert json.loads(live["metadata"]["annotations"][DEFAULT_IMAGE_ANNOTATION])["origin"] == "default"


def check_head(declared: Json, head: Json) -> None:
    """The Ray container: what we wrote, beside what KubeRay adds."""
    for field in ("name", "image", "resources"):
        assert head[field] == declared[field]
    ports = {(port["name"], port["containerPort"]) for port in head["ports"]}
    assert {(port["name"], port["containerPort"]) for port in declared["ports"]} <= ports
    names = {variable["name"] for variable in head["env"]}
    assert {variable["name"] for variable in declared.get("env", ())} <= names
    mounts = {mount["mountPath"] for mount in head["volumeMounts"]}
    assert {mount["mountPath"] for mount in declared.get("volumeMounts", ())} <= mounts
    hook = head.get("lifecycle", {}).get("postStart", {}).get("exec", {}).get("command")
    assert hook == declared.get("lifecycle", {}).get("postStart", {}).get("exec", {}).get("command")
    assert hook is None or hook[2:5:2] == [HOOK, PROGRAM]
    (started,) = head["args"]
    assert "ray start --head" in started
