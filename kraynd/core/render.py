"""What a user reads: lists, descriptions, ports and status, as text made of views.

Pure: time, colour and width are arguments. Invariant: nothing looks better than it is - a port that does not lead
anywhere now is marked, and the mark's reason is said.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import yaml

from kraynd.core.bootstrap import LOGIN_USER
from kraynd.core.text import BOLD, DIM, GREEN, RED, YELLOW, Cell, Ink, clean, duration, size, table
from krayne.errors import UsageError
from krayne.messages import (
    OFF,
    READY,
    WAITING_STATES,
    ClusterDetails,
    ClusterView,
    DaemonStatus,
    FileProblemView,
    ForwardView,
    ServiceView,
    Workers,
    WorldView,
)

FORMATS = ("table", "wide", "json", "yaml", "name")
MARKS_EXPLAINED = 5  # lines under a list; the rest is in `krayne ports`
_PHASES = {
    "ready": GREEN,
    "pending": YELLOW,
    "starting": YELLOW,
    "degraded": YELLOW,
    "deleting": YELLOW,
    "unreachable": RED,
    "invalid": RED,
    "absent": DIM,
    "suspended": DIM,
}
_COLUMNS = {"ssh": "SSH", "notebook": "NOTEBOOK", "code-server": "CODE", "dashboard": "DASHBOARD", "client": "CLIENT"}


class Page(NamedTuple):
    """What goes to stdout, and what to stderr (remarks a pipe must not see)."""

    out: str
    remarks: str = ""


class Context(NamedTuple):
    """What surrounds the views. `several`: rows of more than one namespace may appear."""

    ink: Ink
    wall: float
    namespace: str = ""
    several: bool = False
    status: DaemonStatus | None = None


def as_data(value: Any, form: str) -> str:
    """Views as JSON or YAML: the same keys as in the API."""
    data = msgspec.to_builtins(value)
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n"
    text: str = yaml.dump(data, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=1 << 20)
    return text


def clusters(views: Sequence[ClusterView], form: str, about: Context) -> Page:
    """`krayne ls`."""
    if form in ("json", "yaml"):
        return Page(as_data(list(views), form))
    if form == "name":
        return Page(_lines(f"{one.namespace}/{one.name}" if about.several else one.name for one in views))
    _check(form)
    troubles = _troubles(about.status)
    if not views:
        where = "any namespace" if about.several else f"namespace {about.namespace}"
        return Page("", _lines([*troubles, f"no clusters in {where}", "try: krayne create demo"]))
    spread = about.several or len({one.namespace for one in views}) > 1
    columns = _cluster_columns(views, about.wall, spread=spread, wide=form == "wide")
    lines = table(list(columns), list(zip(*columns.values(), strict=True)), about.ink)
    return Page(_lines(lines), _lines([*troubles, *_marks(views, about.ink)]))


def cluster(view: ClusterDetails, form: str, about: Context) -> Page:
    """`krayne describe`."""
    if form in ("json", "yaml"):
        return Page(as_data(view, form))
    if form == "name":
        return Page(f"{view.name}\n")
    _check(form)
    ink = about.ink
    parts = [
        [ink.paint(view.name, BOLD) + f" in namespace {view.namespace}", *_facts(_about(view, about.wall), ink)],
        _section("Services", ["NAME", "LOCAL", "REMOTE", "STATE", "USE", ""], _service_rows(view), ink),
        _section("Worker groups", ["NAME", "READY", "DESIRED", "MIN", "MAX", "EACH", ""], _group_rows(view), ink),
        _section("Forwards", list(_FORWARD_COLUMNS)[1:], [_forward_row(one)[1:] for one in view.forwards], ink),
        [ink.paint("Events", BOLD), *(f"  {clean(one)}" for one in view.events)] if view.events else [],
    ]
    return Page("\n".join(_lines(part) for part in parts if part), _lines(_troubles(about.status)))


def ports(forwards: Sequence[ForwardView], form: str, about: Context) -> Page:
    """`krayne ports`."""
    if form in ("json", "yaml"):
        return Page(as_data(list(forwards), form))
    if form == "name":
        return Page(_lines(str(one.local_port) for one in forwards))
    _check(form)
    if not forwards:
        return Page("", _lines([*_troubles(about.status), "no port is forwarded", "try: krayne tun-open NAME"]))
    lines = table(_FORWARD_COLUMNS, [_forward_row(one) for one in forwards], about.ink)
    return Page(_lines(lines), _lines(_troubles(about.status)))


def status(view: DaemonStatus, form: str, about: Context) -> Page:
    """`krayne status`."""
    if form in ("json", "yaml"):
        return Page(as_data({"running": True, **msgspec.to_builtins(view)}, form))
    if form == "name":
        return Page(f"{view.pid}\n")
    _check(form)
    world = view.world
    where = f"context {world.context}" if world.context else "no context"
    facts = {
        "Daemon": Cell(f"running, pid {view.pid}, version {view.version}, up {duration(view.uptime_s)}"),
        "Home": Cell(view.home),
        "Socket": Cell(view.socket),
        "Kubernetes": Cell(
            f"{world.condition}: {where}" + (f" at {world.server}" if world.server else ""), _world_paint(world)
        ),
        "": Cell(world.reason),
        "KubeRay": Cell(view.kuberay or "not seen"),
        "Clusters": Cell(str(view.clusters)),
        "Forwards": Cell(str(view.forwards)),
        "Frozen": Cell(f"nothing is changed any more: {view.frozen}" if view.frozen else "", RED),
    }
    lines = _facts(facts, about.ink)
    for problem in view.problems:
        lines += [about.ink.paint("Problem", RED) + f"     {_file_problem(problem)}"]
        lines += [f"         try: {clean(problem.hint)}"] if problem.hint else []
    lines += [f"Note     {clean(note)}" for note in view.notes]
    lines += [f"try: {clean(world.hint)}"] if world.hint else []
    return Page(_lines(lines))


# The list.


def _cluster_columns(views: Sequence[ClusterView], wall: float, *, spread: bool, wide: bool) -> dict[str, list[Cell]]:
    """Column title -> its cells; a service nobody offers has none."""
    columns = {"NAME": [Cell(one.name, BOLD) for one in views]}
    if spread:
        columns["NAMESPACE"] = [Cell(one.namespace) for one in views]
    columns["PHASE"] = [Cell(one.phase, _PHASES.get(one.phase, "")) for one in views]
    columns["WORKERS"] = [_workers(one.workers) for one in views]
    for name, title in _COLUMNS.items():
        if any(service.name == name for one in views for service in one.services):
            columns[title] = [_port(one.services, name) for one in views]
    if any(service.name not in _COLUMNS for one in views for service in one.services):
        columns["MORE"] = [_more_ports(one.services) for one in views]
    if wide:
        columns["AGE"] = [Cell(_age(one.created, wall)) for one in views]
        columns["IMAGE"] = [Cell(one.image) for one in views]
        columns["SOURCE"] = [Cell(one.source) for one in views]
    columns["REASON"] = [Cell("; ".join(_reasons(one))) for one in views]
    return columns


def _workers(workers: Workers) -> Cell:
    short = workers.ready < workers.desired
    return Cell(f"{workers.ready}/{workers.desired}", YELLOW if short else "")


def _port(services: Iterable[ServiceView], name: str) -> Cell:
    for service in services:
        if service.name == name:
            return _port_cell(service, str(service.local_port))
    return Cell("-", DIM)


def _more_ports(services: Iterable[ServiceView]) -> Cell:
    cells = [_port_cell(one, f"{one.remote_port}:{one.local_port}") for one in services if one.name not in _COLUMNS]
    worst = max(cells, key=lambda cell: ("", DIM, GREEN, YELLOW, RED).index(cell.paint), default=Cell(""))
    return Cell(",".join(cell.text for cell in cells) or "-", worst.paint)


def _port_cell(service: ServiceView, text: str) -> Cell:
    """`15022` works now, `15022~` waits, `15022!` does not work, `-` is off."""
    if service.state == OFF or not service.local_port:
        return Cell("-", DIM)
    if service.state == READY:
        return Cell(text, GREEN)
    if service.state in WAITING_STATES:
        return Cell(text + "~", YELLOW)
    return Cell(text + "!", RED)


def _reasons(view: ClusterView) -> list[str]:
    """Everything a user should know of a cluster besides its phase, the most urgent first."""
    found = []
    if view.owner:
        found.append(f"belongs to {view.owner}")
    elif not view.declared and view.phase != "deleting":
        found.append("not declared")
    if view.reason:
        found.append(view.reason)
    if view.restart_needed:
        found.append(f"restart needed for {', '.join(view.restart_needed)}")
    return [*found, *view.notes]


def _marks(views: Sequence[ClusterView], ink: Ink) -> list[str]:
    """What the marks in the list mean, for people: a pipe has -o json."""
    if not ink.width:
        return []
    bad = [(one, service) for one in views for service in one.services if _port_cell(service, "").text.endswith("!")]
    lines = [
        f"! {one.name} {service.name}: {clean(service.state + (f', {service.reason}' if service.reason else ''))}"
        for one, service in bad[:MARKS_EXPLAINED]
    ]
    if len(bad) > MARKS_EXPLAINED:
        lines.append(f"! and {len(bad) - MARKS_EXPLAINED} more: krayne ports")
    waits = any(_port_cell(service, "").text.endswith("~") for one in views for service in one.services)
    if waits:
        lines.append("~ the port listens already and a connection waits until the service is up")
    return [ink.paint(line, DIM) for line in lines]


def _troubles(status: DaemonStatus | None) -> list[str]:
    """What makes every row doubtful: no connection, frozen writes, files that cannot be followed."""
    if status is None:
        return []
    lines = []
    world = status.world
    if world.condition != "ready":
        lines.append(f"Kubernetes is {_said(world)}; what is shown may be old")
        lines += [f"try: {clean(world.hint)}"] if world.hint else []
    if status.frozen:
        lines.append(f"nothing is changed any more: {clean(status.frozen)}")
    lines += [_file_problem(one) for one in status.problems if not one.name]
    return lines


def _said(world: WorldView) -> str:
    return clean(world.condition + (f": {world.reason}" if world.reason else ""))


# The description.


def _about(view: ClusterDetails, wall: float) -> dict[str, Cell]:
    workers = view.workers
    since = f" for {duration(wall - view.since)}" if view.since else ""
    head = view.head
    pod = ""
    if head is not None:
        pod = f"{head.pod}, {head.phase}" + (f" on {head.node}" if head.node else "")
        pod += f", {head.restarts} restarts" if head.restarts else ""
        pod += f" ({head.reason})" if head.reason else ""
    declared = f"yes, in {view.source}" if view.source else "yes"
    return {
        "Phase": Cell(view.phase + since, _PHASES.get(view.phase, "")),
        "Reason": Cell("; ".join(_reasons(view))),
        "Problem": Cell(view.problem, RED),
        "Declared": Cell(declared if view.declared else "no"),
        "Workers": Cell(f"{workers.ready} of {workers.desired} ready (at least {workers.min}, at most {workers.max})"),
        "Head": Cell(pod),
        "Image": Cell(view.image + (f" (Ray {view.ray_version})" if view.ray_version else "")),
        "Age": Cell(_age(view.created, wall)),
    }


def _service_rows(view: ClusterDetails) -> list[list[Cell]]:
    rows = []
    for one in view.services:
        use = _ssh_line(view, one) if one.name == "ssh" and one.state != OFF else one.url
        local = _port_cell(one, str(one.local_port))
        rows.append(
            [Cell(one.name), local, Cell(str(one.remote_port)), Cell(one.state), Cell(use), Cell(one.reason, DIM)]
        )
    return rows


def _ssh_line(view: ClusterDetails, ssh: ServiceView) -> str:
    user = ssh.url.removeprefix("ssh://").partition("@")[0]
    # Any other user is the sandbox's, which wants a key: krayne ssh brings it.
    return (
        f"krayne ssh {view.name}" if user not in ("", LOGIN_USER) else f"ssh -p {ssh.local_port} {LOGIN_USER}@localhost"
    )


def _group_rows(view: ClusterDetails) -> list[list[Cell]]:
    rows = []
    for one in view.groups:
        counts = map(_number, (one.ready, one.desired, one.min, one.max))
        rows.append([Cell(one.name), *counts, Cell(one.resources), Cell(one.reason, DIM)])
    return rows


_FORWARD_COLUMNS = ["CLUSTER", "SERVICE", "LOCAL", "REMOTE", "STATE", "OPEN", "HELD", "TOTAL", "IN", "OUT", "REASON"]


def _forward_row(one: ForwardView) -> list[Cell]:
    paint = {"port-taken": RED, "refused": RED, "failed": RED, "holding": YELLOW}.get(one.state, GREEN)
    return [
        Cell(f"{one.namespace}/{one.cluster}"),
        Cell(one.service),
        *map(_number, (one.local_port, one.remote_port)),
        Cell(one.state, paint),
        *map(_number, (one.connections, one.held, one.total)),
        Cell(size(one.bytes_in)),
        Cell(size(one.bytes_out)),
        Cell("; ".join(_forward_remarks(one))),
    ]


def _forward_remarks(one: ForwardView) -> list[str]:
    remarks = [one.reason or (f"last error: {one.last_error}" if one.last_error else "")]
    remarks.append(f"{one.refused} reset" if one.refused else "")
    remarks.append(f"{one.foreign} of other users refused" if one.foreign else "")
    remarks.append(f"{one.blocked} requests of web pages refused" if one.blocked else "")
    return [remark for remark in remarks if remark]


# Small things.


def _check(form: str) -> None:
    if form not in FORMATS:
        raise UsageError(f"there is no output format {form[:40]!r}", hint=f"one of {', '.join(FORMATS)}")


def _number(value: int) -> Cell:
    return Cell(str(value))


def _age(created: float | None, wall: float) -> str:
    return duration(wall - created) if created else ""


def _world_paint(world: WorldView) -> str:
    return {"ready": GREEN, "connecting": YELLOW}.get(world.condition, RED)


def _facts(facts: dict[str, Cell], ink: Ink) -> list[str]:
    """`Name  value` lines; facts without a value are left out."""
    wide = max(len(name) for name in facts) + 2
    return [
        name.ljust(wide) + ink.paint(clean(cell.text), cell.paint) for name, cell in facts.items() if cell.text.strip()
    ]


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], ink: Ink) -> list[str]:
    if not rows:
        return []
    inner = Ink(ink.color, max(0, ink.width - 2))
    return [ink.paint(title, BOLD), *("  " + line for line in table(head, rows, inner))]


def _lines(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)


_DUMPER: Callable[..., Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _file_problem(problem: FileProblemView) -> str:
    """The file, then what is wrong; most sentences name the file and the line themselves."""
    message = clean(problem.message)
    return message if message.startswith(problem.source) else f"{clean(problem.source)}: {message}"
