"""The daemon's own settings, `kraynd.yaml` in the home folder: where services come from, what it may do, its bounds.

Optional; every field has a default. An air-gapped cluster changes `bootstrap` and `default_image`. A malformed file is
an error with a place, and the daemon keeps its defaults.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from krayne import paths
from krayne.config.document import read_document
from krayne.config.explain import Origins, invalid_model
from krayne.config.loading import read_bounded
from krayne.config.problems import invalid
from krayne.config.rules import DnsLabel, Flag, refusal

FILE = "kraynd.yaml"
LOWEST_PORT, HIGHEST_PORT = 1024, 65535

Port = Annotated[int, Field(strict=True, ge=LOWEST_PORT, le=HIGHEST_PORT)]
Positive = Annotated[float, Field(strict=False, gt=0, le=86_400)]
Text = Annotated[str, Field(min_length=1, max_length=2048)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class BootstrapDownloads(_Model):
    """Where the head's services are installed from. `code_server_url` may use {version} and {arch}."""

    code_server_version: Text | None = None
    code_server_url: Text | None = None
    code_server_sha256: dict[Literal["amd64", "arm64"], Text] = Field(default_factory=dict)
    notebook_requirement: Text | None = None
    pip_index_url: str = ""
    apt: Flag = True
    apt_mirror: str = ""


class PortRange(_Model):
    """The local ports forwards are given from. Ports given earlier stay."""

    low: Port = 15000
    high: Port = 24999

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.high < self.low:
            raise refusal(f"must be at least low, which is {self.low}", "high", "low")
        return self


class HoldBounds(_Model):
    """How long, in seconds, and how many connections wait in each forward while its pod is away."""

    seconds: Positive = 30.0
    connections: Annotated[int, Field(strict=True, ge=0, le=100_000)] = 256


class Locks(_Model):
    """Who is kept out of the forwards: other users of this machine, web pages of elsewhere."""

    users: Flag = True
    web: Flag = True


class DaemonSettings(_Model):
    """What kraynd does that is not one cluster's affair."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    namespaces: tuple[DnsLabel, ...] = ()
    prune: Flag = False
    default_image: Text | None = None
    ports: PortRange = Field(default_factory=PortRange)
    hold: HoldBounds = Field(default_factory=HoldBounds)
    locks: Locks = Field(default_factory=Locks)
    tunnel_idle_seconds: Positive = 600.0
    bootstrap: BootstrapDownloads = Field(default_factory=BootstrapDownloads)


def daemon_settings_file() -> str:
    """Where the daemon's settings stand."""
    return os.path.join(paths.home(), FILE)


def load_daemon_settings() -> DaemonSettings:
    """The settings of this home; defaults without a file. Raises ConfigValidationError with the line."""
    path = Path(daemon_settings_file())
    document = read_document(read_bounded(path, absent=b""), str(path))
    if document.data is None:
        return DaemonSettings()
    if not isinstance(document.data, dict):
        raise invalid(str(path), "settings are fields, such as prune: false", place=document.values[()])
    try:
        return DaemonSettings.model_validate(document.data)
    except ValidationError as error:
        raise invalid_model(error, Origins(str(path), document, {}, DaemonSettings)) from None
