"""Writes the pages of docs/reference from the code: `python -m tests.docs.generate`.

The configuration from the models, the socket API from its OpenRPC document. A field without words is a KeyError.
"""

import dataclasses
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from krayne.config import KrayneSettings, PodFragment
from krayne.config.daemon import BootstrapDownloads, DaemonSettings, HoldBounds, Locks, PortRange
from krayne.openrpc import document
from tests.config.test_reference import MODELS, ROWS
from tests.docs.meanings import MEANINGS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made by `python -m tests.docs.generate`; not written by hand. -->\n\n"
ORIGIN = """\
The last column says where a field is from: *original* stands in the reference of the original krayne, with the same
type and default; *added* is new here.
"""
SOCKET = """\
JSON-RPC 2.0 over the control socket, one message a line. `rpc.discover` answers this very document as OpenRPC
{openrpc}; the API's version is {version}. Methods marked *changes* finish even when their caller goes away.
An answer with `"meta": {{"wants": "path"}}` says that the daemon lacks a credential plugin: a client may offer its
PATH by [daemon.path](#daemonpath).
"""
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "nothing"}
# The rows of the original configuration reference; what is not there is an addition of ours.
ORIGINAL = {(model.__name__, field) for model, field, *_ in ROWS} | {("ClusterConfig", "name")}
TYPES: dict[str, Any] = document()["components"]["schemas"]
OWN = (PodFragment,)
DAEMON = (DaemonSettings, PortRange, HoldBounds, Locks, BootstrapDownloads)


def main() -> None:
    """Write every generated page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


def pages() -> dict[str, str]:
    """File name -> its text."""
    return {"configuration.md": configuration(), "api.md": api()}


def configuration() -> str:
    """The configuration reference."""
    parts = [
        MADE + "# Configuration\n",
        "Three files, all YAML, all below `~/.krayne`. Unknown fields are refused, with the nearest valid name.\n",
        ORIGIN,
        "## A cluster file\n",
        *(_section(model) for model in (*MODELS, *OWN)),
        "## The kubeconfig: config.yaml\n",
        _table("KrayneSettings", _settings_rows(), origin=False),
        "## The daemon: kraynd.yaml\n",
        "Followed while the daemon runs; `ports` and `namespaces` count from the next `krayne daemon restart`.\n",
        *(_section(model, origin=False) for model in DAEMON),
    ]
    return "\n".join(parts)


def _section(model: type[BaseModel], *, origin: bool = True) -> str:
    rows = [(name, _kind(info.annotation), _default(info)) for name, info in model.model_fields.items()]
    return f"### {model.__name__}\n\n{_table(model.__name__, rows, origin=origin)}"


def _settings_rows() -> list[tuple[str, str, str]]:
    return [(one.name, "text or nothing", _shown(one.default)) for one in dataclasses.fields(KrayneSettings)]


def _table(model: str, rows: list[tuple[str, str, str]], *, origin: bool) -> str:
    head = ["field", "type", "default", "meaning"] + (["from"] if origin else [])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, kind, default in rows:
        cells = [f"`{name}`", kind, default, MEANINGS[model][name]]
        cells += ["original" if (model, name) in ORIGINAL else "added"] if origin else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _default(info: Any) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return "one with its defaults"
    return _shown(value)


def _shown(value: Any) -> str:
    return "none" if value is None else f"`{json.dumps(value)}`"


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = annotation.__name__
        return (
            f"[{name}](#{name.lower()})" if name in MEANINGS else ", ".join(f"`{one}`" for one in _fields(annotation))
        )
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(one) for one in parts)
    if origin in (list, tuple):
        return f"list of {_kind(parts[0])}"
    return "mapping"


def _fields(model: type[BaseModel]) -> Iterator[str]:
    yield from model.model_fields


def api() -> str:
    """The socket API's pages from its OpenRPC document."""
    found = document()
    schemas = found["components"]["schemas"]
    parts = [
        MADE + "# Socket API\n",
        SOCKET.format(openrpc=found["openrpc"], version=found["info"]["version"]),
        "## Methods\n",
        *(_method(one) for one in found["methods"]),
        "## Notifications\n",
        _rows(["name", "carries"], [[f"`{name}`", _schema(one)] for name, one in found["x-notifications"].items()]),
        "## Error kinds\n",
        "In `error.data.kind`. What each means, and its mend: [when things break](../troubles.md).\n",
        ", ".join(f"[`{kind}`](../troubles.md#{kind})" for kind in found["x-error-kinds"]) + "\n",
        "## Types\n",
        *(_type(name, schemas[name]) for name in sorted(schemas) if schemas[name].get("properties")),
    ]
    return "\n".join(parts)


def _method(one: dict[str, Any]) -> str:
    changes = " *changes*" if one["x-mutates"] else ""
    rows = [
        [f"`{each['name']}`", _schema(each["schema"]), "required" if each["required"] else _fallback(each["schema"])]
        for each in one["params"]
    ]
    takes = _rows(["parameter", "type", "default"], rows) if rows else "No parameters.\n"
    gives = _schema(one["result"]["schema"])
    return f"### {one['name']}\n\n{one['summary']}{changes}\n\n{takes}\nAnswers {gives}.\n"


def _type(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        [f"`{field}`", _schema(one), "always" if field in required else _fallback(one)]
        for field, one in schema["properties"].items()
    ]
    says = " ".join(str(schema.get("description", "")).split())
    return f"### {name}\n\n" + (f"{says}\n\n" if says else "") + _rows(["field", "type", "default"], rows)


def _fallback(schema: dict[str, Any]) -> str:
    value = schema.get("default")
    return "its defaults" if isinstance(value, dict) and value else _shown(value)


def _schema(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        has_fields = bool(TYPES[name].get("properties"))
        return f"[{name}](#{name.lower()})" if has_fields else "an empty object"
    if "anyOf" in schema:
        return " or ".join(_schema(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_schema(schema['items'])}" if "items" in schema else "list"
    return str(schema.get("type", "anything"))


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(one) + " |" for one in rows)]) + "\n"


if __name__ == "__main__":
    main()
