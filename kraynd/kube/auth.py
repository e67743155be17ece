"""One API server and one identity: where it is, how to speak TLS to it, and what authenticates a request.

Credentials stay in memory, are refreshed one at a time, and never appear in an error. Files that change on disk are
taken over in place while they still lead to the same server as the same user.
"""

import base64
import hashlib
import os
import ssl
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

import anyio

from kraynd.core.model import Json
from kraynd.kube.exec_plugin import MISSING, PLUGIN_SECONDS, Credential, finds, run_plugin
from kraynd.kube.kubeconfig import Access, find_access, stamp
from kraynd.kube.proxy import proxy_for
from kraynd.kube.tls import authority, client_context
from krayne.config import KrayneSettings
from krayne.errors import KubeConfigError, LoginNeededError

PLUGIN_REST = 5.0  # seconds a plugin's failure is the answer to whoever asks next: one storm of requests, one run
REFUSED_REST = 10.0  # seconds a new credential is kept though the server refuses it: another run gives the same
TOKEN_FILE_TRUST = 60.0  # seconds a token file's content is kept: mounted tokens rotate
SHORTEST_SECRET = 4  # characters; a shorter one, taken out of a message, would only spoil its words
# Whose plugins cannot let a person log in, and what does.
LOGINS = {"aws": "aws sso login", "gke-gcloud-auth-plugin": "gcloud auth login", "tsh": "tsh login"}


class ApiEndpoint:
    """`server` has scheme, host, port and path prefix, no trailing slash. `reread` looks at the files again."""

    def __init__(
        self,
        access: Access,
        *,
        environ: Mapping[str, str] | None = None,
        reread: Callable[[], Access] | None = None,
        wall: Callable[[], float] = time.time,
        plugin_seconds: float = PLUGIN_SECONDS,
    ) -> None:
        self.access = access
        self.server = access.server
        self._environ = dict(os.environ if environ is None else environ)
        self._reread = reread or (lambda: access)
        self._wall = wall
        self._plugin_seconds = plugin_seconds
        self._credential: Credential | None = None
        self._failure: tuple[float, LoginNeededError | None] = (0.0, None)
        self._file_token: tuple[float, str] = (0.0, "")
        self._refreshing = anyio.Lock()
        self._seen = access.stamps
        self._left = False
        self._secrets: tuple[str, ...] = ()
        self.proxy = proxy_for(self.server, str(access.cluster.get("proxy-url") or ""), self._environ)
        self.server_hostname: str | None = access.cluster.get("tls-server-name") or None
        self.ssl = self._context(access)
        self.fingerprint = _fingerprint(access)
        self.requests = 0  # asked of the server; tunnels are not among them

    # Files that change.

    def stale(self) -> bool:
        """Whether the files lead elsewhere by now: another context, server, CA, namespace or user.

        New keys of the same user are taken over here. While a file is broken what was read last holds.
        """
        now = tuple((path, stamp(path)) for path, _ in self._seen)
        if self._left or now == self._seen:
            return self._left
        self._seen = now
        try:
            found = self._reread()
            self._left = _place(found) != _place(self.access) or _fingerprint(found) != self.fingerprint
            if not self._left:
                self._take_over(found)
        except KubeConfigError:
            return False
        return self._left

    def _take_over(self, found: Access) -> None:
        plugin_stays = found.user.get("exec") == self.access.user.get("exec")
        if not (plugin_stays and self._credential is not None and self._credential.client_certificate):
            self.ssl = self._context(found)
        self.access, self._seen = found, found.stamps
        self._file_token = (0.0, "")
        if not plugin_stays:
            self._credential = None
        self.retry()

    def retry(self) -> None:
        """Somebody may have logged in: forget that the plugin failed."""
        self._failure = (0.0, None)

    @property
    def lacks_plugin(self) -> bool:
        """Whether the credential plugin was not found on our PATH when it was last looked for."""
        failure = self._failure[1]
        return failure is not None and MISSING in failure.data

    def learn_path(self, path: str) -> bool:
        """Look for plugins in this PATH from now on, if it has the one that ours lacks."""
        environ = {**self._environ, "PATH": path}
        if not self.lacks_plugin or not finds(self.access.user["exec"], environ, self.access.folder):
            return False
        self._environ = environ
        self.retry()
        return True

    def _context(self, access: Access) -> ssl.SSLContext | None:
        return client_context(access) if access.server.startswith("https") else None

    # Credentials.

    async def headers(self, refresh: bool = False) -> dict[str, str]:
        """What authenticates a request. `refresh`: the last ones were refused. Raises LoginNeededError.

        A header that must be repeated (one Impersonate-Group a group) is here in several spellings: send every item.
        """
        if self.ssl is None:
            return {}  # as kubectl does: nothing secret goes over plain http
        user, made = self.access.user, _spelled(_impersonation(self.access.user))
        if user.get("exec"):
            token = (await self._plugin_credential(refresh)).token
        elif user.get("tokenFile"):
            token = self._token_from_file(refresh)
        else:
            token = str(user.get("token") or "")
        if token:
            made["Authorization"] = f"Bearer {self._checked(token)}"
        elif user.get("username"):
            made["Authorization"] = f"Basic {self._basic()}"
        return made

    def _basic(self) -> str:
        password = str(self.access.user.get("password") or "")
        pair = base64.b64encode(f"{self.access.user['username']}:{password}".encode()).decode()
        self._secrets = (pair, password)
        return pair

    def _checked(self, token: str) -> str:
        token = token.strip()
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise KubeConfigError(f"the token of context {self.access.context} has characters that no token has")
        self._secrets = (token,)
        return token

    def masked(self, text: str) -> str:
        """A message of somebody else's without the credentials we sent, should it quote them."""
        for secret in self._secrets:
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text

    def login_needed(self) -> LoginNeededError:
        """The server refuses the credentials, refreshed ones too."""
        return LoginNeededError(
            f"the API server refuses the credentials of context {self.access.context}", hint=self._hint()
        )

    def _hint(self) -> str:
        plugin = self.access.user.get("exec")
        if not plugin:
            return "renew the kubeconfig's credentials; krayne goes on by itself"
        login = LOGINS.get(os.path.basename(plugin["command"])) or f"kubectl --context {self.access.context} version"
        return f"log in again with: {login}; krayne goes on by itself"

    async def _plugin_credential(self, refresh: bool) -> Credential:
        refused = self._credential
        async with self._refreshing:
            known, now = self._credential, self._wall()
            # Whoever waited for the lock while another refreshed takes that one's answer, a failure too.
            if known is not None and known.fresh(now) and (not refresh or self._is_spared(known, refused)):
                return known
            failed_at, failure = self._failure
            if failure is not None and 0 <= now - failed_at < PLUGIN_REST:
                raise LoginNeededError(failure.message, hint=failure.hint, data=failure.data)
            try:
                made = await self._run_plugin()
            except LoginNeededError as error:
                error.hint = error.hint or self._hint()
                self._failure = (self._wall(), error)
                raise
            if made.pair != (known.pair if known is not None else None):
                self.ssl = client_context(self.access, made.pair)
            self._credential, self._failure = made, (0.0, None)
            return made

    def _is_spared(self, known: Credential, refused: Credential | None) -> bool:
        """Whether another run would be for nothing: it is not the refused one, or as new as can be had."""
        return known is not refused or 0 <= self._wall() - known.fetched < REFUSED_REST

    async def _run_plugin(self) -> Credential:
        access = self.access
        cluster = _plugin_cluster(access) if access.user["exec"].get("provideClusterInfo") else None
        return await run_plugin(
            access.user["exec"], cluster, environ=self._environ, cwd=access.folder, seconds=self._plugin_seconds,
            wall=self._wall,
        )  # fmt: skip

    def _token_from_file(self, refresh: bool) -> str:
        read_at, token = self._file_token
        if refresh or not token or not 0 <= self._wall() - read_at <= TOKEN_FILE_TRUST:
            path = str(self.access.user["tokenFile"])
            try:
                with open(path) as file:
                    token = file.read().strip()
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or "it is not text"
                raise KubeConfigError(f"the token file {path} cannot be read: {why}") from None
            if not token:
                raise LoginNeededError(f"the token file {path} is empty", hint=self._hint())
            self._file_token = (self._wall(), token)
        return token


def load_endpoint(settings: KrayneSettings, environ: Mapping[str, str] | None = None) -> ApiEndpoint:
    """The endpoint the settings lead to. Raises KubeConfigError."""
    chosen = dict(os.environ if environ is None else environ)
    return ApiEndpoint(find_access(settings, chosen), environ=chosen, reread=lambda: find_access(settings, chosen))


def _fingerprint(access: Access) -> str:
    """Stands for this server until its own id is known: its address and its CA."""
    return hashlib.sha256(f"{access.server}\n{authority(access.cluster)}".encode()).hexdigest()[:24]


def _place(access: Access) -> tuple[object, ...]:
    return access.context, access.namespace, access.server, access.cluster, access.user_name


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
    """The cluster as KUBERNETES_EXEC_INFO shows it (client.authentication.k8s.io/v1)."""
    made: Json = {"server": access.server}
    for key in ("tls-server-name", "proxy-url", "insecure-skip-tls-verify", "disable-compression"):
        if access.cluster.get(key):
            made[key] = access.cluster[key]
    ca = authority(access.cluster)
    if ca:
        made["certificate-authority-data"] = base64.b64encode(ca.encode()).decode()
    for extension in access.cluster.get("extensions") or ():
        if extension.get("name") == "client.authentication.k8s.io/exec":
            made["config"] = extension.get("extension")
    return made
