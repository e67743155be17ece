"""Our hosts as OpenSSH reads them: a configuration and a known_hosts, from clusters, ports and host keys. Pure.

Invariant: nothing gets into a file but names, ports and keys of the expected letters, so no value can add a directive
or another host's key.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from kraynd.core.bootstrap import LOGIN_USER
from kraynd.core.model import ClusterKey
from krayne.errors import StateError

PREFIX = "krayne-"
HEADER = "# Written by kraynd and kept up to date by it: changes here are lost (krayne ssh-config --help)\n"
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?\Z")
_KEY = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]{1,60} [A-Za-z0-9+/]{20,8000}={0,3}\Z")
_POD = re.compile(r"[a-zA-Z0-9-]{1,64}\Z")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\Z")


class Host(msgspec.Struct, frozen=True):
    """One cluster. `host_key` is empty until its pod, of the uid `pod`, told it.

    `user`: who logs in, by a key; empty: the images' own, who needs none.
    """

    key: ClusterKey
    port: int
    host_key: str = ""
    pod: str = ""
    user: str = ""


class Known(NamedTuple):
    """What a pod has told of its sshd."""

    host_key: str
    pod: str
    user: str = ""


def is_host_key(text: str) -> bool:
    """Whether it is one public key, type and base64, and nothing more."""
    return bool(_KEY.match(text))


def login_user(text: str) -> str:
    """The user a pod names; nobody when that could be none."""
    return text if _USER.match(text) else ""


def full_alias(key: ClusterKey) -> str:
    """The name that is this cluster's alone, under which its host key is kept."""
    return f"{PREFIX}{key.name}.{key.namespace}"


def chosen(hosts: Iterable[Host]) -> tuple[Host, ...]:
    """Those that can be written, in order."""
    good = (one for one in hosts if one.port and _NAME.match(one.key.name) and _NAME.match(one.key.namespace))
    return tuple(sorted(good, key=lambda one: one.key))


def aliases(hosts: Iterable[Host], default_namespace: str) -> Mapping[ClusterKey, tuple[str, ...]]:
    """krayne-NAME for whom `krayne ssh NAME` would mean, and krayne-NAME.NAMESPACE for everybody."""
    keys = [one.key for one in hosts]
    count = Counter(key.name for key in keys)
    taken = {full_alias(key) for key in keys}
    made: dict[ClusterKey, tuple[str, ...]] = {}
    for key in keys:
        short = PREFIX + key.name
        means = (count[key.name] == 1 or key.namespace == default_namespace) and short not in taken
        made[key] = ((short,) if means else ()) + (full_alias(key),)
    return made


def config_text(
    hosts: Iterable[Host], names: Mapping[ClusterKey, tuple[str, ...]], known_hosts: str, identity: str = ""
) -> str:
    """The configuration: strict about the key, and told of everything that a `Host *` of the user's could spoil.

    `identity`: the key that opens the sandbox's sshd, which cannot do without one.
    """
    key = _quoted(identity) if identity else ""
    return HEADER + "".join(_block(one, names[one.key], _quoted(known_hosts), key) for one in hosts)


def _block(host: Host, names: tuple[str, ...], known_hosts: str, identity: str) -> str:
    own = (f"IdentityFile {identity}", "IdentitiesOnly yes") if host.user and identity else ()
    lines = (
        "HostName 127.0.0.1",
        f"Port {host.port}",
        f"User {host.user or LOGIN_USER}",
        f"HostKeyAlias {full_alias(host.key)}",
        f"UserKnownHostsFile {known_hosts}",
        "GlobalKnownHostsFile /dev/null",
        "StrictHostKeyChecking yes",
        "CheckHostIP no",
        "UpdateHostKeys no",
        "ProxyCommand none",
        "ServerAliveInterval 10",
        "ServerAliveCountMax 3",
        *own,
    )
    return f"\nHost {' '.join(names)}\n" + "".join(f"  {line}\n" for line in lines)


def _quoted(path: str) -> str:
    """A path as ssh_config(5) takes it. Raises StateError."""
    if any(one in path for one in '"\n\r\0$\\'):
        raise StateError(
            f"ssh cannot be told of a file at {path!r}",
            hint="set KRAYNE_HOME to a path without quotes and dollar signs",
        )
    return '"' + path.replace("%", "%%") + '"'


def known_hosts_text(hosts: Iterable[Host]) -> str:
    """A line for each known key; its comment is the uid of the pod that told it, and who logs in."""
    return "".join(f"{full_alias(one.key)} {one.host_key} {_comment(one)}\n" for one in hosts if one.host_key)


def _comment(host: Host) -> str:
    return f"{host.pod} {host.user}" if host.user else host.pod


def read_known_hosts(text: str) -> dict[str, Known]:
    """By alias, of a file of ours; lines that are not as we write them are left out."""
    found: dict[str, Known] = {}
    for line in text.splitlines():
        parts = line.split(" ")
        if len(parts) in (4, 5) and is_host_key(f"{parts[1]} {parts[2]}") and _POD.match(parts[3]):
            found[parts[0]] = Known(f"{parts[1]} {parts[2]}", parts[3], login_user("".join(parts[4:])))
    return found
