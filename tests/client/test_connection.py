"""The client's end of a conversation that takes its time."""

import json
import socket

import pytest

from krayne.errors import DaemonUnreachableError
from krayne_client import connection
from krayne_client.connection import Connection

ANSWER = json.dumps({"jsonrpc": "2.0", "id": 1, "result": "late"}).encode() + b"\n"


class Slow(socket.socket):
    """A socket whose peer answers once it was asked in vain `patience` times."""

    peer: socket.socket
    patience = 3

    def recv(self, size: int, flags: int = 0) -> bytes:
        try:
            return super().recv(size, flags)
        except TimeoutError:
            self.patience -= 1
            if self.patience == 0:
                self.peer.sendall(ANSWER)
            raise


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    monkeypatch.setattr(connection, "CTRL_C_SECONDS", 0.001)
    ours, theirs = socket.socketpair()
    slow = Slow(fileno=ours.detach())
    slow.peer = theirs
    return slow


def test_a_wait_is_cut_into_pieces_in_which_ctrl_c_is_seen(slow: Slow) -> None:
    with slow.peer, Connection(slow) as asking:
        assert asking.call("any.thing", seconds=600.0) == "late"
    assert slow.patience == 0


def test_the_last_piece_ends_at_the_deadline(slow: Slow) -> None:
    slow.patience = 1_000_000
    with slow.peer, Connection(slow) as asking, pytest.raises(DaemonUnreachableError, match="does not answer"):
        asking.call("any.thing", seconds=0.02)


def test_notifications_are_waited_for_in_pieces_too(slow: Slow) -> None:
    slow.patience = -1
    with slow.peer, Connection(slow) as asking:
        told = asking.notifications("watch.event")
        slow.peer.sendall(b'{"method": "other"}\n{"method": "watch.event", "params": {"kind": "changed"}}\n')
        assert next(told) == {"kind": "changed"}
