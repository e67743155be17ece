"""The requests that go to both servers, and what of their answers must be the same."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.sandbox.things import raycluster, thing, workers

NS = "NAMESPACE"  # replaced by the test's own
MAPS = f"/api/v1/namespaces/{NS}/configmaps"
PODS = f"/api/v1/namespaces/{NS}/pods"
SERVICES = f"/api/v1/namespaces/{NS}/services"
CLUSTERS = f"/apis/ray.io/v1/namespaces/{NS}/rayclusters"
JSON = "application/json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
PARTIAL = {"Accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json"}
PARTIALS = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"}

# Chosen by the server or by time.
VOLATILE = {
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "time",
    "deletionTimestamp",
    "clusterIP",
    "clusterIPs",
    "continue",
    "description",
}


@dataclass(frozen=True)
class Step:
    """One request, sent to both servers."""

    method: str
    path: str
    body: Any = None
    kind: str = JSON
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    ignore: Sequence[str] = ()  # places that differ for a reason, given beside the case


def post(path: str, body: Any, **query: str) -> Step:
    return Step("POST", path, body, query=query)


def get(path: str, headers: dict[str, str] | None = None, **query: str) -> Step:
    return Step("GET", path, headers=headers or {}, query=query)


def patch(path: str, body: Any, kind: str = MERGE, **query: str) -> Step:
    return Step("PATCH", path, body, kind, query)


def put(path: str, body: Any, **query: str) -> Step:
    return Step("PUT", path, body, query=query)


def delete(path: str, body: Any = None, **query: str) -> Step:
    return Step("DELETE", path, body, query=query)


def here(made: dict[str, Any]) -> dict[str, Any]:
    """The object without a namespace of its own: the path gives it."""
    return {**made, "metadata": {key: one for key, one in made["metadata"].items() if key != "namespace"}}


def configmap(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", **here(thing(name, **more))}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    """One that no scheduler takes up."""
    wanted = {
        "schedulerName": "nobody", "automountServiceAccountToken": False, "serviceAccountName": "default",
        "containers": [{"name": "main", "image": "busybox:1"}], **spec,
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": wanted}


def service(name: str) -> dict[str, Any]:
    spec = {"selector": {"a": "b"}, "ports": [{"name": "http", "port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def applied(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": name}, "spec": spec}


HEAD = raycluster("x")["spec"]["headGroupSpec"]

CASES: dict[str, list[Step]] = {
    "create and get": [post(MAPS, configmap("a", data={"k": "v"}), fieldManager="t"), get(f"{MAPS}/a")],
    "create twice": [post(MAPS, configmap("a")), post(MAPS, configmap("a"))],
    "create in no namespace": [post("/api/v1/namespaces/none-such/configmaps", configmap("a"))],
    "create with a bad name": [post(MAPS, configmap("Not_A_Name"))],
    "create without a name": [post(MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}})],
    "create a cluster": [post(CLUSTERS, raycluster("a", workerGroupSpecs=[workers()]), fieldManager="t")],
    "create by YAML": [
        Step(
            "POST",
            MAPS,
            b"metadata:\n  name: a\ndata: {k: v}\napiVersion: v1\nkind: ConfigMap\n",
            "application/yaml",
            {"fieldManager": "t"},
        )
    ],
    "create as a dry run": [post(MAPS, configmap("a"), dryRun="All", fieldManager="t"), get(f"{MAPS}/a")],
    "create a pod": [post(PODS, pod("a"), fieldManager="t")],
    "create a service": [post(SERVICES, service("a"), fieldManager="t")],
    "create in another namespace than the path's": [
        post(MAPS, {**configmap("a"), "metadata": {"name": "a", "namespace": "other"}})
    ],
    "bad JSON": [Step("POST", CLUSTERS, b"{", ignore=("message",))],
    "a list where an object belongs": [Step("POST", CLUSTERS, b"[]", ignore=("message",))],
    "another kind than the path's": [post(CLUSTERS, configmap("a"))],
    "an unknown media type": [Step("POST", MAPS, b"{}", "application/x-none", ignore=("message",))],
    "an unknown kind": [get(f"/apis/ray.io/v1/namespaces/{NS}/none")],
    "an unknown group": [get("/apis/none.krayne.test/v1")],
    "an unknown object": [
        get(f"{MAPS}/none"),
        get(f"{CLUSTERS}/none"),
        delete(f"{CLUSTERS}/none"),
        patch(f"{CLUSTERS}/none", {}),
    ],
    "a verb that is not there": [put(MAPS, configmap("a")), post(f"{CLUSTERS}/a", raycluster("a"))],
    "a schema violation": [post(CLUSTERS, raycluster("a", suspend="yes"))],
    "many schema violations": [
        Step("POST", CLUSTERS, raycluster("a", suspend=1, rayVersion=2, workerGroupSpecs=[{}]), ignore=("message",))
    ],
    "a number below its minimum": [post(CLUSTERS, raycluster("a", autoscalerOptions={"idleTimeoutSeconds": "x"}))],
    "a value that is no choice": [post(CLUSTERS, raycluster("a", autoscalerOptions={"upscalingMode": "Never"}))],
    "a quantity that is none": [
        post(CLUSTERS, raycluster("a", autoscalerOptions={"resources": {"limits": {"cpu": "x!"}}}))
    ],
    "a required field": [
        post(CLUSTERS, {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "a"}, "spec": {}})
    ],
    "a null where a value belongs": [post(CLUSTERS, raycluster("a", rayVersion=None))],
    "a rule broken": [post(CLUSTERS, raycluster("a", managedBy="nobody"))],
    "an immutable field": [
        post(CLUSTERS, raycluster("a", managedBy="ray.io/kuberay-operator")),
        patch(f"{CLUSTERS}/a", {"spec": {"managedBy": "kueue.x-k8s.io/multikueue"}}),
    ],
    "an unknown field, strict": [post(CLUSTERS, raycluster("a", none=1), fieldValidation="Strict")],
    "an unknown field, warned": [post(CLUSTERS, raycluster("a", none=1), fieldManager="t")],
    "an unknown field, ignored": [post(CLUSTERS, raycluster("a", none=1), fieldValidation="Ignore", fieldManager="t")],
    "defaults": [
        post(
            CLUSTERS,
            raycluster("a", workerGroupSpecs=[{key: one for key, one in workers().items() if key != "maxReplicas"}]),
            fieldManager="t",
        )
    ],
    "update": [
        post(MAPS, configmap("a"), fieldManager="t"),
        put(f"{MAPS}/a", configmap("a", data={"k": "v"}), fieldManager="t"),
    ],
    "update by another name": [post(MAPS, configmap("a")), put(f"{MAPS}/a", configmap("b"))],
    "update from an old version": [
        post(MAPS, configmap("a")),
        put(f"{MAPS}/a", configmap("a", metadata={"resourceVersion": "1"})),
    ],
    "update of a cluster without a version": [post(CLUSTERS, raycluster("a")), put(f"{CLUSTERS}/a", raycluster("a"))],
    "patch of none": [patch(f"{MAPS}/none", {"data": {"k": "v"}})],
    "generation": [
        post(CLUSTERS, raycluster("a"), fieldManager="t"),
        patch(f"{CLUSTERS}/a", {"metadata": {"labels": {"l": "1"}}}, fieldManager="t"),
        patch(f"{CLUSTERS}/a", {"spec": {"suspend": True}}, fieldManager="t"),
        patch(f"{CLUSTERS}/a", {"spec": {"suspend": True}}, fieldManager="t"),
        patch(f"{CLUSTERS}/a/status", {"status": {"state": "ready"}}, fieldManager="t"),
    ],
    "status is a subresource": [
        post(CLUSTERS, {**raycluster("a"), "status": {"state": "ready"}}, fieldManager="t"),
        patch(f"{CLUSTERS}/a", {"status": {"state": "ready"}}, fieldManager="t"),
        patch(f"{CLUSTERS}/a/status", {"status": {"state": "ready"}, "spec": {"suspend": True}}, fieldManager="t"),
        get(f"{CLUSTERS}/a/status"),
    ],
    "merge patch": [
        post(MAPS, configmap("a", data={"x": "1", "y": "2"}), fieldManager="t"),
        patch(f"{MAPS}/a", {"data": {"x": None, "z": "3"}}, fieldManager="t"),
    ],
    "merge patch from an old version": [
        post(MAPS, configmap("a")),
        patch(f"{MAPS}/a", {"metadata": {"resourceVersion": "1"}, "data": {"x": "1"}}),
    ],
    "merge patch of a name": [post(CLUSTERS, raycluster("a")), patch(f"{CLUSTERS}/a", {"metadata": {"name": "b"}})],
    "JSON patch": [
        post(CLUSTERS, raycluster("a", workerGroupSpecs=[workers()]), fieldManager="t"),
        patch(
            f"{CLUSTERS}/a",
            [
                {"op": "test", "path": "/spec/workerGroupSpecs/0/replicas", "value": 1},
                {"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 2},
            ],
            JSON_PATCH,
            fieldManager="t",
        ),
    ],
    "JSON patch that replaces what is not there, as Ray's autoscaler does": [
        post(CLUSTERS, raycluster("a", workerGroupSpecs=[workers()]), fieldManager="t"),
        patch(
            f"{CLUSTERS}/a",
            [{"op": "replace", "path": "/spec/workerGroupSpecs/0/scaleStrategy", "value": {"workersToDelete": ["x"]}}],
            JSON_PATCH,
            fieldManager="t",
        ),
    ],
    "JSON patch whose test fails": [
        post(CLUSTERS, raycluster("a")),
        patch(f"{CLUSTERS}/a", [{"op": "test", "path": "/spec/rayVersion", "value": "x"}], JSON_PATCH),
    ],
    "JSON patch of nothing": [
        post(CLUSTERS, raycluster("a")),
        Step("PATCH", f"{CLUSTERS}/a", [{"op": "remove", "path": "/spec/none"}], JSON_PATCH, ignore=("message",)),
    ],
    "JSON patch that is none": [
        post(CLUSTERS, raycluster("a")),
        Step("PATCH", f"{CLUSTERS}/a", {"a": 1}, JSON_PATCH, ignore=("message",)),
    ],
    "strategic merge patch": [
        post(SERVICES, service("a"), fieldManager="t"),
        patch(f"{SERVICES}/a", {"spec": {"ports": [{"name": "more", "port": 81}]}}, STRATEGIC, fieldManager="t"),
    ],
    "strategic merge patch of a cluster": [
        post(CLUSTERS, raycluster("a")),
        Step("PATCH", f"{CLUSTERS}/a", {}, STRATEGIC, ignore=("message",)),
    ],
    "a pod's spec stays": [
        post(PODS, pod("a")),
        Step(
            "PATCH",
            f"{PODS}/a",
            {"spec": {"dnsPolicy": "Default"}},
            MERGE,
            ignore=("message", "details.causes[0].message"),
        ),
    ],
    "apply": [
        patch(f"{CLUSTERS}/a", applied("a", headGroupSpec=HEAD, suspend=True), APPLY, fieldManager="one"),
        patch(f"{CLUSTERS}/a", applied("a", headGroupSpec=HEAD, suspend=True), APPLY, fieldManager="one"),
        patch(f"{CLUSTERS}/a", applied("a", headGroupSpec=HEAD), APPLY, fieldManager="one"),
    ],
    "apply by two": [
        patch(f"{CLUSTERS}/a", applied("a", headGroupSpec=HEAD, suspend=True), APPLY, fieldManager="one"),
        patch(f"{CLUSTERS}/a", applied("a", suspend=False), APPLY, fieldManager="two"),
        patch(f"{CLUSTERS}/a", applied("a", suspend=False), APPLY, fieldManager="two", force="true"),
        patch(f"{CLUSTERS}/a", applied("a", headGroupSpec=HEAD), APPLY, fieldManager="one"),
    ],
    "apply what is shared": [
        patch(f"{CLUSTERS}/a", applied("a", headGroupSpec=HEAD, suspend=True), APPLY, fieldManager="one"),
        patch(f"{CLUSTERS}/a", applied("a", suspend=True), APPLY, fieldManager="two"),
        patch(f"{CLUSTERS}/a", applied("a", headGroupSpec=HEAD), APPLY, fieldManager="one"),
    ],
    "apply an atomic list": [
        patch(
            f"{CLUSTERS}/a", applied("a", headGroupSpec=HEAD, workerGroupSpecs=[workers()]), APPLY, fieldManager="one"
        ),
        patch(f"{CLUSTERS}/a", applied("a", workerGroupSpecs=[workers(replicas=2)]), APPLY, fieldManager="two"),
    ],
    "apply over an update": [
        post(CLUSTERS, raycluster("a", suspend=True), fieldManager="maker"),
        patch(f"{CLUSTERS}/a", applied("a", suspend=False, rayVersion="1"), APPLY, fieldManager="one"),
    ],
    "apply labels": [
        patch(
            f"{MAPS}/a",
            {**configmap("a"), "metadata": {"name": "a", "labels": {"x": "1", "y": "2"}}},
            APPLY,
            fieldManager="one",
        ),
        patch(f"{MAPS}/a", {"metadata": {"labels": {"z": "3"}}}, fieldManager="two"),
        patch(
            f"{MAPS}/a", {**configmap("a"), "metadata": {"name": "a", "labels": {"x": "1"}}}, APPLY, fieldManager="one"
        ),
    ],
    "apply by nobody": [patch(f"{CLUSTERS}/a", applied("a", headGroupSpec=HEAD), APPLY)],
    "apply what breaks the schema": [patch(f"{CLUSTERS}/a", applied("a", suspend=True), APPLY, fieldManager="one")],
    "delete": [post(MAPS, configmap("a")), delete(f"{MAPS}/a"), get(f"{MAPS}/a")],
    "delete a cluster": [post(CLUSTERS, raycluster("a")), delete(f"{CLUSTERS}/a")],
    "delete a service": [post(SERVICES, service("a"), fieldManager="t"), delete(f"{SERVICES}/a")],
    "delete a waiting pod": [post(PODS, pod("a"), fieldManager="t"), Step("DELETE", f"{PODS}/a"), get(f"{PODS}/a")],
    "delete another": [post(MAPS, configmap("a")), delete(f"{MAPS}/a", {"preconditions": {"uid": "other"}})],
    "delete an old version": [
        post(MAPS, configmap("a")),
        delete(f"{MAPS}/a", {"preconditions": {"resourceVersion": "1"}}),
    ],
    "delete with a finalizer": [
        post(MAPS, configmap("a", metadata={"finalizers": ["krayne.test/hold"]}), fieldManager="t"),
        delete(f"{MAPS}/a"),
        delete(f"{MAPS}/a"),
        patch(f"{MAPS}/a", {"metadata": {"finalizers": None}}, fieldManager="t"),
        get(f"{MAPS}/a"),
    ],
    "delete as a dry run": [post(MAPS, configmap("a")), delete(f"{MAPS}/a", dryRun="All"), get(f"{MAPS}/a", PARTIAL)],
    "delete a collection": [
        post(MAPS, configmap("a", metadata={"labels": {"l": "1"}}), fieldManager="t"),
        post(MAPS, configmap("b")),
        delete(MAPS, labelSelector="l=1"),
        get(MAPS, PARTIALS, fieldSelector="metadata.name=b"),
    ],
    "delete by an unknown policy": [
        post(MAPS, configmap("a")),
        Step("DELETE", f"{MAPS}/a", {"propagationPolicy": "No"}, ignore=("message",)),
    ],
    "delete a protected namespace": [delete("/api/v1/namespaces/default")],
    "list by labels": [
        *(post(MAPS, configmap(f"m{at}", metadata={"labels": {"n": str(at)}}), fieldManager="t") for at in range(3)),
        *(get(MAPS, labelSelector=one) for one in ("n=1", "n in (0,2)", "n notin (0),n", "!n,x", "n!=1,n")),
    ],
    "list by fields": [
        post(MAPS, configmap("a"), fieldManager="t"),
        get(MAPS, fieldSelector="metadata.name=a"),
        get(MAPS, fieldSelector="metadata.name!=a,metadata.name!=kube-root-ca.crt"),
    ],
    "list by bad selectors": [
        Step("GET", f"{MAPS}?labelSelector=a%20in", ignore=("message",)),
        Step("GET", f"{CLUSTERS}?fieldSelector=spec.none%3D1"),
        Step("GET", f"{PODS}?fieldSelector=spec.none%3D1"),
    ],
    "list in pages": [
        *(post(CLUSTERS, raycluster(f"c{at}"), fieldManager="t") for at in range(3)),
        get(CLUSTERS, limit="2"),
    ],
    "list with a bad token": [Step("GET", f"{MAPS}?continue=nonsense", ignore=("message",))],
    "list with a bad version": [Step("GET", f"{MAPS}?resourceVersion=nonsense", ignore=("message",))],
    "list with a bad limit": [Step("GET", f"{MAPS}?limit=nonsense", ignore=("message",))],
    "pods by phase": [
        post(PODS, pod("a"), fieldManager="t"),
        get(PODS, PARTIALS, fieldSelector="status.phase=Running"),
        get(PODS, TABLE, fieldSelector="status.phase=Pending,spec.nodeName="),
    ],
    "a table of clusters": [
        post(CLUSTERS, raycluster("a"), fieldManager="t"),
        patch(
            f"{CLUSTERS}/a/status",
            {"status": {"state": "ready", "desiredWorkerReplicas": 1, "head": {"podIP": "10.0.0.1"}}},
            fieldManager="t",
        ),
        get(CLUSTERS, TABLE),
        get(f"{CLUSTERS}/a", TABLE),
    ],
    "a table of pods": [post(PODS, pod("a"), fieldManager="t"), get(PODS, TABLE)],
    "a table of services": [
        post(SERVICES, service("a"), fieldManager="t"),
        Step("GET", SERVICES, headers=TABLE, ignore=("rows[0].cells[2]",)),
    ],
    "a table of config maps": [
        post(MAPS, configmap("a", data={"k": "v"}), fieldManager="t"),
        get(MAPS, TABLE, fieldSelector="metadata.name=a"),
    ],
    "metadata alone": [post(CLUSTERS, raycluster("a"), fieldManager="t"), get(f"{CLUSTERS}/a", PARTIAL)],
    "logs of a pod that has not started": [
        post(PODS, pod("a")),
        get(f"{PODS}/none/log"),
        get(f"{PODS}/a/log", container="none"),
    ],
    "exec without an upgrade": [post(PODS, pod("a")), get(f"{PODS}/a/exec")],
    "apply over what nobody keeps books of": [
        post(MAPS, configmap("a")),
        put(f"{MAPS}/a", configmap("a", data={"x": "1"})),
        patch(f"{MAPS}/a", {**configmap("a"), "data": {"x": "2"}}, APPLY, fieldManager="one"),
        patch(f"{MAPS}/a", {**configmap("a"), "data": {"x": "2"}}, APPLY, fieldManager="one", force="true"),
    ],
    "apply an unknown field": [
        patch(f"{CLUSTERS}/a", applied("a", headGroupSpec=HEAD, none=1), APPLY, fieldManager="one")
    ],
    "apply a status": [
        post(CLUSTERS, raycluster("a"), fieldManager="t"),
        patch(f"{CLUSTERS}/a/status", {**applied("a"), "status": {"state": "ready"}}, APPLY, fieldManager="one"),
    ],
    "delete a cluster another has": [
        post(CLUSTERS, raycluster("a")),
        delete(f"{CLUSTERS}/a", {"preconditions": {"uid": "other"}}),
    ],
    "labels of a wrong type": [
        Step("POST", CLUSTERS, {**raycluster("a"), "metadata": {"name": "a", "labels": {"x": 1}}}, ignore=("message",))
    ],
    "a bad label": [post(MAPS, configmap("a", metadata={"labels": {"x": "a b"}}))],
    "a service without ports": [post(SERVICES, {**service("a"), "spec": {"selector": {"a": "b"}}})],
    "a pod without containers": [post(PODS, pod("a", containers=[]))],
    "a secret": [
        post(
            f"/api/v1/namespaces/{NS}/secrets", {"metadata": {"name": "a"}, "stringData": {"k": "v"}}, fieldManager="t"
        )
    ],
    "a namespace": [Step("GET", f"/api/v1/namespaces/{NS}", ignore=("metadata",))],
    "health": [get("/readyz"), get("/healthz"), get("/livez")],
    "discovery of the group": [Step("GET", "/apis/ray.io", ignore=("versions",))],
}


def normal(value: Any, namespace: str, ignore: Sequence[str] = (), path: str = "") -> Any:
    """An answer without what a server chooses freely."""
    if isinstance(value, dict):
        inner = {key: f"{path}.{key}" if path else key for key in value}
        return {
            key: normal(one, namespace, ignore, inner[key])
            for key, one in value.items()
            if inner[key] not in ignore and key not in VOLATILE
        }
    if isinstance(value, list):
        if path.endswith("causes"):
            value = sorted(value, key=lambda one: str(one.get("field")))  # the real one has no order
        if path.endswith("managedFields"):
            value = sorted(value, key=lambda one: (one["operation"], one["manager"]))  # theirs is by time
        return [
            normal(one, namespace, ignore, f"{path}[{at}]")
            for at, one in enumerate(value)
            if f"{path}[{at}]" not in ignore
        ]
    if isinstance(value, str):
        value = re.sub(r"in record \(\d+\)", "in record (N)", value)
        value = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID", value.replace(namespace, NS))
        return "AGE" if re.fullmatch(r"\d+s", value) else value
    return value
