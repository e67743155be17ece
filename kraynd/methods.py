"""Method name -> what serves it, over a `Backend`: the daemon as its clients may use it.

Reads parameters, filters, waits and renders; decides nothing about clusters. Invariant: every method of the API's
table is served, and none besides.
"""

# ruff: noqa: ARG001, ARG002 - handlers have one signature, whether they need all of it or not

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import anyio
from anyio.abc import ByteStream

from kraynd.calls import MUTATION_SECONDS, READ_SECONDS, Call, Method, Upgrade
from kraynd.changes import Subscription
from kraynd.core import metrics, render
from kraynd.core.model import ClusterKey
from kraynd.core.naming import names
from kraynd.core.text import Ink
from kraynd.waiting import WAIT_LIMIT, Board, Watch, wait_for
from krayne import messages, rpc
from krayne.config import ClusterConfig, parse_cluster_yaml
from krayne.errors import ClusterNotFoundError, ConfigValidationError, UsageError
from krayne.messages import ClientVersions, ClusterDetails, ClusterView, DaemonStatus, ForwardView, ServiceView
from krayne.openrpc import METHODS, document

SEND_CHUNK = 65_536  # rendered bytes written under one deadline


class Backend(Board, Protocol):
    """The daemon behind the methods. Its errors are KrayneErrors and reach the client as they are."""

    def clusters(self) -> tuple[ClusterView, ...]:
        """Everything known, declared or observed."""

    def cluster(self, key: ClusterKey) -> ClusterView | None:
        """One cluster; None when it is neither declared nor observed."""

    def cluster_details(self, key: ClusterKey) -> ClusterDetails:
        """Everything known of one cluster. Raises ClusterNotFoundError."""

    def forwards(self) -> tuple[ForwardView, ...]:
        """Every forward that is on."""

    async def contacted(self) -> None:
        """Wait, bounded, for the outcome of a new daemon's first contact with Kubernetes."""

    def default_namespace(self) -> str:
        """The context's own namespace."""

    def find(self, name: str, namespace: str | None) -> ClusterKey:
        """Which cluster is meant. Raises ClusterNotFoundError with the nearest names."""

    async def create(
        self, config: ClusterConfig, client: ClientVersions, *, exist_ok: bool, source: str | None
    ) -> ClusterView:
        """Declare a cluster; `exist_ok` replaces its declaration."""

    def preview(self, config: ClusterConfig, client: ClientVersions) -> dict[str, Any]:
        """The manifest `create` would lead to."""

    async def scale(
        self, key: ClusterKey, *, group: str | None, replicas: int | None, minimum: int | None, maximum: int | None
    ) -> ClusterView:
        """Change a worker group's counts."""

    async def delete(self, key: ClusterKey, *, force: bool) -> ClusterView:
        """Delete a cluster and its declaration."""

    async def adopt(self, key: ClusterKey) -> ClusterView:
        """Take over a cluster that is there."""

    async def confirm(self, key: ClusterKey) -> ClusterView:
        """Agree to a deletion that waits for a yes."""

    async def open_forwards(self, key: ClusterKey, ports: Sequence[tuple[int, int]]) -> tuple[ServiceView, ...]:
        """Open (remote, local) ports, local 0 from the book; no ports: all services."""

    async def close_forwards(self, key: ClusterKey, ports: Sequence[int]) -> tuple[ServiceView, ...]:
        """Close forwards to these remote ports; no ports: all."""

    def status(self) -> DaemonStatus:
        """The daemon about itself."""

    def metrics(self) -> tuple[metrics.Family, ...]:
        """What the daemon counts."""

    async def reload(self) -> None:
        """Read files and settings again now."""

    def stop(self) -> None:
        """Begin to stop; returns at once."""

    def restart(self) -> None:
        """Begin to restart in place; returns at once."""

    def subscribe(self, since: int | None = None) -> AbstractContextManager[Subscription]:
        """Hear of changes (kraynd.changes.Changes.subscribe)."""


class Methods:
    """The handlers. `table()` is what the server serves. `groups` are further objects with handlers, by the same names:
    method `pod.exec` is `pod_exec`, taking (call, params)."""

    def __init__(self, backend: Backend, *groups: object, wall: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self._groups = (self, *groups)
        self._wall = wall

    def table(self) -> Mapping[str, Method]:
        """Every method of the API, with its deadline."""
        served = {}
        for spec in METHODS:
            seconds = MUTATION_SECONDS if spec.mutates else READ_SECONDS
            if spec.name == "cluster.wait":
                seconds = WAIT_LIMIT + READ_SECONDS
            served[spec.name] = Method(spec, self._handler(spec.name), seconds)
        return served

    def _handler(self, name: str) -> Callable[[Call, Any], Awaitable[Any]]:
        attribute = name.replace(".", "_")
        group = next((one for one in self._groups if hasattr(one, attribute)), self)
        found: Callable[[Call, Any], Awaitable[Any]] = getattr(group, attribute)
        if not name.startswith(("cluster.", "forward.", "pod.", "ssh.", "view.")):
            return found

        async def informed(call: Call, params: Any) -> Any:
            """Answer from what Kubernetes says, not from the emptiness before the first contact."""
            await self._backend.contacted()
            return await found(call, params)

        return informed

    # The daemon.

    async def daemon_hello(self, call: Call, params: messages.NoParams) -> messages.Hello:
        """Who answers."""
        status = self._backend.status()
        streams = sum(one.connections for one in self._backend.forwards())
        return messages.Hello(pid=status.pid, version=status.version, home=status.home, streams=streams)

    async def daemon_status(self, call: Call, params: messages.NoParams) -> DaemonStatus:
        """The daemon about itself."""
        return self._backend.status()

    async def daemon_metrics(self, call: Call, params: messages.NoParams) -> messages.Metrics:
        """What is counted, for a scraper."""
        return messages.Metrics(metrics.render(self._backend.metrics()))

    async def daemon_reload(self, call: Call, params: messages.NoParams) -> messages.Done:
        """Look at files and settings again."""
        await self._backend.reload()
        return messages.Done(self._backend.status().pid)

    async def daemon_stop(self, call: Call, params: messages.NoParams) -> messages.Done:
        """Stop, once the answer is out."""
        call.after.append(self._backend.stop)
        return messages.Done(self._backend.status().pid)

    async def daemon_restart(self, call: Call, params: messages.RestartParams) -> messages.Done:
        """Begin anew in the same process, once the answer is out."""
        if params.path and "\0" not in params.path:
            os.environ["PATH"] = params.path  # the successor's: this process becomes it
        call.after.append(self._backend.restart)
        return messages.Done(self._backend.status().pid)

    # Clusters.

    async def cluster_list(self, call: Call, params: messages.ListParams) -> messages.ClusterList:
        """The clusters asked for."""
        return messages.ClusterList(self._chosen(params))

    async def cluster_get(self, call: Call, params: messages.GetParams) -> ClusterDetails:
        """Everything known of one."""
        return self._backend.cluster_details(self._key(params))

    async def cluster_create(self, call: Call, params: messages.CreateParams) -> messages.Created:
        """Declare one from a file's text and overrides."""
        chosen = {"name": params.name, **({"namespace": params.namespace} if params.namespace else {})}
        if not params.text and not params.namespace:
            chosen["namespace"] = self._backend.default_namespace()
        config = parse_cluster_yaml(
            params.text.encode() or b"{}",
            source=params.source or f"cluster {params.name}",
            overrides={**chosen, **params.set},
        )
        if params.dry_run:
            manifest = self._backend.preview(config, params.client)
            return messages.Created(manifest=manifest, text=render.as_data(manifest, "yaml"))
        view = await self._backend.create(config, params.client, exist_ok=params.exist_ok, source=None)
        return messages.Created(cluster=view)

    async def cluster_apply(self, call: Call, params: messages.ApplyParams) -> messages.AppliedList:
        """Declare all of the files, or none."""
        configs = _parse_all(params)
        results = []
        for file, config in zip(params.files, configs, strict=True):
            before = self._backend.cluster(ClusterKey(config.namespace, config.name))
            action = "update" if before is not None and before.declared else "declare"
            view = None
            if not params.dry_run:
                view = await self._backend.create(config, params.client, exist_ok=True, source=None)
            results.append(
                messages.Applied(
                    source=file.source,
                    action=f"would-{action}" if params.dry_run else f"{action}d",
                    name=config.name,
                    namespace=config.namespace,
                    cluster=view,
                )
            )
        return messages.AppliedList(tuple(results))

    async def cluster_scale(self, call: Call, params: messages.ScaleParams) -> ClusterView:
        """Change a group's counts."""
        return await self._backend.scale(
            self._key(params),
            group=params.group,
            replicas=params.replicas,
            minimum=params.minimum,
            maximum=params.maximum,
        )

    async def cluster_delete(self, call: Call, params: messages.DeleteParams) -> ClusterView:
        """Delete one."""
        return await self._backend.delete(self._key(params), force=params.force)

    async def cluster_adopt(self, call: Call, params: messages.ClusterParams) -> ClusterView:
        """Take one over."""
        return await self._backend.adopt(self._key(params))

    async def cluster_confirm(self, call: Call, params: messages.ClusterParams) -> ClusterView:
        """Agree to a deletion."""
        return await self._backend.confirm(self._key(params))

    async def cluster_wait(self, call: Call, params: messages.WaitParams) -> messages.WaitResult:
        """Return when the condition holds."""
        try:
            key = self._key(params)
        except ClusterNotFoundError:
            if params.condition == "deleted":
                return messages.WaitResult(met=True)
            raise
        return await wait_for(self._backend, call, key, params.condition, params.timeout_ms / 1000)

    async def cluster_watch(self, call: Call, params: messages.WatchParams) -> messages.WatchStarted:
        """A snapshot and the registration in one step: no change falls between them."""
        watch = Watch(self._backend, call, params)
        number = call.follow(watch)
        watch.number = number
        clusters = None if watch.resumed else watch.snapshot()
        return messages.WatchStarted(watch=number, revision=watch.revision, clusters=clusters)

    async def cluster_unwatch(self, call: Call, params: messages.UnwatchParams) -> messages.Cancelled:
        """End a watch."""
        return messages.Cancelled(call.caller.unfollow(params.watch))

    # Forwards.

    async def forward_list(self, call: Call, params: messages.ListParams) -> messages.ForwardList:
        """The forwards asked for."""
        return messages.ForwardList(self._chosen_forwards(params))

    async def forward_open(self, call: Call, params: messages.OpenParams) -> messages.Services:
        """Open local ports."""
        for one in params.ports:
            _check_port(one.remote, 1)
            _check_port(one.local, 0)
        ports = tuple((one.remote, one.local) for one in params.ports)
        return messages.Services(await self._backend.open_forwards(self._key(params), ports))

    async def forward_close(self, call: Call, params: messages.CloseParams) -> messages.Services:
        """Close local ports."""
        for port in params.ports:
            _check_port(port, 1)
        return messages.Services(await self._backend.close_forwards(self._key(params), params.ports))

    # The API itself, and text.

    async def rpc_cancel(self, call: Call, params: messages.CancelParams) -> messages.Cancelled:
        """Cancel a reading call."""
        return messages.Cancelled(call.caller.cancel(params.id))

    async def rpc_discover(self, call: Call, params: messages.NoParams) -> dict[str, Any]:
        """This API as OpenRPC."""
        return document()

    async def view_render(self, call: Call, params: messages.RenderParams) -> Upgrade:
        """A view as text."""
        page = self._page(params)
        out, remarks = page.out.encode(), page.remarks.encode()

        async def body(stream: ByteStream, first: bytes) -> None:
            await _send_all(stream, out + remarks)

        return Upgrade(messages.Rendered(stdout=len(out), stderr=len(remarks)), body)

    def _page(self, params: messages.RenderParams) -> render.Page:
        about = render.Context(
            ink=Ink(params.color, max(0, params.width)),
            wall=self._wall(),
            namespace=params.namespace or self._backend.default_namespace(),
            several=params.all_namespaces,
            status=self._backend.status(),
        )
        if params.view == "clusters":
            return render.clusters(self._chosen(params), params.format, about)
        if params.view == "cluster":
            if not params.name:
                raise UsageError("the view `cluster` needs a name")
            details = self._backend.cluster_details(self._backend.find(params.name, params.namespace))
            return render.cluster(details, params.format, about)
        if params.view == "ports":
            return render.ports(self._chosen_forwards(params), params.format, about)
        if params.view == "names":
            return render.Page(self._names(params.name or "", params.namespace))
        if params.view == "status":
            return render.status(self._backend.status(), params.format, about)
        raise UsageError(f"there is no view {params.view[:40]!r}", hint="clusters, cluster, ports or status")

    def _names(self, kind: str, namespace: str | None) -> str:
        """What a shell completes; `groups.demo` are the worker groups of the cluster demo."""
        if not kind.startswith("groups."):
            return names(kind, self._backend.clusters(), namespace)
        try:
            details = self._backend.cluster_details(self._backend.find(kind.removeprefix("groups."), namespace))
        except ClusterNotFoundError:
            return ""
        return "".join(f"{group.name}\n" for group in details.groups)

    # What is meant.

    def _key(self, params: messages.GetParams) -> ClusterKey:
        return self._backend.find(params.name, params.namespace)

    def _chosen(self, params: messages.ListParams) -> tuple[ClusterView, ...]:
        """By name; by namespace; all; else what is declared anywhere and all of the context's own namespace."""
        if params.name:
            view = self._backend.cluster(self._backend.find(params.name, params.namespace))
            return () if view is None else (view,)
        own = self._backend.default_namespace()
        chosen = [
            one
            for one in self._backend.clusters()
            if params.all_namespaces
            or (one.namespace == params.namespace if params.namespace else one.declared or one.namespace == own)
        ]
        return tuple(sorted(chosen, key=lambda one: (one.namespace, one.name)))

    def _chosen_forwards(self, params: messages.ListParams) -> tuple[ForwardView, ...]:
        """Forwards are all the user's own: every namespace unless one is named."""
        key = self._backend.find(params.name, params.namespace) if params.name else None
        chosen = [
            one
            for one in self._backend.forwards()
            if (key is None or (one.namespace, one.cluster) == key)
            and (not params.namespace or one.namespace == params.namespace)
        ]
        return tuple(sorted(chosen, key=lambda one: (one.namespace, one.cluster, one.local_port)))


def _parse_all(params: messages.ApplyParams) -> list[ClusterConfig]:
    """Every file's cluster. Raises ConfigValidationError with the faults of all the files."""
    configs: list[ClusterConfig] = []
    faults: list[ConfigValidationError] = []
    overrides = {"namespace": params.namespace} if params.namespace else None
    seen: dict[ClusterKey, str] = {}
    for file in params.files:
        try:
            config = parse_cluster_yaml(file.text.encode(), source=file.source, overrides=overrides)
        except ConfigValidationError as error:
            faults.append(error)
            continue
        key = ClusterKey(config.namespace, config.name)
        if key in seen:
            raise ConfigValidationError(
                f"{file.source} and {seen[key]} both declare the cluster {key}", hint="keep one of them"
            )
        seen[key] = file.source
        configs.append(config)
    if faults:
        problems = [problem for fault in faults for problem in fault.data.get("problems", ())]
        said = "\n".join(fault.message for fault in faults)
        raise ConfigValidationError(said, hint=faults[0].hint, data={"problems": problems})
    return configs


def _check_port(port: int, least: int) -> None:
    if not least <= port <= 65_535:
        raise UsageError(f"{port} is not a port", hint="ports are 1 to 65535")


async def _send_all(stream: ByteStream, data: bytes) -> None:
    for begin in range(0, len(data), SEND_CHUNK):
        with anyio.fail_after(rpc.WRITE_SECONDS):
            await stream.send(data[begin : begin + SEND_CHUNK])
