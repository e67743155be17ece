"""From kubeconfig (or the pod's service account) to an endpoint: where the API server is and how to speak to it.

Reads files with kubernetes_asyncio's merger; runs exec plugins by itself. Credentials stay in memory, are refreshed one
at a time, and never appear in an error.
"""

import base64
import hashlib
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
import msgspec
import yaml
from kubernetes_asyncio.config.config_exception import ConfigException
from kubernetes_asyncio.config.kube_config import KubeConfigMerger

from kraynd.core.model import Json
from kraynd.kube.exec_plugin import Credential, run_plugin
from krayne.config import KrayneSettings
from krayne.errors import KubeConfigError, LoginNeededError

IN_CLUSTER = "/var/run/secrets/kubernetes.io/serviceaccount"
PLUGIN_REST = 5.0  # seconds a plugin's failure is the answer to whoever asks next: one storm of requests, one run
TOKEN_FILE_TRUST = 60.0  # seconds a token file's content is kept: mounted tokens rotate


class Access(msgspec.Struct, frozen=True):
    """One context of a kubeconfig, with its files' places. `stamps`: the files it came from, to notice changes."""

    context: str
    namespace: str
    server: str
    cluster: Json
    user: Json
    folder: str
    stamps: tuple[tuple[str, tuple[int, int, int] | None], ...]

    def __repr__(self) -> str:
        return f"Access({self.context!r}, {self.server!r})"


def stamp(path: str) -> tuple[int, int, int] | None:
    """What changes when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def find_access(settings: KrayneSettings, environ: Mapping[str, str]) -> Access:
    """The settings' kubeconfig, else $KUBECONFIG, else ~/.kube/config, else the pod's own. Raises KubeConfigError."""
    named = settings.kubeconfig or environ.get("KUBECONFIG")
    listed = named or os.path.join(os.path.expanduser("~"), ".kube", "config")
    files = [os.path.expanduser(path) for path in listed.split(os.pathsep) if path]
    there = [path for path in files if os.path.exists(path)]
    if not there and not named and os.path.exists(os.path.join(IN_CLUSTER, "token")):
        return _in_cluster(environ)
    if not there:
        where = ", ".join(files) or "KUBECONFIG (empty)"
        raise KubeConfigError(
            f"there is no kubeconfig: {where} does not exist",
            hint="set KUBECONFIG, or kubeconfig in ~/.krayne/config.yaml",
        )
    for path in there:
        _check_safe(path)
    return _choose(_merge(there), settings.kube_context, files)


def _check_safe(path: str) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        raise KubeConfigError(f"the kubeconfig {path} cannot be read: {error.strerror}") from error
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


def _merge(files: list[str]) -> Any:
    try:
        return KubeConfigMerger(os.pathsep.join(files)).config
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise KubeConfigError(f"the kubeconfig {', '.join(files)}{place} is malformed: {problem}") from None
    except OSError as error:
        raise KubeConfigError(f"the kubeconfig {error.filename} cannot be read: {error.strerror}") from error
    except (ConfigException, TypeError, KeyError, AttributeError, UnicodeDecodeError, RecursionError):
        raise _malformed(files) from None


def _malformed(files: list[str]) -> KubeConfigError:
    return KubeConfigError(
        f"the kubeconfig {', '.join(files)} is malformed: it does not hold lists of clusters, contexts and users"
    )


def _choose(config: Any, wanted: str | None, files: list[str]) -> Access:
    """The context to use. Raises KubeConfigError, also for entries of a wrong shape."""
    try:
        return _chosen(config, wanted, files)
    except (ConfigException, TypeError, KeyError, AttributeError, ValueError):
        raise _malformed(files) from None


def _chosen(config: Any, wanted: str | None, files: list[str]) -> Access:
    contexts = {str(one["name"]): one for one in config.value["contexts"]}
    name = wanted or config.value.get("current-context") or ""
    if not name:
        raise KubeConfigError(
            f"the kubeconfig {', '.join(files)} has no current context",
            hint=f"kubectl config use-context {' | '.join(contexts) or 'NAME'}",
        )
    if name not in contexts:
        raise KubeConfigError(
            f"there is no context {name} in {', '.join(files)}",
            hint=f"it has {', '.join(sorted(contexts)) or 'none'}",
        )
    context = contexts[name].value.get("context") or {}
    cluster = _named(config, "clusters", "cluster", context.get("cluster"), name)
    user_name = context.get("user")
    user = _named(config, "users", "user", user_name, name) if user_name else ({}, os.path.dirname(files[0]))
    server = str(cluster[0].get("server") or "").rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise KubeConfigError(f"the cluster of context {name} has no server address")
    data = _with_paths(cluster[0], cluster[1], ("certificate-authority",))
    who = _with_paths(user[0], user[1], ("client-certificate", "client-key", "tokenFile"))
    watched = [*files, *(str(who[key]) for key in ("client-certificate", "client-key") if who.get(key))]
    if data.get("certificate-authority"):
        watched.append(str(data["certificate-authority"]))
    return Access(
        context=name, namespace=str(context.get("namespace") or "default"), server=server, cluster=data, user=who,
        folder=user[1], stamps=tuple((path, stamp(path)) for path in watched),
    )  # fmt: skip


def _named(config: Any, section: str, inner: str, name: object, context: str) -> tuple[Json, str]:
    for one in config.value[section]:
        if one["name"] == name:
            return dict(one.value.get(inner) or {}), os.path.dirname(os.path.abspath(one.path))
    raise KubeConfigError(f"context {context} names the {inner} {name}, which the kubeconfig does not have")


def _with_paths(data: Json, folder: str, keys: tuple[str, ...]) -> Json:
    """Relative paths are relative to the file that names them."""
    return data | {key: os.path.join(folder, os.path.expanduser(str(data[key]))) for key in keys if data.get(key)}


def _in_cluster(environ: Mapping[str, str]) -> Access:
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeConfigError("there is no kubeconfig, and KUBERNETES_SERVICE_HOST is not set")
    try:
        with open(os.path.join(IN_CLUSTER, "namespace")) as file:
            namespace = file.read().strip()
    except OSError:
        namespace = "default"
    host = f"[{host}]" if ":" in host else host
    return Access(
        context="in-cluster", namespace=namespace, server=f"https://{host}:{port}",
        cluster={"certificate-authority": os.path.join(IN_CLUSTER, "ca.crt")},
        user={"tokenFile": os.path.join(IN_CLUSTER, "token")}, folder=IN_CLUSTER, stamps=(),
    )  # fmt: skip


class ApiEndpoint:
    """One API server and one identity. `server` has scheme, host, port and path prefix, no trailing slash."""

    def __init__(
        self,
        access: Access,
        *,
        environ: Mapping[str, str] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.access = access
        self.server = access.server
        self._environ = dict(os.environ if environ is None else environ)
        self._wall = wall
        self._credential: Credential | None = None
        self._failure: tuple[float, LoginNeededError | None] = (0.0, None)
        self._file_token: tuple[float, str] = (0.0, "")
        self._refreshing = anyio.Lock()
        self.proxy = _proxy(access, self._environ)
        self.server_hostname: str | None = access.cluster.get("tls-server-name") or None
        self.ssl = _context(access, None) if access.server.startswith("https") else None
        _refuse_legacy(access)

    @property
    def fingerprint(self) -> str:
        """Stands for this server until its own id is known: its address and its CA."""
        ca = self.access.cluster.get("certificate-authority-data") or _read(
            self.access.cluster.get("certificate-authority")
        )
        return hashlib.sha256(f"{self.server}\n{ca}".encode()).hexdigest()[:24]

    def stale(self) -> bool:
        """Whether the files it was read from have changed since."""
        return any(stamp(path) != known for path, known in self.access.stamps)

    async def headers(self, refresh: bool = False) -> dict[str, str]:
        """What authenticates a request. `refresh`: the last ones were refused. Raises LoginNeededError.

        A header that must be repeated (one Impersonate-Group a group) is here in several spellings: send every item.
        """
        made = _spelled(_impersonation(self.access.user))
        user = self.access.user
        if user.get("exec"):
            credential = await self._plugin_credential(refresh)
            if credential.token:
                made["Authorization"] = f"Bearer {credential.token}"
        elif user.get("tokenFile"):
            made["Authorization"] = f"Bearer {self._token_from_file(refresh)}"
        elif user.get("token"):
            made["Authorization"] = f"Bearer {user['token']}"
        elif user.get("username"):
            pair = f"{user['username']}:{user.get('password') or ''}"
            made["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        return made

    async def _plugin_credential(self, refresh: bool) -> Credential:
        refused = self._credential
        async with self._refreshing:
            known = self._credential
            # Whoever waited for the lock while another refreshed takes that one's answer, a failure too.
            if known is not None and (not refresh or known is not refused) and known.fresh(self._wall()):
                return known
            failed_at, failure = self._failure
            if failure is not None and 0 <= self._wall() - failed_at < PLUGIN_REST:
                raise LoginNeededError(failure.message, hint=failure.hint)
            try:
                made = await run_plugin(
                    self.access.user["exec"], _plugin_cluster(self.access), environ=self._environ,
                    cwd=self.access.folder, wall=self._wall,
                )  # fmt: skip
            except LoginNeededError as error:
                self._failure = (self._wall(), error)
                raise
            if made.client_certificate:
                self.ssl = _context(self.access, made)
            self._credential, self._failure = made, (0.0, None)
            return made

    def _token_from_file(self, refresh: bool) -> str:
        read_at, token = self._file_token
        if refresh or not token or self._wall() - read_at > TOKEN_FILE_TRUST:
            path = str(self.access.user["tokenFile"])
            try:
                with open(path) as file:
                    token = file.read().strip()
            except OSError as error:
                raise KubeConfigError(f"the token file {path} cannot be read: {error.strerror}") from error
            self._file_token = (self._wall(), token)
        return token


def load_endpoint(settings: KrayneSettings, environ: Mapping[str, str] | None = None) -> ApiEndpoint:
    """The endpoint the settings lead to. Raises KubeConfigError."""
    chosen = dict(os.environ if environ is None else environ)
    return ApiEndpoint(find_access(settings, chosen), environ=chosen)


def _refuse_legacy(access: Access) -> None:
    provider = (access.user.get("auth-provider") or {}).get("name")
    if provider:
        raise KubeConfigError(
            f"context {access.context} uses the auth provider {provider}, which Kubernetes removed in 1.26",
            hint="set up its exec credential plugin instead (gke-gcloud-auth-plugin, kubelogin)",
        )


def _impersonation(user: Json) -> list[tuple[str, str]]:
    """client-go's transport/round_trippers.go: one header a group and a value, keys of extras percent-encoded."""
    made = [("Impersonate-User", str(user["as"]))] if user.get("as") else []
    if user.get("as-uid"):
        made.append(("Impersonate-Uid", str(user["as-uid"])))
    made += [("Impersonate-Group", str(one)) for one in user.get("as-groups") or ()]
    for key, values in (user.get("as-user-extra") or {}).items():
        made += [(f"Impersonate-Extra-{quote(str(key), safe='')}", str(one)) for one in values or ()]
    return made


def _spelled(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Repeated names told apart by letter case, which header names do not have: one more capital or less each time."""
    made: dict[str, str] = {}
    for name, value in pairs:
        spelling, number = name, 0
        while spelling in made:
            number += 1
            spelling = "".join(one.swapcase() if number >> index & 1 else one for index, one in enumerate(name))
        made[spelling] = value
    return made


def _plugin_cluster(access: Access) -> Json:
    cluster = access.cluster
    made: Json = {"server": access.server}
    for ours, theirs in (("tls-server-name", "tls-server-name"), ("proxy-url", "proxy-url")):
        if cluster.get(theirs):
            made[ours] = cluster[theirs]
    data = cluster.get("certificate-authority-data")
    if not data and cluster.get("certificate-authority"):
        data = base64.b64encode(_read(cluster["certificate-authority"]).encode()).decode()
    if data:
        made["certificate-authority-data"] = data
    if cluster.get("insecure-skip-tls-verify"):
        made["insecure-skip-tls-verify"] = True
    return made


def _read(path: object) -> str:
    if not path:
        return ""
    try:
        with open(str(path)) as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise KubeConfigError(f"the certificate file {path} cannot be read: {why}") from error


def _context(access: Access, credential: Credential | None) -> ssl.SSLContext:
    cluster = access.cluster
    try:
        data = cluster.get("certificate-authority-data")
        ca = base64.b64decode(data).decode() if data else _read(cluster.get("certificate-authority"))
        context = ssl.create_default_context(cadata=ca or None)
        context.set_alpn_protocols(["http/1.1"])
        # Many clusters' own CAs lack the key usage that Python 3.13 began to demand.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        _load_client(context, access.user, credential)
    except (ssl.SSLError, ValueError) as error:
        raise KubeConfigError(
            f"the certificates of context {access.context} cannot be used: {getattr(error, 'reason', None) or error}"
        ) from None
    return context


def _load_client(context: ssl.SSLContext, user: Json, credential: Credential | None) -> None:
    if credential is not None:
        certificate, key = credential.client_certificate, credential.client_key
    else:
        certificate, key = _text(user, "client-certificate"), _text(user, "client-key")
    if not certificate:
        return
    # OpenSSL takes a key only from a file; it lives for this call, in a directory of ours alone.
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pair.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(certificate + "\n" + key)
        # With a password given it never asks the terminal for one.
        context.load_cert_chain(path, password=b"")


def _text(user: Json, name: str) -> str:
    """A kubeconfig's PEM entry: its -data, else its file."""
    data = user.get(f"{name}-data")
    return base64.b64decode(data).decode() if data else _read(user.get(name))


def _proxy(access: Access, environ: Mapping[str, str]) -> str | None:
    """proxy-url, else what the environment says, as Go reads it (golang.org/x/net/http/httpproxy)."""
    found = str(access.cluster.get("proxy-url") or "")
    if not found:
        address = urlsplit(access.server)
        excepted = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
        if _is_excepted(address.hostname or "", address.port or 443, excepted):
            return None
        name = f"{address.scheme}_proxy"
        found = environ.get(name.upper()) or environ.get(name) or ""
    if not found:
        return None
    found = found if "://" in found else f"http://{found}"
    if not found.startswith(("http://", "https://")):
        raise KubeConfigError(
            f"the proxy of context {access.context} is of a kind krayne cannot use: {found.partition('://')[0]}",
            hint="http and https proxies work",
        )
    return found


def _is_excepted(host: str, port: int, excepted: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for one in filter(None, (part.strip().lower() for part in excepted.split(","))):
        name, _, number = one.rpartition(":")
        if name and number.isdigit() and _address(one) is None:
            if int(number) != port:
                continue
            one = name
        if one == "*" or host == one.lstrip(".") or host.endswith("." + one.lstrip("*").lstrip(".")):
            return True
        if address is not None and _covers(one, address):
            return True
    return False


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text.strip("[]"))
    except ValueError:
        return None


def _covers(network: str, address: IPv4Address | IPv6Address) -> bool:
    try:
        return address in ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False
