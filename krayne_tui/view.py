"""What the screen says, as pure functions of what the daemon told: rows, the detail pane, the create form's YAML.

No widget and no I/O here.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text

from krayne.api import ClusterInfo
from krayne.config import ClusterConfig, ConfigValidationError, dump_cluster_yaml, parse_cluster_yaml, problems_of

Json = Mapping[str, Any]
Key = tuple[str, str]

COLUMNS = ("NAMESPACE", "NAME", "PHASE", "WORKERS", "PORTS")
COLOURS = {
    "ready": "green", "pending": "yellow", "starting": "yellow", "degraded": "dark_orange", "suspended": "blue",
    "deleting": "magenta", "invalid": "red", "unreachable": "red",
}  # fmt: skip
REASON_WIDTH = 30  # characters of a reason in the table; the pane below has all of it
# The create form: field, label, and where its default is found in a ClusterConfig.
FIELDS = (
    ("name", "name"), ("namespace", "namespace"), ("head.cpus", "head cpus"), ("head.memory", "head memory"),
    ("worker.replicas", "workers"), ("worker.min_replicas", "at least"), ("worker.max_replicas", "at most"),
    ("worker.cpus", "worker cpus"), ("worker.memory", "worker memory"), ("worker.gpus", "worker gpus"),
)  # fmt: skip


def row(info: ClusterInfo) -> tuple[Text, ...]:
    """A cluster's cells, in the order of COLUMNS."""
    phase = Text(info.status, style=COLOURS.get(info.status, ""))
    if info.reason:
        phase.append(f" {shortened(info.reason)}", style="dim")
    ports = " ".join(str(one.local_port) for one in info.services if one.local_port and one.state != "off")
    return (Text(info.namespace), Text(info.name), phase, Text(f"{info.workers_ready}/{info.num_workers}"), Text(ports))


def shortened(text: str, width: int = REASON_WIDTH) -> str:
    """One line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def is_shown(info: ClusterInfo, words: str, namespace: str) -> bool:
    """Whether the filter and the chosen namespace (empty: all) let a cluster through."""
    if namespace and info.namespace != namespace:
        return False
    said = f"{info.namespace} {info.name} {info.status} {info.reason}".lower()
    return all(word in said for word in words.lower().split())


def heading(total: int, shown: int, words: str, namespace: str) -> str:
    """The first line of the screen."""
    parts = ["krayne", f"namespace {namespace}" if namespace else "all namespaces"]
    parts.append(f"{shown} of {total} clusters" if shown != total else f"{total} cluster" + "s" * (total != 1))
    if words:
        parts.append(f"filter: {words}")
    return "  ·  ".join(parts)


def detail(view: Json) -> str:
    """Everything known of one cluster, as lines."""
    lines = [f"{view['name']} in {view['namespace']}: {view['phase']}"]
    lines += [str(view[name]) for name in ("reason", "problem") if view.get(name)]
    lines += _services(view)
    lines += _part("WORKERS", (_group(one) for one in view.get("groups", ())))
    lines += _part("REPORTS", (_joined(one["name"], one["state"], one["reason"]) for one in view.get("reports", ())))
    lines += _part("NOTES", (*view.get("restart_needed", ()), *view.get("notes", ())))
    lines += _part("EVENTS", view.get("events", ()))
    return "\n".join(lines)


def pages(view: Json) -> list[tuple[str, str]]:
    """(name, URL) of the services that a browser shows."""
    return [(one["name"], one["url"]) for one in view["services"] if one["url"].startswith(("http://", "https://"))]


def defaults() -> dict[str, str]:
    """What the create form begins with: the models' own defaults."""
    config = ClusterConfig(name="x")
    parts = {"head": config.head, "worker": config.worker_groups[0]}
    found = {"name": "", "namespace": config.namespace}
    for field, _ in FIELDS[2:]:
        part, _, name = field.partition(".")
        found[field] = str(getattr(parts[part], name))
    return found


def declared(values: Mapping[str, str]) -> ClusterConfig:
    """The form's cluster. Raises ConfigValidationError."""
    overrides: dict[str, Any] = {}
    for field, text in values.items():
        part, _, name = field.rpartition(".")
        value: Any = int(text) if text.strip().isascii() and text.strip().isdigit() and _is_count(name) else text
        if part == "head":
            overrides.setdefault("head", {})[name] = value
        elif part == "worker":
            overrides.setdefault("worker_groups", [{}])[0][name] = value
        else:
            overrides[name] = value
    return parse_cluster_yaml(_yaml(overrides).encode(), source="the form")


def preview(values: Mapping[str, str]) -> tuple[str, str]:
    """The file that the form would declare, and what is wrong with it (empty: nothing)."""
    try:
        return dump_cluster_yaml(declared(values)), ""
    except ConfigValidationError as error:
        return "", "\n".join(f"{one.field}: {one.message}" for one in problems_of(error)) or error.message


def _is_count(name: str) -> bool:
    return name == "gpus" or name.endswith("replicas")


def _yaml(data: Mapping[str, Any]) -> str:
    from krayne.config.loading import dump_plain

    return dump_plain(dict(data))


def _services(view: Json) -> list[str]:
    open_now = {one["service"]: one["connections"] for one in view.get("forwards", ())}
    lines = []
    for one in view["services"]:
        count = open_now.get(one["name"])
        said = "" if count is None else f"{count} connection" + ("" if count == 1 else "s")
        lines.append(f"{one['name']:<12}{one['url'] or '-':<44}{_joined(one['state'], said, one['reason'])}")
    return _part("SERVICES", lines)


def _group(view: Json) -> str:
    bounds = f"{view['min']} to {view['max']}"
    return _joined(f"{view['name']:<12}{view['ready']}/{view['desired']}", bounds, view["resources"], view["reason"])


def _part(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"  {line}" for line in lines]
    return [title, *found] if found else []


def _joined(*words: str) -> str:
    return "  ".join(word for word in words if word)
