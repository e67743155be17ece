"""How the head's services start: the postStart hook of the manifest, its settings, and what the pod reports of them.

The hook starts kraynd/pod detached and returns at once, so that no download, mirror or missing package can
hold the pod back or kill it. The program travels as text in the manifest: the pod has no copy of krayne.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import msgspec

from kraynd.core.model import CODE_SERVER, NOTEBOOK, SSH, Json
from krayne.config import ClusterConfig
from krayne.errors import ProtocolError

# Loopback port of the pod's status server: above those Ray gives its workers (10002-19999), near its agent's 52365.
STATUS_PORT = 52399
STATUS_PATH = "/services"
STATE_FOLDER = "/tmp/krayne"  # noqa: S108 (in the pod, where only its own user lives)
LOGIN_USER = "ray"
# The program's modules, each after those it imports.
MODULES = ("board", "service", "web", "ssh", "main")

INSTALLING, RUNNING, FAILED = "installing", "running", "failed"


def _text(name: str) -> str:
    """A file of kraynd/pod, read once with the code it belongs to, like an import."""
    return resources.files("kraynd.pod").joinpath(name).read_text(encoding="utf-8")


HOOK = _text("hook.sh")
# One text, so that a person can read in the RayCluster what runs in the pod; hook.sh takes it apart again.
PROGRAM = "".join(f"#: module kraynd.pod.{name}\n{_text(f'{name}.py')}" for name in MODULES)


class BootstrapSettings(msgspec.Struct, frozen=True):
    """Where the head's services come from: what a cluster without Internet must change.

    `code_server_url` may use {version} and {arch} (amd64, arm64). `code_server_sha256`: by arch; without an entry the
    download is not checked beyond TLS (upstream publishes no checksums). `apt` False: never install ssh. `apt_mirror`:
    base URL that replaces the image's own sources. All but these are ignored when the image has the program already.
    """

    code_server_version: str = "4.133.0"
    code_server_url: str = (
        "https://github.com/coder/code-server/releases/download/v{version}/code-server-{version}-linux-{arch}.tar.gz"
    )
    code_server_sha256: Mapping[str, str] = {}
    notebook_requirement: str = "notebook>=7.2,<8"
    pip_index_url: str = ""
    apt: bool = True
    apt_mirror: str = ""


class ServiceReport(msgspec.Struct, frozen=True):
    """One service as the pod tells it. `since`: wall time of the state; `host_key`: ssh's public key line.

    `user`: who logs in by ssh; empty: the images' own user.
    """

    state: str
    reason: str = ""
    since: float = 0.0
    log: tuple[str, ...] = ()
    host_key: str = ""
    user: str = ""


_REPORT = msgspec.json.Decoder(dict[str, ServiceReport])


def parse_service_report(body: bytes) -> Mapping[str, ServiceReport]:
    """What the pod's status server answered, by service; ProtocolError when it is no such report."""
    try:
        return _REPORT.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"the head pod's service report is unreadable: {error}") from None


def head_lifecycle(config: ClusterConfig, settings: BootstrapSettings) -> Json:
    """The head container's lifecycle; empty when no service is wanted."""
    wanted = _services(config, settings)
    if not wanted:
        return {}
    told = {"folder": STATE_FOLDER, "status_port": STATUS_PORT, "services": wanted}
    return {"postStart": {"exec": {"command": startup_command(told)}}}


def startup_command(told: Json) -> list[str]:
    """The hook's command line, carrying the program and its settings."""
    settings = msgspec.json.encode(told, order="deterministic").decode()
    return ["/bin/sh", "-c", HOOK, "krayne", PROGRAM, settings, told["folder"]]


def without_bootstrap(pod_spec: Json) -> Json:
    """A pod's spec without how its services start. Which services it has, its container ports say."""
    bare = [{key: value for key, value in one.items() if key != "lifecycle"} for one in pod_spec["containers"]]
    return {**pod_spec, "containers": bare}


def _services(config: ClusterConfig, settings: BootstrapSettings) -> dict[str, Any]:
    chosen = config.services
    told: dict[str, Any] = {}
    if chosen.notebook:
        told[NOTEBOOK.name] = {
            "port": NOTEBOOK.remote_port,
            # The Host names a browser sends through the forward; Jupyter refuses all others but loopback addresses.
            "hosts": ["localhost", f"{NOTEBOOK.name}.{config.name}.localhost"],
            "requirement": settings.notebook_requirement,
            "pip_index_url": settings.pip_index_url,
        }
    if chosen.code_server:
        told[CODE_SERVER.name] = {
            "port": CODE_SERVER.remote_port,
            "version": settings.code_server_version,
            "url": settings.code_server_url,
            "sha256": dict(settings.code_server_sha256),
        }
    if chosen.ssh:
        told[SSH.name] = {
            "port": SSH.remote_port,
            "user": LOGIN_USER,
            "apt": settings.apt,
            "apt_mirror": settings.apt_mirror,
        }
    return told
