"""Which API server, and as whom: read from kubeconfig files, or from the service account of the pod we run in.

Reads files and nothing else; runs no plugin and opens no connection. No error quotes a file's content beyond the names
of contexts, clusters and users.
"""

# Not kubernetes_asyncio's KubeConfigMerger: its last current-context wins where kubectl's first does, an empty file
# breaks it, its errors name no file, and the names of its nodes contain the users' credentials.

import os
import stat
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
import yaml

from kraynd.core.model import Json
from krayne.config import KrayneSettings
from krayne.errors import KubeConfigError

IN_CLUSTER = "/var/run/secrets/kubernetes.io/serviceaccount"
SIZE_LIMIT = 8 * 1024 * 1024  # bytes of one kubeconfig; a fleet of a thousand clusters has three
SECTIONS = {"clusters": "cluster", "contexts": "context", "users": "user"}
PLUGIN_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Stamp = tuple[int, int, int] | None


class Access(msgspec.Struct, frozen=True):
    """One context of a kubeconfig, with its files' places. `stamps`: the files it came from, to notice changes."""

    context: str
    namespace: str
    server: str
    cluster: Json
    user_name: str
    user: Json
    folder: str
    stamps: tuple[tuple[str, Stamp], ...]

    def __repr__(self) -> str:
        return f"Access({self.context!r}, {self.server!r})"


class Named(msgspec.Struct, frozen=True):
    """One context as a list shows it."""

    name: str
    server: str
    user: str
    namespace: str
    current: bool


class _Entry(msgspec.Struct, frozen=True):
    """A named part of a kubeconfig, and the folder its relative paths start from."""

    value: Json
    folder: str


class _Merged(msgspec.Struct):
    """What the files say together: of two entries of a name, and of two current contexts, the first holds."""

    files: str
    current: str
    clusters: dict[str, _Entry]
    contexts: dict[str, _Entry]
    users: dict[str, _Entry]


def stamp(path: str) -> Stamp:
    """What changes when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def kubeconfig_files(settings: KrayneSettings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The files that are looked at, there or not: the settings' one, else $KUBECONFIG's, else ~/.kube/config."""
    home = environ.get("HOME") or os.path.expanduser("~")
    listed = [settings.kubeconfig] if settings.kubeconfig else (environ.get("KUBECONFIG") or "").split(os.pathsep)
    named = [path for path in listed if path] or [os.path.join(home, ".kube", "config")]
    return tuple(home + path[1:] if path == "~" or path.startswith("~/") else path for path in named)


def kubeconfig_stamps(settings: KrayneSettings, environ: Mapping[str, str]) -> tuple[tuple[str, Stamp], ...]:
    """Changes when one of those files does: what to watch while there is no usable kubeconfig."""
    return tuple((path, stamp(path)) for path in kubeconfig_files(settings, environ))


def list_contexts(settings: KrayneSettings, environ: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[Named, ...]]:
    """The files looked at and their contexts, usable or not. Raises KubeConfigError for a file that is malformed."""
    there = tuple(path for path, found in kubeconfig_stamps(settings, environ) if found is not None)
    if not there:
        files = ", ".join(kubeconfig_files(settings, environ))
        raise KubeConfigError(f"there is no kubeconfig: {files} does not exist", hint="krayne init --kubeconfig FILE")
    merged = _Merged(", ".join(there), "", {}, {}, {})
    for path in there:
        _merge(merged, path, _content(path))
    found = []
    for name, entry in sorted(merged.contexts.items()):
        cluster = merged.clusters.get(str(entry.value.get("cluster")))
        server = _shown_server(cluster.value if cluster else {})
        user, namespace = str(entry.value.get("user") or ""), str(entry.value.get("namespace") or "default")
        found.append(Named(name, server, user, namespace, name == merged.current))
    return there, tuple(found)


def _shown_server(cluster: Json) -> str:
    """The address, unless it could hold a password."""
    server = str(cluster.get("server") or "")
    return "" if "@" in server else server


def find_access(settings: KrayneSettings, environ: Mapping[str, str]) -> Access:
    """What the kubeconfig says, else the pod's service account. Raises KubeConfigError."""
    files = kubeconfig_files(settings, environ)
    stamps = kubeconfig_stamps(settings, environ)  # before reading: a change while we read is a change
    there = [path for path, found in stamps if found is not None]
    named = bool(settings.kubeconfig or environ.get("KUBECONFIG"))
    if not there and not named and os.path.exists(os.path.join(IN_CLUSTER, "token")):
        return _in_cluster(environ, stamps)
    if not there:
        raise KubeConfigError(
            f"there is no kubeconfig: {', '.join(files)} does not exist",
            hint="set KUBECONFIG, or kubeconfig in ~/.krayne/config.yaml",
        )
    merged = _Merged(", ".join(there), "", {}, {}, {})
    for path in there:
        _merge(merged, path, _content(path))
    return _chosen(merged, settings.kube_context, stamps)


# Files.


def _content(path: str) -> Json:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            _check_safe(path, os.fstat(file.fileno()))
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise KubeConfigError(f"the kubeconfig {path} cannot be read: {error.strerror}") from error
    if len(data) > SIZE_LIMIT:
        raise KubeConfigError(f"the kubeconfig {path} is larger than {SIZE_LIMIT // 1024 // 1024} MiB")
    try:
        found = yaml.load(data, Loader=_LOADER)  # noqa: S506 - a safe loader, the fast one where it is built
    except yaml.YAMLError as error:
        raise _malformed(path, error) from None
    except (ValueError, RecursionError):
        raise KubeConfigError(f"the kubeconfig {path} is malformed: not YAML") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise KubeConfigError(f"the kubeconfig {path} is malformed: it has no clusters, contexts and users")
    return found


def _malformed(path: str, error: yaml.YAMLError) -> KubeConfigError:
    mark = getattr(error, "problem_mark", None)
    place = f" line {mark.line + 1}" if mark else ""
    # What stands in quotes after the parser's words could be a piece of a credential.
    problem = str(getattr(error, "problem", None) or "it is not YAML").partition(" '")[0]
    return KubeConfigError(f"the kubeconfig {path}{place} is malformed: {problem}")


def _check_safe(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise KubeConfigError(f"the kubeconfig {path} is not a file")
    if found.st_mode & 0o022:
        raise KubeConfigError(
            f"the kubeconfig {path} can be written by other users, who could make it run commands as you",
            hint=f"chmod go-w {path}",
        )
    if os.geteuid() != 0 and found.st_uid not in (0, os.geteuid()):
        raise KubeConfigError(
            f"the kubeconfig {path} belongs to another user, who could make it run commands as you",
            hint="copy it to a file of your own",
        )


def _merge(merged: _Merged, path: str, found: Json) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    merged.current = merged.current or str(found.get("current-context") or "")
    for section, inner in SECTIONS.items():
        known: dict[str, _Entry] = getattr(merged, section)
        listed = found.get(section) or []
        if not isinstance(listed, list) or not all(isinstance(one, dict) and one.get("name") for one in listed):
            raise KubeConfigError(f"the kubeconfig {path} is malformed: {section} is not a list of named entries")
        for one in listed:
            value = one.get(inner) or {}
            if not isinstance(value, dict):
                raise KubeConfigError(f"the kubeconfig {path} is malformed: {inner} {one['name']} has no fields")
            known.setdefault(str(one["name"]), _Entry(value, folder))


# Contexts.


def _chosen(merged: _Merged, wanted: str | None, stamps: tuple[tuple[str, Stamp], ...]) -> Access:
    name = wanted or merged.current
    known = ", ".join(sorted(merged.contexts)) or "none"
    if not name:
        raise KubeConfigError(
            f"the kubeconfig {merged.files} has no current context",
            hint=f"kubectl config use-context NAME; it has {known}",
        )
    if name not in merged.contexts:
        raise KubeConfigError(f"there is no context {name} in {merged.files}", hint=f"it has {known}")
    context = merged.contexts[name].value
    cluster = _part(merged.clusters, "cluster", context, name)
    user = _part(merged.users, "user", context, name) if context.get("user") else _Entry({}, cluster.folder)
    data = _with_paths(cluster, ("certificate-authority",))
    who = _with_paths(user, ("client-certificate", "client-key", "tokenFile"))
    _check_user(name, who)
    secured = [data.get("certificate-authority"), who.get("client-certificate"), who.get("client-key")]
    return Access(
        context=name, namespace=str(context.get("namespace") or "default"), server=_server(name, data),
        cluster=data, user_name=str(context.get("user") or ""), user=who, folder=user.folder,
        stamps=(*stamps, *((str(path), stamp(str(path))) for path in secured if path)),
    )  # fmt: skip


def _part(entries: dict[str, _Entry], kind: str, context: Json, name: str) -> _Entry:
    wanted = context.get(kind)
    if not wanted:
        raise KubeConfigError(f"context {name} names no {kind}")
    if str(wanted) not in entries:
        raise KubeConfigError(
            f"context {name} names the {kind} {wanted}, which the kubeconfig does not have",
            hint=f"it has {', '.join(sorted(entries)) or 'none'}",
        )
    return entries[str(wanted)]


def _with_paths(entry: _Entry, keys: tuple[str, ...]) -> Json:
    """Relative paths are relative to the file that names them."""
    value = entry.value
    return value | {
        key: os.path.join(entry.folder, os.path.expanduser(str(value[key]))) for key in keys if value.get(key)
    }


def _server(context: str, cluster: Json) -> str:
    server = str(cluster.get("server") or "").rstrip("/")
    try:
        address: SplitResult = urlsplit(server)
        usable = address.scheme in ("https", "http") and bool(address.hostname) and (address.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise KubeConfigError(f"the cluster of context {context} has no usable server address (https://host:port)")
    if address.username is not None or address.query or address.fragment:
        # It is shown everywhere, so nothing secret may be in it.
        raise KubeConfigError(
            f"the server address of context {context} has more than a host, a port and a path",
            hint="credentials belong into the kubeconfig's users",
        )
    return server


def _check_user(context: str, user: Json) -> None:
    provider = user.get("auth-provider")
    if provider:
        name = provider.get("name") if isinstance(provider, dict) else provider
        raise KubeConfigError(
            f"context {context} uses the auth provider {name}, which Kubernetes removed in 1.26",
            hint="set up its exec credential plugin instead (gke-gcloud-auth-plugin, kubelogin)",
        )
    if (user.get("as-groups") or user.get("as-uid") or user.get("as-user-extra")) and not user.get("as"):
        raise KubeConfigError(f"context {context} impersonates groups without a user: as-groups needs as")
    plugin = user.get("exec")
    if plugin:
        _check_plugin(context, plugin)


def _check_plugin(context: str, plugin: Any) -> None:
    if not isinstance(plugin, dict) or not isinstance(plugin.get("command"), str):
        raise KubeConfigError(f"the exec section of context {context} is malformed: it names no command")
    name = plugin["command"]
    if plugin.get("apiVersion") not in PLUGIN_VERSIONS:
        raise KubeConfigError(
            f"the credential plugin {name} of context {context} has the version {plugin.get('apiVersion')}",
            hint=f"Kubernetes knows {' and '.join(PLUGIN_VERSIONS)}",
        )
    if plugin.get("interactiveMode") == "Always":
        raise KubeConfigError(
            f"the credential plugin {name} of context {context} needs a terminal, which a daemon has not",
            hint="set its interactiveMode to IfAvailable",
        )
    env, args = plugin.get("env") or [], plugin.get("args") or []
    named = isinstance(env, list) and all(isinstance(one, dict) and "name" in one and "value" in one for one in env)
    if not named or not isinstance(args, list):
        raise KubeConfigError(f"the exec section of context {context} is malformed: args and env must be lists")


# Inside a pod.


def _in_cluster(environ: Mapping[str, str], stamps: tuple[tuple[str, Stamp], ...]) -> Access:
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeConfigError("there is no kubeconfig, and KUBERNETES_SERVICE_HOST is not set")
    try:
        with open(os.path.join(IN_CLUSTER, "namespace")) as file:
            namespace = file.read().strip()
    except OSError:
        namespace = "default"
    host = f"[{host}]" if ":" in host else host
    ca = os.path.join(IN_CLUSTER, "ca.crt")
    return Access(
        context="in-cluster", namespace=namespace, server=f"https://{host}:{port}",
        cluster={"certificate-authority": ca}, user_name="service account",
        user={"tokenFile": os.path.join(IN_CLUSTER, "token")}, folder=IN_CLUSTER, stamps=(*stamps, (ca, stamp(ca))),
    )  # fmt: skip
