"""One running control plane: etcd, API server, controllers, scheduler, kwok, our node, the KubeRay operator.

Owns their processes, ports, certificates and files below one folder. Invariant: after `stop()`, or after this
process ends in any way, none of them is left. It never knows the product under test.
"""

import json
import os
import secrets
import signal
import subprocess
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, Self

from tests.controlplane import configs, pods
from tests.controlplane.api import Api, ApiError
from tests.controlplane.build import OPERATOR_VERSIONS, binary, crd_files
from tests.controlplane.node import NodeControl
from tests.controlplane.pki import Pair, Pki
from tests.controlplane.process import Child, PlaneError, Port, wait_until

START_LIMIT = 120.0  # seconds for one part to become ready, on a machine that builds other things meanwhile
COMMAND_LIMIT = 120.0  # seconds for one kubectl command
MASTERS = "system:masters"

Rule = dict[str, list[str]]


class ControlPlane:
    """A real Kubernetes, on loopback, for one test session."""

    def __init__(self, root: Path, nodes: int, operator: str) -> None:
        self.root = root
        self.operator_version = operator
        self._ports = {name: Port() for name in ("apiserver", "etcd", "etcd-peer", "control", "operator")}
        self.port = self._ports["apiserver"].number
        self.server = f"https://127.0.0.1:{self.port}"
        self._pki = Pki(root / "pki")
        self.ca_file = self._pki.ca
        self._signing = self._pki.server("service-accounts")
        admin = self._pki.client("admin", MASTERS)
        self.api = Api(self.port, self.ca_file, admin.cert, admin.key)
        self.kubeconfig = self._write_kubeconfig("admin", _by_cert(admin))
        names = [f"node-{index}" for index in range(nodes)]
        self.node = NodeControl(f"127.0.0.1:{self._ports['control'].number}", names)
        self._children: dict[str, Child] = {}

    @classmethod
    def start(cls, root: Path, *, operator: str = OPERATOR_VERSIONS[0], nodes: int = 3) -> Self:
        """Start everything and return when CRDs are served and the operator is ready. Programs must be built."""
        plane = cls(root, nodes, operator)
        with ExitStack() as undo:
            undo.callback(plane.stop)
            plane._run("etcd", plane._etcd())
            endpoints = plane._start_node()
            plane.start_apiserver()
            for name in ("kube-controller-manager", "kube-scheduler"):
                plane._run(name, plane._controller(name))
            plane._run("kwok", plane._kwok())
            plane._fill(endpoints)
            plane.start_operator(operator)
            undo.pop_all()
        return plane

    def stop(self) -> None:
        """End every process, the API server's clients first."""
        for name in reversed(list(self._children)):
            self._children.pop(name).stop(signal.SIGKILL)
        for port in self._ports.values():
            port.release()

    # API server: what an outage is made of.

    def start_apiserver(self) -> None:
        """Start it on the port and data it had; returns when it is ready."""
        child = self._run("kube-apiserver", self._apiserver())

        def ready() -> bool:
            child.check()
            return self.api.ready()

        wait_until("kube-apiserver", ready, START_LIMIT)

    def stop_apiserver(self) -> None:
        """End it as a rolling restart does (SIGTERM)."""
        self._children.pop("kube-apiserver").stop()

    def kill_apiserver(self) -> None:
        """End it as a crash does (SIGKILL)."""
        self._children.pop("kube-apiserver").stop(signal.SIGKILL)

    def pause_apiserver(self) -> None:
        """Stop its clock (SIGSTOP): connections stay open, nothing answers."""
        self._children["kube-apiserver"].send(signal.SIGSTOP)

    def resume_apiserver(self) -> None:
        """Let it go on (SIGCONT)."""
        self._children["kube-apiserver"].send(signal.SIGCONT)

    def restart_clients(self) -> None:
        """Start scheduler, controllers, kwok and operator anew: after outages their watches stay away for a minute."""
        for name in ("kube-controller-manager", "kube-scheduler"):
            self._children.pop(name).stop(signal.SIGKILL)
            self._run(name, self._controller(name))
        self._children.pop("kwok").stop(signal.SIGKILL)
        # Its leases would keep the new one off every node until they expire, 40 s later.
        self.api.request("DELETE", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
        self._run("kwok", self._kwok())
        self.stop_operator()
        self.start_operator()

    # Operator.

    def start_operator(self, version: str | None = None) -> None:
        """Apply a version's CRDs and start its operator; returns when it is ready."""
        self.operator_version = version or self.operator_version
        for path in crd_files(self.operator_version):
            name = "{1}.{0}".format(*path.stem.split("_"))
            self.api.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}", path.read_bytes())
        wait_until("CRDs", self._serves_ray, START_LIMIT)
        child = self._run("operator", self._operator())
        probe = f"http://127.0.0.1:{self._ports['operator'].number}/readyz"

        def ready() -> bool:
            child.check()
            return _answers(probe)

        wait_until("KubeRay operator", ready, START_LIMIT)

    def pause_operator(self) -> None:
        """Stop its clock (SIGSTOP)."""
        self._children["operator"].send(signal.SIGSTOP)

    def resume_operator(self) -> None:
        """Let it go on (SIGCONT)."""
        self._children["operator"].send(signal.SIGCONT)

    def stop_operator(self) -> None:
        """End the operator; its CRDs and objects stay."""
        self._children.pop("operator").stop(signal.SIGKILL)

    # Users.

    def kubeconfig_for(
        self,
        user: str,
        *,
        rules: Sequence[Rule] | None = None,
        namespace: str | None = None,
        auth: Literal["cert", "token"] = "cert",
    ) -> Path:
        """A kubeconfig of a user who may do only this: in one namespace, or everywhere when none is given.

        A rule is as in RBAC: {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get"]}.
        """
        self._grant(user, rules or [], namespace)
        who = {"token": self.token(user)} if auth == "token" else _by_cert(self._pki.client(user))
        return self._write_kubeconfig(user, who, namespace or "default")

    def token(self, user: str, groups: Sequence[str] = ()) -> str:
        """A new bearer token for a user; `node.revoke_token` ends it within 10 s (the API server's cache)."""
        made = secrets.token_urlsafe(24)
        self.node.add_token(made, user, groups)
        return made

    # Objects.

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True, kubeconfig: Path | None = None) -> str:
        """Run kubectl as admin (or by another kubeconfig) and return what it prints, with stderr unless checked."""
        done = subprocess.run(
            [str(binary("kubectl")), *args],
            env=self.environment(kubeconfig),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT,
            check=False,
        )
        if check and done.returncode:
            raise PlaneError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """Environment for a client program of this plane."""
        return {**os.environ, "KUBECONFIG": str(kubeconfig or self.kubeconfig), "HOME": str(self.root)}

    def pods(self, namespace: str, cluster: str, node_type: str = "head") -> list[dict[str, Any]]:
        """The pods of a Ray cluster, oldest first."""
        selector = f"ray.io/cluster={cluster},ray.io/node-type={node_type}".replace("=", "%3D").replace(",", "%2C")
        found = self.api.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def wait_pod(self, namespace: str, name: str, *, limit: float = START_LIMIT) -> dict[str, Any]:
        """Wait until a pod is Ready, by kubectl's watch."""
        self.kubectl("wait", "-n", namespace, f"pod/{name}", "--for=condition=Ready", f"--timeout={limit:g}s")
        found: dict[str, Any] = self.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        return found

    def patch_pod_status(self, namespace: str, pod: str, status: dict[str, Any]) -> None:
        """Report a status as the kubelet would (see `pods`), and keep kwok from changing it."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        held = self.api.merge(path, {"metadata": {"annotations": {configs.HELD: "true"}}})
        self.api.merge(f"{path}/status", {"status": pods.merged(held["status"], status)})

    def release_pod(self, namespace: str, pod: str) -> None:
        """Give a held pod back to kwok, which makes it Ready."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        live = self.api.merge(path, {"metadata": {"annotations": {configs.HELD: None}}})
        status = {"phase": "Pending", "conditions": [pods.condition("Ready", False)]}
        self.api.merge(f"{path}/status", {"status": pods.merged(live["status"], status)})

    def hold_new_pods(self, namespace: str, which: Literal["all", "head", "worker"] | None = "all") -> None:
        """New pods of a namespace stay as the scheduler left them until patched or released; None ends it."""
        self.api.merge(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {configs.HOLD_NEW: which}}})
        wait_until("hold on new pods", lambda: self._holds(namespace, which), START_LIMIT)

    def set_node_ready(self, name: str, ready: bool) -> None:
        """A node that reports NotReady, or is well again; the real controllers draw the conclusions."""
        path = f"/api/v1/nodes/{name}"
        held = self.api.merge(path, {"metadata": {"annotations": {configs.HELD: None if ready else "true"}}})
        status = {"conditions": [pods.condition("Ready", ready, "KubeletReady" if ready else "KubeletNotReady")]}
        self.api.merge(f"{path}/status", {"status": pods.merged(held["status"], status)})

    def audit(self) -> list[dict[str, Any]]:
        """Every request so far that the audit policy records: who (user.username) did what (verb, objectRef)."""
        whole, _, _ = (self.root / "audit.log").read_text().rpartition("\n")  # the last line is being written
        return [json.loads(line) for line in whole.split("\n") if line]

    def log(self, name: str) -> str:
        """What one program logged."""
        return (self.root / "logs" / f"{name}.log").read_text(errors="replace")

    # Parts.

    def _run(self, name: str, argv: Sequence[str], stdout: int | None = None) -> Child:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.root), "KUBECONFIG": os.devnull}
        child = Child(name, argv, self.root / "logs" / f"{name}.log", env=env, stdout=stdout)
        self._children[name] = child
        return child

    def _etcd(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{self._ports[name].number}" for name in ("etcd", "etcd-peer"))
        return [
            str(binary("etcd")),
            f"--data-dir={self.root / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str]:
        serving, signing = self._pki.server("apiserver"), self._signing
        kubelet = self._pki.client("apiserver-kubelet-client", MASTERS)
        return [
            str(binary("kube-apiserver")),
            f"--etcd-servers=http://127.0.0.1:{self._ports['etcd'].number}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={serving.cert}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.ca_file}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={signing.key}",
            f"--service-account-signing-key-file={signing.key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC",
            f"--authentication-token-webhook-config-file={self._token_config()}",
            "--authentication-token-webhook-version=v1",
            "--authentication-token-webhook-cache-ttl=0s",
            f"--kubelet-certificate-authority={self.ca_file}",
            f"--kubelet-client-certificate={kubelet.cert}",
            f"--kubelet-client-key={kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--audit-policy-file={self._json('audit-policy.json', configs.audit_policy())}",
            f"--audit-log-path={self.root / 'audit.log'}",
        ]

    def _controller(self, name: str) -> list[str]:
        access = self._access(name)
        flags = [f"--kubeconfig={access}", "--leader-elect=false", "--secure-port=0"]
        if name == "kube-controller-manager":
            flags += [f"--root-ca-file={self.ca_file}", f"--service-account-private-key-file={self._signing.key}"]
        return [str(binary(name)), *flags]

    def _kwok(self) -> list[str]:
        stages = "\n---\n".join(json.dumps(stage) for stage in configs.kwok_stages())
        config = self.root / "kwok.yaml"
        config.write_text(stages)
        access = self._access("kwok")
        return [
            str(binary("kwok")),
            f"--config={config}",
            f"--kubeconfig={access}",
            "--manage-all-nodes=true",
            "--node-ip=127.0.0.1",
            "--node-lease-duration-seconds=40",
        ]

    def _start_node(self) -> dict[str, int]:
        serving = self._pki.server("node")
        argv = [str(binary("node")), "serve", f"--kubeconfig={self._access('node')}"]
        argv += [f"--cert={serving.cert}", f"--key={serving.key}", f"--client-ca={self.ca_file}"]
        argv += [f"--control={self.node.address}", f"--nodes={','.join(self.node.nodes)}"]
        child = self._run("node", argv, stdout=subprocess.PIPE)
        endpoints: dict[str, int] = {}
        for line in child.stdout:
            words = line.decode().split()
            if words == ["ready"]:
                return endpoints
            if words[0] == "node":
                endpoints[words[1]] = int(words[2].rpartition(":")[2])
        child.stop()
        raise PlaneError(f"node did not start:\n{child.tail()}")

    def _operator(self) -> list[str]:
        return [
            str(binary(f"kuberay-{self.operator_version}")),
            f"--kubeconfig={self._access('kuberay-operator')}",
            "--enable-leader-election=false",
            "--metrics-addr=0",
            f"--health-probe-bind-address=127.0.0.1:{self._ports['operator'].number}",
        ]

    def _fill(self, endpoints: dict[str, int]) -> None:
        for resource, made in configs.hold_policies():
            self.api.create(f"/apis/admissionregistration.k8s.io/v1/{resource}", made)
        for name, port in endpoints.items():
            meta, status = configs.node(name, port)
            self.api.create("/api/v1/nodes", meta)
            self.api.merge(f"/api/v1/nodes/{name}/status", status)
        wait_until("nodes", self._nodes_ready, START_LIMIT)
        wait_until("service accounts", self._has_default_account, START_LIMIT)

    def _nodes_ready(self) -> bool:
        found = self.api.get("/api/v1/nodes")["items"]
        return all(
            not node["spec"].get("taints")
            and any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
            for node in found
        )

    def _has_default_account(self) -> bool:
        return bool(self.api.get("/api/v1/namespaces/default/serviceaccounts")["items"])

    def _serves_ray(self) -> bool:
        wanted = {path.stem.split("_")[1] for path in crd_files(self.operator_version)}
        try:
            served = {resource["name"] for resource in self.api.get("/apis/ray.io/v1")["resources"]}
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return wanted <= served

    def _holds(self, namespace: str, which: str | None) -> bool:
        """Ask admission itself, by a dry run, because it learns of labels a moment later."""
        labels = {"ray.io/node-type": "worker" if which == "worker" else "head"}
        spec = {"containers": [{"name": "probe", "image": "probe"}]}
        body = {"metadata": {"name": "hold-probe", "labels": labels}, "spec": spec}
        try:
            made = self.api.request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", body)
        except ApiError as error:
            if error.status != HTTPStatus.FORBIDDEN:  # the namespace's default service account is not there yet
                raise
            return False
        return (configs.HELD in made["metadata"].get("annotations", {})) == (which is not None)

    def _grant(self, user: str, rules: Sequence[Rule], namespace: str | None) -> None:
        base, prefix = "/apis/rbac.authorization.k8s.io/v1", "" if namespace else "Cluster"
        path = f"{base}/namespaces/{namespace}" if namespace else base
        name, kinds = f"test:{user}", f"{prefix.lower()}role"
        self.api.create(f"{path}/{kinds}s", {"metadata": {"name": name}})
        self.api.merge(f"{path}/{kinds}s/{name}", {"rules": list(rules)})
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": f"{prefix}Role", "name": name}
        binding = {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}
        self.api.create(f"{path}/{kinds}bindings", binding)

    def _access(self, user: str) -> Path:
        """A kubeconfig of one of the plane's own programs: its own name, every right."""
        return self._write_kubeconfig(user, _by_cert(self._pki.client(user, MASTERS)))

    def _write_kubeconfig(self, user: str, who: dict[str, Any], namespace: str = "default") -> Path:
        made = configs.kubeconfig(self.server, str(self.ca_file), who, namespace)
        return self._json(f"{user.replace(':', '_').replace('/', '_')}.kubeconfig", made)

    def _token_config(self) -> Path:
        return self._json("tokens.json", configs.token_webhook(f"http://{self.node.address}/tokenreview"))

    def _json(self, name: str, made: object) -> Path:
        path = self.root / name
        path.touch(mode=0o600)
        path.write_text(json.dumps(made, indent=1))
        return path


def _by_cert(pair: Pair) -> dict[str, Any]:
    return {"client-certificate": str(pair.cert), "client-key": str(pair.key)}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == HTTPStatus.OK)
    except OSError:
        return False
