"""Cluster files to `ClusterConfig` and back.

`parse_cluster_yaml` is pure (bytes in, model out) and is what the daemon uses; `load_config_from_yaml` reads a path.
Invariant: any bytes give a valid config or a ConfigValidationError, and `dump` then `parse` gives an equal config.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from krayne.config.document import SIZE_LIMIT, read_document
from krayne.config.explain import Origins, invalid_model
from krayne.config.models import ClusterConfig
from krayne.config.overrides import apply_overrides
from krayne.config.plain import to_plain
from krayne.config.problems import invalid, shown

# Long enough that no value a person writes is folded.
_LINE_WIDTH = 4096


def load_config_from_yaml(path: str | Path, overrides: dict[str, Any] | None = None) -> ClusterConfig:
    """Read a cluster file; `overrides` (dot-notation keys allowed) win over it. Raises ConfigValidationError."""
    return parse_cluster_yaml(read_bounded(Path(path)), source=str(path), overrides=overrides)


def parse_cluster_yaml(text: bytes, *, source: str, overrides: Mapping[str, Any] | None = None) -> ClusterConfig:
    """The cluster that `text` declares; ConfigValidationError names `source`, the line and the field."""
    document = read_document(text, source)
    data = document.data
    if data is None and overrides:
        data = {}
    if data is None:
        raise invalid(source, "the file is empty: a cluster needs at least a name")
    if not isinstance(data, dict):
        place = document.values[()]
        says = f"a cluster file holds fields, such as name: demo, not {shown(data)}"
        raise invalid(source, says, place=place)
    data, set_by = apply_overrides(data, overrides or {}, source)
    try:
        return ClusterConfig.model_validate(data)
    except ValidationError as error:
        raise invalid_model(error, Origins(source, document, set_by)) from None


def dump_cluster_yaml(config: ClusterConfig) -> str:
    """The shortest cluster file that loads as `config`: defaults left out, the models' field order."""
    plain = to_plain(config)
    if "worker_groups" in plain:
        # A group goes by its name: written also where it is the default one.
        plain["worker_groups"] = [{"name": group.name, **to_plain(group)} for group in config.worker_groups]
    text = dump_plain(plain)
    if len(text.encode()) > SIZE_LIMIT:
        raise invalid(config.name, f"the cluster's file would be larger than {SIZE_LIMIT // 1024} KiB")
    return text


class _Dumper(yaml.SafeDumper):
    """Writes no anchors: our loader refuses them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if not text.isprintable():
        # PyYAML's single-quoted style loses spaces beside unusual line breaks; escapes lose nothing.
        style = "|" if text.strip() and all(map(str.isprintable, text.split("\n"))) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def dump_plain(data: Any) -> str:
    """Plain data as block-style YAML."""
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=_LINE_WIDTH
    )
    return text


def read_bounded(path: Path, *, absent: bytes | None = None) -> bytes:
    """The file's bytes, one more than allowed at most; `absent`, else ConfigValidationError, when there is none."""
    name = shown(str(path))
    try:
        with path.open("rb") as file:
            return file.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        if absent is not None:
            return absent
        raise invalid(str(path), f"there is no file {name}", hint="check the path") from None
    except IsADirectoryError:
        raise invalid(str(path), f"{name} is a directory, not a file") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or "it is not a usable path"
        raise invalid(str(path), f"{name} cannot be read: {reason}") from None
