"""Typed client of the Go node's control API: port mappings, copy modes, faults, counters, tokens.

Each call is one small HTTP request on loopback and takes effect before it returns.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Mode = Literal["containerd", "half-close"]
CALL_LIMIT = 10.0  # seconds for one control request


@dataclass(frozen=True)
class Counters:
    """Totals of the pods asked about; `failed` counts streams that ended with an error text."""

    tunnels_open: int
    tunnels_total: int
    streams_open: int
    streams_total: int
    failed: int
    bytes_up: int
    bytes_down: int


class NodeControl:
    """The streaming side of all nodes of one plane. A pod may be named by a glob such as `demo-head-*`."""

    def __init__(self, address: str, nodes: Sequence[str]) -> None:
        self.address = address
        self.nodes = tuple(nodes)

    def map_port(self, namespace: str, pod: str, port: int, target: str | int) -> None:
        """Put a local address ("host:port", or a port of 127.0.0.1) behind a pod's port."""
        address = f"127.0.0.1:{target}" if isinstance(target, int) else target
        self._call("/ports", {"namespace": namespace, "pod": pod, "port": port, "target": address})

    def unmap_port(self, namespace: str, pod: str, port: int) -> None:
        """Nothing listens there any more: connection refused."""
        self._call("/ports", {"namespace": namespace, "pod": pod, "port": port, "target": ""})

    def set_mode(self, mode: Mode, node: str | None = None) -> None:
        """Copy as `containerd` does (no half-close, 1 s, leftovers lost), or pass `half-close` on. New streams only."""
        for name in [node] if node else self.nodes:
            self._call("/nodes", {"name": name, "mode": mode})

    def set_up(self, node: str, up: bool) -> None:
        """Close or open a node's port: a machine that is gone, a kubelet that restarts. Down cuts all its tunnels."""
        self._call("/nodes", {"name": node, "up": up})

    def fault(
        self,
        namespace: str = "",
        pod: str = "",
        port: int = 0,
        *,
        refuse: bool = False,
        gone: bool = False,
        stall_up: bool = False,
        stall_down: bool = False,
        delay_ms: int = 0,
    ) -> None:
        """Set the whole fault of one place (empty means every); all defaults clear it.

        refuse: new connections are refused. gone: the sandbox is not found. stall_up / stall_down: the pod side is
        not written to / not read from. delay_ms: before the dial.
        """
        place = {"namespace": namespace, "pod": pod, "port": port}
        stalls = {"stall_up": stall_up, "stall_down": stall_down}
        self._call("/faults", {**place, "refuse": refuse, "gone": gone, **stalls, "delay_ms": delay_ms})

    def clear(self, namespace: str = "", pod: str = "", port: int = 0) -> None:
        """Clear the fault that was set for exactly this place."""
        self.fault(namespace, pod, port)

    def cut(self, namespace: str = "", pod: str = "", *, node: str = "", reset: bool = False) -> int:
        """Close the TCP connections of all matching tunnels (RST with `reset`); returns how many."""
        request = {"namespace": namespace, "pod": pod, "node": node, "reset": reset}
        return int(self._call("/cut", request)["cut"])

    def kill_streams(self, namespace: str = "", pod: str = "", port: int = 0) -> int:
        """End the pod's side of streams, as when its process dies; the tunnel stays. Returns how many."""
        return int(self._call("/kill", {"namespace": namespace, "pod": pod, "port": port})["killed"])

    def freeze(self, namespace: str = "", pod: str = "", *, node: str = "") -> None:
        """The node neither reads nor writes matching tunnels, without closing them, until `thaw`."""
        self._call("/freeze", [{"namespace": namespace, "pod": pod, "node": node}])

    def thaw(self) -> None:
        """End every freeze."""
        self._call("/freeze", [])

    def counters(self, namespace: str = "", pod: str = "") -> Counters:
        """What went through so far."""
        return Counters(**self._call("/counters", {"namespace": namespace, "pod": pod}))

    def allow_exec(
        self, namespace: str, pod: str, *, root: Path, env: Mapping[str, str] | None = None, wrap: Sequence[str] = ()
    ) -> None:
        """Run `kubectl exec` in this pod as a real process in folder `root` with this environment, behind `wrap`."""
        rule = {"namespace": namespace, "pod": pod, "root": str(root), "env": dict(env or {}), "wrap": list(wrap)}
        self._call("/exec", rule)

    def serve_log(
        self, namespace: str, pod: str, file: Path, *, container: str = "", previous: Path | None = None
    ) -> None:
        """Serve a file as the container's log (and another as its previous one); it is followed when asked."""
        rule = {"namespace": namespace, "pod": pod, "container": container, "file": str(file)}
        self._call("/logs", {**rule, "previous": str(previous) if previous else ""})

    def add_token(self, token: str, user: str, groups: Sequence[str] = ()) -> None:
        """Make a bearer token known to the API server."""
        self._call("/tokens", {"token": token, "user": user, "groups": list(groups)})

    def revoke_token(self, token: str) -> None:
        """Requests with this token get 401, at the latest when the API server's cache forgets it (10 s)."""
        self._call("/tokens", {"token": token, "revoke": True})

    def reset(self) -> None:
        """Forget mappings and faults; nodes are up, in containerd mode."""
        self._call("/reset", {})

    def _call(self, path: str, body: object) -> Any:
        request = urllib.request.Request(f"http://{self.address}{path}", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=CALL_LIMIT) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode().strip()) from None
        return json.loads(text) if text else None
