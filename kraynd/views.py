"""States of the daemon's parts -> what a user reads. Pure: one function per view, no decisions of its own.

The truth rule: a service is `ready` only when its forward listens, the head is there, and the service in the pod does
not say otherwise.
"""

from collections.abc import Iterable, Mapping

from kraynd.core.bootstrap import LOGIN_USER, ServiceReport
from kraynd.core.model import CODE_SERVER, NOTEBOOK, SSH, service_url
from kraynd.core.sshconfig import login_user
from kraynd.forwards import ForwardState
from kraynd.offers import Offer
from kraynd.reconciler import ClusterState
from krayne import messages
from krayne.config import ClusterConfig, HeadNodeConfig, WorkerGroupConfig
from krayne.messages import (
    ClusterDetails,
    ClusterView,
    ForwardView,
    GroupView,
    HeadView,
    ResourcesView,
    ServiceView,
    Workers,
)

BOOTSTRAPPED = frozenset({NOTEBOOK.name, CODE_SERVER.name, SSH.name})  # they report; Ray's own ports do not


def service_view(
    offer: Offer, local_port: int, forward: ForwardState | None, reports: Mapping[str, ServiceReport] | None
) -> ServiceView:
    """One service's row. `local_port` 0: none yet. `reports` None: the pod was not asked yet; empty: it did not say."""
    service = offer.service
    url = service_url(service, offer.key.cluster, local_port, ssh_user(reports)) if local_port and offer.on else ""
    state, reason = _service_state(offer, forward, reports)
    listening = forward is not None and forward.listening
    return ServiceView(service.name, service.remote_port, local_port, url, state, reason, listening)


def ssh_user(reports: Mapping[str, ServiceReport] | None) -> str:
    """Who logs in by ssh, as far as the pod told."""
    report = (reports or {}).get(SSH.name)
    return login_user(report.user if report is not None else "") or LOGIN_USER


def _service_state(
    offer: Offer, forward: ForwardState | None, reports: Mapping[str, ServiceReport] | None
) -> tuple[str, str]:
    if not offer.on:
        return messages.OFF, "closed by tun-close"
    if forward is None:
        return messages.HOLDING, "the port is not open yet"
    if forward.state == messages.PORT_TAKEN:
        return messages.PORT_TAKEN, forward.reason
    if forward.state == "holding":
        return messages.HOLDING, forward.reason
    if reports is None and offer.service.name in BOOTSTRAPPED:
        return messages.INSTALLING, "the pod was not asked yet"
    report = (reports or {}).get(offer.service.name)
    if report is not None and report.state != "running":
        return (messages.FAILED if report.state == "failed" else messages.INSTALLING), report.reason
    if forward.state == "refused":
        return messages.REFUSED, forward.reason or forward.last_error
    return messages.READY, ""


def forward_view(state: ForwardState, url: str) -> ForwardView:
    """One forward with its counters."""
    return ForwardView(
        namespace=state.key.namespace,
        cluster=state.key.cluster,
        service=state.key.service,
        remote_port=state.remote_port,
        local_port=state.local_port,
        url=url,
        state=state.state,
        reason=state.reason,
        connections=state.connections,
        held=state.held,
        total=state.total,
        refused=state.refused,
        bytes_in=state.bytes_in,
        bytes_out=state.bytes_out,
        reconnects=state.reconnects,
        last_error=state.last_error,
        since=state.since,
        foreign=state.foreign,
        blocked=state.blocked,
        socket=state.socket,
    )


def cluster_view(
    state: ClusterState, services: Iterable[ServiceView], *, created: float | None, advice: tuple[str, ...] = ()
) -> ClusterView:
    """One cluster's row. `advice`: what its file probably does not mean."""
    status = state.status
    return ClusterView(
        name=state.key.name,
        namespace=state.key.namespace,
        phase=status.phase,
        reason=state.problem or status.reason,
        declared=state.declared,
        workers=Workers(
            ready=status.workers.ready,
            desired=status.workers.desired,
            min=status.workers.min,
            max=status.workers.max,
        ),
        services=tuple(services),
        since=status.since,
        source=state.source,
        owner=state.owner if state.ownership in ("foreign", "unowned") else "",
        restart_needed=status.restart_needed,
        notes=(*state.notes, *advice),
        image=state.image.image if state.image else "",
        ray_version=state.image.ray_version if state.image else "",
        created=created,
    )


def cluster_details(
    state: ClusterState,
    view: ClusterView,
    forwards: Iterable[ForwardView],
    reports: Mapping[str, ServiceReport],
    config: ClusterConfig | None,
) -> ClusterDetails:
    """A cluster with everything known of it. `config`: as it is declared, or would be."""
    fields = {name: getattr(view, name) for name in view.__struct_fields__}
    head = state.status.head
    asked = {} if config is None else {one.name: _asks(one, view.image) for one in config.worker_groups}
    return ClusterDetails(
        **fields,
        groups=tuple(
            GroupView(
                name=group.name,
                ready=group.ready,
                desired=group.desired,
                min=group.min,
                max=group.max,
                reason=group.reason,
                each=asked.get(group.name),
                image=asked[group.name].image if group.name in asked else "",
                resources=_said(asked[group.name]) if group.name in asked else "",
            )
            for group in state.status.groups
        ),
        head=None if head is None else HeadView(pod=head.pod, phase=head.phase, node=head.node, ready=head.ready),
        events=state.events,
        forwards=tuple(forwards),
        reports=tuple(
            messages.ServiceReportView(name, report.state, report.reason, report.since)
            for name, report in reports.items()
        ),
        problem=state.problem,
        head_asks=None if config is None else _asks(config.head, view.image),
    )


def _asks(part: HeadNodeConfig | WorkerGroupConfig, image: str) -> ResourcesView:
    gpus = part.gpus if isinstance(part, WorkerGroupConfig) else 0
    return ResourcesView(str(part.cpus), str(part.memory), gpus, part.image or image)


def _said(each: ResourcesView) -> str:
    gpus = f", {each.gpus} GPU" if each.gpus else ""
    return f"{each.cpus} CPU, {each.memory}{gpus}"
