"""Who is at the other end of a connection: the user's own processes, strangers, and those that already left."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kraynd.local import peer, sockdiag
from kraynd.local.peer import Holder, Peers, who_holds
from kraynd.local.sockdiag import SockDiag, tcp_table

STRANGER = 65534
PLACES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]

# A client that becomes another user (when it may), connects, writes, and then does as told. It imports first: the other
# user may not read the interpreter's files.
CLIENT = """
import encodings.idna, os, socket, struct, sys
host, port, uid, act = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if uid >= 0:
    os.setgid(uid); os.setuid(uid)
s = socket.create_connection((host, port))
s.sendall(b"bytes of a stranger")
if act == "leave":
    s.close()
elif act == "linger":
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
    s.close()
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["sock_diag", "procfs"])
def peers(request: pytest.FixtureRequest) -> Iterator[Peers]:
    found = Peers()
    if request.param == "procfs":
        found.close()
    else:
        assert found._diag is not None
    yield found
    found.close()


@contextlib.contextmanager
def listener(family: int, host: str) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind((host, 0))
        server.listen()
        yield server


@contextlib.contextmanager
def client(host: str, port: int, uid: int, act: str) -> Iterator[None]:
    """Runs until the block ends; on entry the client has done its act."""
    arguments = [sys.executable, "-c", CLIENT, host, str(port), str(uid), act]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        if act != "stay":
            process.communicate()
        try:
            yield
        finally:
            if act == "stay":
                process.communicate()


@pytest.mark.parametrize(("family", "host"), PLACES)
def test_our_own_connection_is_ours(peers: Peers, family: int, host: str) -> None:
    with listener(family, host) as server, socket.create_connection(server.getsockname()[:2]):
        connection, _ = server.accept()
        with connection:
            assert peers.uid_of(connection) == os.getuid()


def test_an_ipv4_address_mapped_into_ipv6_is_the_same_client(peers: Peers) -> None:
    with listener(socket.AF_INET, "127.0.0.1") as server, socket.socket(socket.AF_INET6) as mapped:
        mapped.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        connection, _ = server.accept()
        with connection:
            assert peers.uid_of(connection) == os.getuid()


def test_a_half_closed_client_that_still_listens_is_known(peers: Peers) -> None:
    with listener(socket.AF_INET, "127.0.0.1") as server:
        with socket.create_connection(server.getsockname()) as ours:
            connection, _ = server.accept()
            with connection:
                ours.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""
                assert peers.uid_of(connection) == os.getuid()


@pytest.mark.parametrize(("family", "host"), PLACES)
@pytest.mark.parametrize("act", ["stay", "leave", "linger"])
def test_a_stranger_is_never_us(peers: Peers, family: int, host: str, act: str) -> None:
    """As root: a process of another user. Else one that left, which nobody can attribute: both must not be our uid."""
    as_root = os.getuid() == 0
    if not as_root and act == "stay":
        act = "leave"
    with listener(family, host) as server:
        with client(host, server.getsockname()[1], STRANGER if as_root else -1, act):
            connection, _ = server.accept()
            with connection:
                expected = STRANGER if act == "stay" else None
                assert peers.uid_of(connection) == expected
                assert connection.recv(5) == b"bytes"  # they are there to be read: unknown has to mean refused


def test_a_client_of_ours_that_reset_is_unknown(peers: Peers) -> None:
    with listener(socket.AF_INET, "127.0.0.1") as server:
        ours = socket.create_connection(server.getsockname())
        connection, _ = server.accept()
        with connection:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ours.close()
            assert peers.uid_of(connection) is None


@pytest.mark.parametrize(
    ("state", "inode", "expected"),
    [
        pytest.param(1, 7, 1000, id="established"),
        pytest.param(5, 7, 1000, id="half closed by the client"),
        pytest.param(8, 7, 1000, id="half closed by the pod"),
        pytest.param(5, 0, None, id="closed by the client"),
        pytest.param(1, 0, None, id="held by nobody"),
        pytest.param(2, 7, None, id="somebody else's attempt from the same port"),
        pytest.param(6, 7, None, id="time wait"),
        pytest.param(10, 7, None, id="a listener"),
    ],
)
def test_only_a_connected_socket_of_a_process_has_an_owner(state: int, inode: int, expected: int | None) -> None:
    entry = sockdiag.TcpEntry(state, 1000, inode, (bytes(4), 1), (bytes(4), 2))
    assert peer.living_owner(entry) == expected


def test_a_listener_on_the_clients_port_is_not_the_client() -> None:
    """The kernel's exact query answers with a listener when the connection is gone; it must not be believed."""
    with listener(socket.AF_INET, "127.0.0.1") as other:
        diag = SockDiag()
        host = socket.inet_aton("127.0.0.1")
        assert diag.find((host, other.getsockname()[1]), (host, 1)) is None
        diag.close()


def test_a_unix_client_is_known(peers: Peers, tmp_path: os.PathLike[str]) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as ours:
        server.bind(os.path.join(tmp_path, "s"))
        server.listen()
        ours.connect(server.getsockname())
        connection, _ = server.accept()
        with connection:
            assert peers.uid_of(connection) == os.getuid()


def test_without_netlink_the_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockdiag, "NETLINK_SOCK_DIAG", 99)  # as where a unit forbids AF_NETLINK: no such socket
    peers = Peers()
    assert peers._diag is None
    with listener(socket.AF_INET, "127.0.0.1") as server, socket.create_connection(server.getsockname()):
        connection, _ = server.accept()
        with connection:
            assert peers.uid_of(connection) == os.getuid()


def test_a_netlink_socket_that_fails_later_is_not_missed() -> None:
    peers = Peers()
    assert peers._diag is not None
    peers._diag.close()
    with listener(socket.AF_INET, "127.0.0.1") as server, socket.create_connection(server.getsockname()):
        connection, _ = server.accept()
        with connection:
            assert peers.uid_of(connection) == os.getuid()


def test_neither_netlink_nor_procfs_means_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_table(_: int) -> Iterator[sockdiag.TcpEntry]:
        raise FileNotFoundError("/proc")

    monkeypatch.setattr(peer, "tcp_table", no_table)
    peers = Peers()
    peers.close()
    with listener(socket.AF_INET, "127.0.0.1") as server, socket.create_connection(server.getsockname()):
        connection, _ = server.accept()
        with connection:
            assert peers.uid_of(connection) is None


def test_two_hundred_connections_are_each_told_apart(peers: Peers) -> None:
    with listener(socket.AF_INET, "127.0.0.1") as server, contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(server.getsockname()))
            connection = stack.enter_context(server.accept()[0])
            assert peers.uid_of(connection) == os.getuid()


@pytest.mark.parametrize("netlink", [True, False])
@pytest.mark.parametrize(("family", "host"), PLACES)
def test_the_holder_of_a_port_is_named(family: int, host: str, netlink: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not netlink:
        monkeypatch.setattr(sockdiag, "NETLINK_SOCK_DIAG", 99)
    with listener(family, host) as server:
        holder = who_holds(server.getsockname()[1])
    assert (holder.uid, holder.pid) == (os.getuid(), os.getpid())
    assert holder.command
    assert str(holder).startswith(f"process {os.getpid()} ({holder.command}) of user ")


def test_all_sockets_of_a_port_are_found_however_many() -> None:
    """More than one part of a dump holds."""
    with listener(socket.AF_INET, "127.0.0.1") as server, contextlib.ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection(server.getsockname()))
            stack.enter_context(server.accept()[0])
        diag = SockDiag()
        found = diag.on_port(server.getsockname()[1])
        diag.close()
        assert len(found) == 401
        assert {entry.uid for entry in found} == {os.getuid()}


def test_a_source_port_is_held_too() -> None:
    with listener(socket.AF_INET, "127.0.0.1") as server:
        with socket.create_connection(server.getsockname()) as ours:
            assert who_holds(ours.getsockname()[1]).pid == os.getpid()


def test_a_free_port_and_an_unknown_holder_say_so() -> None:
    with listener(socket.AF_INET, "127.0.0.1") as server:
        port = server.getsockname()[1]
    assert who_holds(port) == Holder()
    assert str(Holder()) == "a process of an unknown user"
    assert str(Holder(uid=4_000_000)) == "a process of user 4000000"


def test_the_table_holds_a_mapped_client_in_plain_form() -> None:
    with listener(socket.AF_INET, "127.0.0.1") as server, socket.socket(socket.AF_INET6) as mapped:
        mapped.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        port = mapped.getsockname()[1]
        found = [entry for entry in tcp_table(port) if entry.remote[1] == server.getsockname()[1]]
    assert [entry.local for entry in found] == [(socket.inet_aton("127.0.0.1"), port)]
