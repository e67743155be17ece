"""Who is at the other end of a local connection, as the kernel knows it; and who holds a port.

For loopback TCP the client's own socket is looked up (its local end is our remote end). Anything but one live socket
that a process holds is None, and None must be refused: a client can leave its bytes behind and vanish.
"""

import contextlib
import os
import pwd
import socket
import sys
from functools import lru_cache

import msgspec

from kraynd.local.control import peer_uid
from kraynd.local.sockdiag import ESTABLISHED, LISTEN, MAPPED, SockDiag, TcpEntry, tcp_table

# FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING: half-closed, and still somebody's while `inode` is set.
# SYN_SENT is missing on purpose: it may be a stranger's connection that reuses the port of one that left.
LIVE_STATES = frozenset({ESTABLISHED, 4, 5, 8, 9, 11})

# Without netlink and procfs (macOS) nobody can tell who made a TCP connection.
CAN_TELL = sys.platform == "linux"


class Holder(msgspec.Struct, frozen=True):
    """Who has a port: any part may be unknown (None, "")."""

    uid: int | None = None
    pid: int | None = None
    command: str = ""

    def __str__(self) -> str:
        user = f"user {_user_name(self.uid)}" if self.uid is not None else "an unknown user"
        if self.pid is None:
            return f"a process of {user}"
        return f"process {self.pid} ({self.command or '?'}) of {user}"


class Peers:
    """Asks for the uids of connections; holds one netlink socket, or falls back to procfs where there is none."""

    def __init__(self) -> None:
        self._diag: SockDiag | None = None
        with contextlib.suppress(OSError):
            self._diag = SockDiag()

    def close(self) -> None:
        """Give the netlink socket back; later questions go to procfs."""
        if self._diag is not None:
            self._diag.close()
            self._diag = None

    def uid_of(self, connection: socket.socket) -> int | None:
        """The user at the other end of an accepted connection (TCP on this machine, or Unix); None is unknown."""
        try:
            client = connection.getpeername()
            if not isinstance(client, tuple):  # a Unix socket's address is a path
                return peer_uid(connection)
            ours = connection.getsockname()
            return living_owner(self._find((_packed(client[0]), client[1]), (_packed(ours[0]), ours[1])))
        except OSError:
            return None

    def _find(self, client: tuple[bytes, int], ours: tuple[bytes, int]) -> TcpEntry | None:
        """The client's own socket. Raises OSError when nobody can tell."""
        if self._diag is not None:
            try:
                return self._diag.find(client, ours)
            except OSError:  # not `suppress`: it would take a tenth of the whole question
                pass
        for entry in tcp_table(client[1]):
            if entry.local == client and entry.remote == ours:
                return entry
        return None


def living_owner(entry: TcpEntry | None) -> int | None:
    """Whose socket this is, if a process still holds it and it is connected; else None."""
    if entry is None or entry.state not in LIVE_STATES or entry.inode == 0:
        return None
    return entry.uid


@lru_cache(maxsize=64)
def _packed(host: str) -> bytes:
    """An address as the kernel's table has it: without a zone, and IPv4 in its own form."""
    host = host.partition("%")[0]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    return packed[12:] if packed.startswith(MAPPED) else packed


def who_holds(port: int) -> Holder:
    """Who keeps this port from us: a listener, else anyone with that source port. Reads procfs: takes milliseconds."""
    try:
        entries = [entry for entry in _on_port(port) if entry.inode]
    except OSError:
        return Holder()
    if not entries:
        return Holder()
    found = min(entries, key=lambda entry: entry.state != LISTEN)
    pid = _process_with(found.inode)
    return Holder(found.uid, pid, _command(pid) if pid is not None else "")


def _on_port(port: int) -> list[TcpEntry]:
    try:
        diag = SockDiag()
    except OSError:
        return list(tcp_table(port))
    try:
        return diag.on_port(port)
    finally:
        diag.close()


def _process_with(inode: int) -> int | None:
    """The process that holds a socket, if we may look into it."""
    wanted = f"socket:[{inode}]"
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            folder = f"/proc/{name}/fd"
            for fd in os.listdir(folder):
                if os.readlink(f"{folder}/{fd}") == wanted:
                    return int(name)
    return None


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
