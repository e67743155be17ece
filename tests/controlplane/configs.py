"""The plane's configuration documents: kubeconfigs, audit policy, kwok's stages, nodes. Data only, no effects.

JSON throughout, because every reader here takes JSON where it takes YAML.
"""

from typing import Any

HELD = "krayne.test/held"  # annotation: kwok keeps its hands off this pod or node
HOLD_NEW = "krayne.test/hold-new-pods"  # namespace label: pods are born held ("all", "head" or "worker")

Json = dict[str, Any]


def kubeconfig(server: str, ca: str, user: Json, namespace: str = "default") -> Json:
    """A kubeconfig with one context."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "plane", "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": "user", "namespace": namespace}}],
        "current-context": "plane",
    }


def token_webhook(url: str) -> Json:
    """How the API server asks our node about bearer tokens it does not know."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tokens", "cluster": {"server": url}}],
        "users": [{"name": "apiserver", "user": {}}],
        "contexts": [{"name": "tokens", "context": {"cluster": "tokens", "user": "apiserver"}}],
        "current-context": "tokens",
    }


def audit_policy() -> Json:
    """Who wrote what: bodies for Ray objects, metadata for the rest, nothing for heartbeats."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
            {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/openapi*"]},
            {"level": "Request", "verbs": ["create", "update", "patch", "delete"], "resources": [{"group": "ray.io"}]},
            {"level": "Metadata"},
        ],
    }


def node(name: str, port: int) -> tuple[Json, Json]:
    """A Node object and its status: loopback, with our streaming endpoint as the kubelet's port."""
    meta = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
    }
    room = {"cpu": "64", "memory": "256Gi", "pods": "1000", "nvidia.com/gpu": "8"}
    status = {
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "capacity": room,
            "allocatable": room,
            "nodeInfo": _node_info(),
        }
    }
    return meta, status


def _node_info() -> Json:
    blank = ("bootID", "kernelVersion", "kubeProxyVersion", "machineID", "osImage", "systemUUID")
    known = {"architecture": "amd64", "operatingSystem": "linux"}
    versions = {"containerRuntimeVersion": "kwok://0.8.0", "kubeletVersion": "v1.36.3"}
    return {**dict.fromkeys(blank, ""), **known, **versions}


def kwok_stages() -> list[Json]:
    """What kwok does: nodes become Ready, unheld pods run at once, deleted pods vanish at once."""
    return [
        _stage("Node", "node-ready", [_absent_held(), _not_true_ready()], {"statusTemplate": _NODE_READY}),
        _stage(
            "Pod",
            "pod-ready",
            [
                _absent_held(),
                {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"},
                {"key": ".status.phase", "operator": "In", "values": ["Pending"]},
                _not_true_ready(),
            ],
            {"statusTemplate": _POD_READY},
        ),
        _stage(
            "Pod",
            "pod-delete",
            [
                {"key": ".metadata.deletionTimestamp", "operator": "Exists"},
                {"key": '.metadata.annotations["krayne.test/linger"]', "operator": "DoesNotExist"},
            ],
            {"delete": True},
        ),
    ]


def _stage(kind: str, name: str, expressions: list[Json], then: Json) -> Json:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": expressions},
            "next": then,
        },
    }


def _absent_held() -> Json:
    return {"key": f'.metadata.annotations["{HELD}"]', "operator": "DoesNotExist"}


def _not_true_ready() -> Json:
    key = '.status.conditions.[] | select( .type == "Ready" ) | .status'
    return {"key": key, "operator": "NotIn", "values": ["True"]}


_NODE_READY = """
{{ $now := Now }}
conditions:
{{ range NodeConditions }}
- {type: {{ .type | Quote }}, status: {{ .status | Quote }}, reason: {{ .reason | Quote }},
   message: {{ .message | Quote }}, lastHeartbeatTime: {{ $now | Quote }}, lastTransitionTime: {{ $now | Quote }}}
{{ end }}
phase: Running
"""

_POD_READY = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
conditions:
{{ range $type := list "PodReadyToStartContainers" "Initialized" "ContainersReady" "Ready" }}
- {type: {{ $type }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- {name: {{ .name | Quote }}, image: {{ .image | Quote }}, ready: true, started: true, restartCount: 0,
   state: {running: {startedAt: {{ $now | Quote }}}}}
{{ end }}
initContainerStatuses:
{{ range .spec.initContainers }}
- {name: {{ .name | Quote }}, image: {{ .image | Quote }}, ready: true, restartCount: 0,
{{ if eq (or .restartPolicy "") "Always" }}
   started: true, state: {running: {startedAt: {{ $now | Quote }}}}}
{{ else }}
   state: {terminated: {exitCode: 0, reason: Completed,
                        startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}}}
{{ end }}
{{ end }}
{{ with NodeIPsWith .spec.nodeName }}
hostIP: {{ index . 0 | Quote }}
{{ end }}
{{ if not .status.podIP }}
{{ with PodIPsWith .spec.nodeName ( or .spec.hostNetwork false ) .metadata.uid .metadata.name .metadata.namespace }}
podIP: {{ index . 0 | Quote }}
podIPs:
{{ range . }}
- {ip: {{ . | Quote }}}
{{ end }}
{{ end }}
{{ end }}
"""


def hold_policies() -> list[tuple[str, Json]]:
    """Admission that marks new pods held in labelled namespaces, as (resource, object)."""
    chosen = {"all": {}, **{kind: {"matchLabels": {"ray.io/node-type": kind}} for kind in ("head", "worker")}}
    made = []
    for which, selector in chosen.items():
        made.append(("mutatingadmissionpolicies", _hold_policy(which, selector)))
        binding = _admission("MutatingAdmissionPolicyBinding", which, {"policyName": f"hold-new-pods-{which}"})
        made.append(("mutatingadmissionpolicybindings", binding))
    return made


def _hold_policy(which: str, selector: Json) -> Json:
    mark = "Object{metadata: Object.metadata{annotations: {'" + HELD + "': 'true'}}}"
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    spec = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {HOLD_NEW: which}},
            "objectSelector": selector,
            "resourceRules": [pods],
        },
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": mark}}],
    }
    return _admission("MutatingAdmissionPolicy", which, spec)


def _admission(kind: str, which: str, spec: Json) -> Json:
    group = "admissionregistration.k8s.io/v1"
    return {"apiVersion": group, "kind": kind, "metadata": {"name": f"hold-new-pods-{which}"}, "spec": spec}
