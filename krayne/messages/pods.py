"""Reaching into pods: logs, exec, ssh.

After the answer of `pod.logs` and `pod.exec` the connection carries frames (`krayne.frames`) instead of lines. The
client may send STDIN (an empty one is the end of the input) and RESIZE ({"width", "height"}). The daemon sends STDOUT
and STDERR as they come and at last one END: {"exit": code}, or {"kind", "message", "hint"} when it came to no code.
Kubernetes' exec knows no signals: on a terminal ^C is a byte of the input; closing the connection ends an exec's
streams, and what becomes of the process is the container runtime's business.
"""

import msgspec

from krayne.messages.calls import GetParams


class PodParams(GetParams, frozen=True, kw_only=True):
    """Which pod of the cluster: the head's when `worker` is None, a worker's by name; empty: the only worker."""

    worker: str | None = None


class LogParams(PodParams, frozen=True, kw_only=True):
    """`service`: what a service of the head said instead of the container. `tail`: lines, None for all."""

    service: str = ""
    follow: bool = False
    tail: int | None = None
    previous: bool = False


class ExecParams(PodParams, frozen=True, kw_only=True):
    """A command and its arguments. `width` and `height`: of the terminal, where `tty` asks for one."""

    command: tuple[str, ...] = ()
    stdin: bool = False
    tty: bool = False
    width: int = 0
    height: int = 0


class Streaming(msgspec.Struct, frozen=True, kw_only=True):
    """From here on the connection carries frames. `pod` and `container`: whom they come from."""

    upgrade: str = "frames"
    pod: str = ""
    container: str = ""


class SshHost(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster as ssh finds it. `host_key` is empty until the head's sshd told it."""

    name: str
    namespace: str
    aliases: tuple[str, ...]
    local_port: int
    host_key: str = ""


class SshHosts(msgspec.Struct, frozen=True, kw_only=True):
    """Our ssh configuration as it stands in `config`, and the hosts in it."""

    config: str
    known_hosts: str
    text: str
    hosts: tuple[SshHost, ...] = ()
