"""Declaring clusters: create and apply."""

import argparse
import sys
from typing import Any

from krayne.errors import UsageError
from krayne_client import words
from krayne_client.asking import reach, show, wait_for
from krayne_client.connection import new_token, version_of
from krayne_client.grammar import Grammar, add_timeout

CREATE_FIELDS = {
    "--workers": "worker_groups.0.replicas",
    "--min-workers": "worker_groups.0.min_replicas",
    "--max-workers": "worker_groups.0.max_replicas",
    "--gpus-per-worker": "worker_groups.0.gpus",
    "--cpus-per-worker": "worker_groups.0.cpus",
    "--memory-per-worker": "worker_groups.0.memory",
    "--cpus-in-head": "head.cpus",
    "--memory-in-head": "head.memory",
}


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.on_cluster(
        "create",
        create,
        "declare a new cluster",
        "create demo --workers 2 --wait",
        "create train --gpus-per-worker 1 --memory-per-worker 32Gi",
        "create demo --file demo.yaml --set head.cpus=4",
    )
    typed.add_argument("--file", metavar="FILE", help="start from this cluster file (- is stdin)")
    for option, field in CREATE_FIELDS.items():
        metavar = "SIZE" if "memory" in option else "N"
        typed.add_argument(option, dest=field, metavar=metavar, help=f"sets {field}")
    typed.add_argument("--no-autoscaling", action="store_true", help="sets autoscaler.enabled to false")
    typed.add_argument("--image", metavar="IMAGE", help="the image of the head and of the workers")
    typed.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any field, dotted")
    typed.add_argument("--dry-run", action="store_true", help="print the manifest and change nothing")
    typed.add_argument("--wait", action="store_true", help="return when it is ready")
    add_timeout(typed)
    typed = grammar.verb(
        "apply", apply, "declare clusters from files", "apply -f demo.yaml", "apply -f clusters/", "apply -f -"
    )
    typed.usage = "krayne apply -f PATH [options]"
    typed.add_argument(
        "-f", "--file", action="append", required=True, metavar="PATH", help="a file, a folder, or - for stdin"
    )
    typed.add_argument("--dry-run", action="store_true", help="say what would be done")


def create(options: argparse.Namespace) -> int:
    """`krayne create`."""
    text, source = "", ""
    if options.file:
        source = "standard input" if options.file == "-" else options.file
        text = words.read_text(options.file)
    params = {
        "name": options.name,
        "namespace": options.namespace,
        "text": text,
        "source": source,
        "set": _chosen_fields(options),
        "client": client_versions(),
        "dry_run": options.dry_run,
        "token": new_token(),
    }
    with reach(options) as daemon:
        created = daemon.call("cluster.create", params)
    if options.dry_run:
        as_json = options.output == "json"
        sys.stdout.write(words.as_json(created["manifest"]) if as_json else created["text"])
        return 0
    view = created["cluster"]
    options.namespace = view["namespace"]
    if options.wait:
        words.aside(f"{view['name']} is declared in {view['namespace']}")
        wait_for(options, "ready")
    return show(options, view, "is ready" if options.wait else "is declared", again=options.wait)


def _chosen_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The dotted fields of the models that the options set."""
    chosen = {field: words.value(found) for field in CREATE_FIELDS.values() if (found := getattr(options, field))}
    workers, least = "worker_groups.0.replicas", "worker_groups.0.min_replicas"
    if least in chosen and workers not in chosen:
        chosen[workers] = chosen[least]  # fewer than the minimum would be refused, and is never meant
    if options.image:
        chosen |= {"head.image": options.image, "worker_groups.0.image": options.image}
    if options.no_autoscaling:
        chosen["autoscaler.enabled"] = False
    for one in options.set:
        key, equals, found = one.partition("=")
        if not key or not equals:
            raise UsageError(f"--set takes KEY=VALUE, not {one!r}", hint="for example --set head.cpus=4")
        chosen[key] = words.value(found)
    return chosen


def client_versions() -> dict[str, Any]:
    """Ray's and Python's versions beside this client: they choose the default image. Ray is not imported."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    return {"ray": version_of("ray"), "python": python, "client": version_of("kraynd") or ""}


def apply(options: argparse.Namespace) -> int:
    """`krayne apply`."""
    params = {
        "files": words.read_cluster_files(options.file),
        "namespace": options.namespace,
        "client": client_versions(),
        "dry_run": options.dry_run,
        "token": new_token(),
    }
    with reach(options) as daemon:
        results = daemon.call("cluster.apply", params)["results"]
    if options.output == "json":
        sys.stdout.write(words.as_json(results))
    elif options.output == "name":
        sys.stdout.write("".join(f"{one['name']}\n" for one in results))
    else:
        for one in results:
            sys.stdout.write(f"{one['name']} in {one['namespace']}: {one['action']} ({one['source']})\n")
    return 0
