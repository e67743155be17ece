"""The kernel's table of TCP sockets: one exact entry by netlink, or the whole table by procfs.

Asks and never decides: who may connect is `local.peer`'s. An answer is only given for exactly the addresses asked for,
since the kernel's exact query falls back to a listener on the same port.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

import msgspec

NETLINK_SOCK_DIAG = 4  # linux/netlink.h
SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
NLM_F_REQUEST = 1
NLM_F_DUMP = 0x300
NLMSG_ERROR = 2
NLMSG_DONE = 3
ALL_STATES = 0xFFFFFFFF
DUMP_READ = 64 * 1024  # more than the kernel puts into one part of a dump
NO_INTERFACE = bytes(4)
NO_COOKIE = b"\xff" * 8  # INET_DIAG_NOCOOKIE twice: any socket with these addresses

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
# A header; family, protocol, extensions, states; a socket's id: its ends, interface, cookie.
_QUESTION = struct.Struct("=IHHIIBBBxI36s4s8s")
_SOCKET_ID = struct.Struct("=2s2s16s16sI8s")  # source port, destination port, source, destination, interface, cookie
_REPLY_TAIL = struct.Struct("=IIIII")  # expires, receive queue, send queue, uid, inode
_REPLY_AT = _HEADER.size
_REPLY_SIZE = 4 + _SOCKET_ID.size + _REPLY_TAIL.size
# The two for one exact socket, whose answer each accept waits for: its ends, and of the reply type, sequence, family,
# state, ends, uid, inode.
_ENDS = struct.Struct(">HH16s16s")
_ANSWER = struct.Struct("=4xH2xI4xBB2x36s24xII")
_INET, _INET6, _TCP = int(socket.AF_INET), int(socket.AF_INET6), int(socket.IPPROTO_TCP)

ESTABLISHED, LISTEN = 1, 10  # net/tcp_states.h
MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, an IPv4 address in an IPv6 socket


class TcpEntry(msgspec.Struct, frozen=True):
    """One TCP socket of this machine. `inode` is 0 once no process holds it: then `uid` means nothing."""

    state: int
    uid: int
    inode: int
    local: tuple[bytes, int]
    remote: tuple[bytes, int]


class SockDiag:
    """An open netlink socket for exact queries, each answered in the same system call."""

    def __init__(self) -> None:
        """Raises OSError where the kernel or a sandbox has no AF_NETLINK."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
        self._socket.setblocking(False)
        self._sequence = 0

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def on_port(self, port: int, states: int = ALL_STATES) -> list[TcpEntry]:
        """The sockets with this local port in these states (a bit each). The kernel filters. Raises OSError."""
        found: list[TcpEntry] = []
        for family in (_INET, _INET6):
            ends = port.to_bytes(2, "big") + bytes(34)
            self._ask(NLM_F_REQUEST | NLM_F_DUMP, family, states, ends)
            while self._read_part(found):
                pass
        return found

    def _read_part(self, found: list[TcpEntry]) -> bool:
        """Take one part of a dump; whether there are more."""
        part, at = self._socket.recv(DUMP_READ), 0
        while at + _HEADER.size <= len(part):
            size, kind, _, sequence, _ = _HEADER.unpack_from(part, at)
            if sequence == self._sequence:
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return False
                found.append(_read_entry(part[at : at + size]))
            at += max(_HEADER.size, (size + 3) & ~3)
        return True

    def _ask(self, flags: int, family: int, states: int, ends: bytes) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        head = (_QUESTION.size, SOCK_DIAG_BY_FAMILY, flags, self._sequence, 0)
        self._socket.send(_QUESTION.pack(*head, family, _TCP, 0, states, ends, NO_INTERFACE, NO_COOKIE))

    def find(self, local: tuple[bytes, int], remote: tuple[bytes, int]) -> TcpEntry | None:
        """The socket with exactly these ends (packed address, port), or None. Raises OSError when none can be asked."""
        family = _INET if len(local[0]) == 4 else _INET6
        ends = _ENDS.pack(local[1], remote[1], local[0], remote[0])
        self._ask(NLM_F_REQUEST, family, ALL_STATES, ends)
        while True:
            reply = self._socket.recv(1024)
            if len(reply) >= _ANSWER.size:
                kind, sequence, found_family, state, found_ends, uid, inode = _ANSWER.unpack_from(reply)
                # Nearly every reply. As in the question, an IPv4 address is filled up with zeros.
                if (kind, sequence, found_family, found_ends) == (SOCK_DIAG_BY_FAMILY, self._sequence, family, ends):
                    return TcpEntry(state, uid, inode, local, remote)
            _, kind, _, sequence, _ = _HEADER.unpack_from(reply)
            if sequence == self._sequence:
                return _read_reply(kind, reply, local, remote)


def _read_reply(kind: int, reply: bytes, local: tuple[bytes, int], remote: tuple[bytes, int]) -> TcpEntry | None:
    if kind == NLMSG_ERROR:
        code = -int(struct.unpack_from("=i", reply, _REPLY_AT)[0])
        if code == errno.ENOENT:
            return None
        raise OSError(code, os.strerror(code))
    entry = _read_entry(reply)
    return entry if (entry.local, entry.remote) == (local, remote) else None


def _read_entry(message: bytes) -> TcpEntry:
    kind = _HEADER.unpack_from(message)[1]
    if kind != SOCK_DIAG_BY_FAMILY or len(message) < _REPLY_AT + _REPLY_SIZE:
        raise OSError(errno.EPROTO, "sock_diag gave an answer of another kind")
    family, state = message[_REPLY_AT], message[_REPLY_AT + 1]
    from_port, to_port, source, target, _, _ = _SOCKET_ID.unpack_from(message, _REPLY_AT + 4)
    _, _, _, uid, inode = _REPLY_TAIL.unpack_from(message, _REPLY_AT + 4 + _SOCKET_ID.size)
    ends = [
        (_plain(packed[:4] if family == _INET else packed), int.from_bytes(port, "big"))
        for packed, port in ((source, from_port), (target, to_port))
    ]
    return TcpEntry(state, uid, inode, ends[0], ends[1])


def _plain(packed: bytes) -> bytes:
    """An IPv4 address that an IPv6 socket speaks to, in its own form."""
    return packed[12:] if len(packed) == 16 and packed.startswith(MAPPED) else packed


def tcp_table(local_port: int | None = None) -> Iterator[TcpEntry]:
    """Every TCP socket by procfs (1 ms for thousands), or those with this local port. Raises OSError without procfs."""
    marker = "" if local_port is None else f":{local_port:04X} "
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, encoding="ascii") as table:
                next(table, None)
                for line in table:
                    if marker in line:
                        entry = _read_line(line)
                        if local_port is None or entry.local[1] == local_port:
                            yield entry
        except FileNotFoundError:
            if path == "/proc/net/tcp":
                raise


def _read_line(line: str) -> TcpEntry:
    fields = line.split()
    return TcpEntry(int(fields[3], 16), int(fields[7]), int(fields[9]), _read_end(fields[1]), _read_end(fields[2]))


def _read_end(text: str) -> tuple[bytes, int]:
    """An address as procfs writes it: 32-bit words in the machine's byte order; mapped IPv4 becomes plain."""
    digits, port = text.split(":")
    words = bytes.fromhex(digits)
    packed = b"".join(struct.pack("=I", int.from_bytes(words[at : at + 4], "big")) for at in range(0, len(words), 4))
    return _plain(packed), int(port, 16)
