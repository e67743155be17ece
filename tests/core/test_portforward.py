"""One tunnel's two sides, joined in memory: what each ending means, what is never sent, and who must wait."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kraynd.core import spdy
from kraynd.core.pingwindow import QUEUE_SAFE
from kraynd.core.pipe import Buffer
from kraynd.core.podside import PodPair, PodSession
from kraynd.core.portforward import ClientSession, Pair, SessionLimits
from kraynd.core.pulse import Pulse, PulseLimits
from kraynd.core.verdict import EndKind, read_verdict, short_text
from krayne.errors import ProtocolError

CONTAINERD = (
    "error forwarding port 81 to pod abc, uid : failed to execute portforward in network namespace "
    '"/var/run/netns/cni-1": failed to connect to localhost:81 inside namespace "x", IPv4: dial tcp4 127.0.0.1:81: '
    "connect: connection refused IPv6 dial tcp6 [::1]:81: connect: connection refused "
)


@dataclass
class Client:
    """Who hears of a pair."""

    data: bytearray = field(default_factory=bytearray)
    log: list[str] = field(default_factory=list)
    end: tuple[EndKind, str] | None = None

    def pod_data(self, data: memoryview) -> None:
        assert self.end is None
        assert "eof" not in self.log
        self.data += data

    def pod_eof(self) -> None:
        self.log.append("eof")

    def pod_end(self, kind: EndKind, message: str) -> None:
        assert self.end is None
        self.end = (kind, message)

    def pod_full(self) -> None:
        assert self.log.count("full") == self.log.count("room")
        self.log.append("full")

    def pod_room(self) -> None:
        self.log.append("room")
        assert self.log.count("full") == self.log.count("room")


class Process:
    """The pod's process."""

    def __init__(self, pair: PodPair) -> None:
        self.pair = pair
        self.data = bytearray()
        self.fin = self.was_reset = False
        pair.receiver = self

    def on_data(self, data: memoryview) -> None:
        self.data += data

    def on_fin(self) -> None:
        self.fin = True

    def on_reset(self) -> None:
        self.was_reset = True


class Tunnel:
    """Both sessions. Bytes wait in `up` and `down` until they are passed on."""

    def __init__(self, limits: SessionLimits | None = None) -> None:
        self.up = bytearray()
        self.down = bytearray()
        self.writes = 0
        self.now = 100.0
        self.client = ClientSession(self._sent, self.now, limits)
        self.pod = PodSession(lambda parts: self.down.extend(b"".join(parts)), self._came)
        self.processes: list[Process] = []

    def _sent(self, parts: Sequence[Buffer]) -> None:
        self.writes += 1
        self.up += b"".join(parts)

    def _came(self, pair: PodPair) -> None:
        self.processes.append(Process(pair))

    def pass_up(self, size: int | None = None) -> None:
        size = len(self.up) if size is None else size
        piece, self.up[:size] = self.up[:size], b""
        self.pod.feed(memoryview(piece))

    def pass_down(self, size: int | None = None) -> None:
        size = len(self.down) if size is None else size
        piece, self.down[:size] = self.down[:size], b""
        self.client.feed(memoryview(piece), self.now)

    def settle(self) -> None:
        while self.up or self.down:
            self.pass_up()
            self.pass_down()

    def open(self, first: bytes = b"", port: int = 80) -> tuple[Client, Pair, Process]:
        client = Client()
        pair = self.client.open(port, client, first, self.now)
        self.settle()
        return client, pair, self.processes[-1]


def test_an_opening_and_its_first_bytes_are_one_write() -> None:
    tunnel = Tunnel()
    tunnel.client.open(8265, Client(), b"GET / HTTP/1.1\r\n", tunnel.now)
    assert tunnel.writes == 1
    tunnel.pass_up()
    assert tunnel.processes[0].data == b"GET / HTTP/1.1\r\n"
    assert tunnel.processes[0].pair.port == 8265


def test_bytes_go_both_ways_and_both_ends_are_said() -> None:
    tunnel = Tunnel()
    client, pair, process = tunnel.open(b"question")
    tunnel.client.finish(pair)
    tunnel.settle()
    assert (bytes(process.data), process.fin) == (b"question", True)
    process.pair.send(b"answer")
    process.pair.close()
    tunnel.settle()
    assert client.data == b"answer"
    assert client.end == ("eof", "")
    assert tunnel.client.streams == 0


def cut(parts: bytes, at: int) -> list[bytes]:
    return [parts[:at], parts[at:]]


@pytest.mark.parametrize("received", [0, 1])
def test_a_refused_port_is_judged_the_same_wherever_the_read_is_cut(received: int) -> None:
    sizes = itertools.count(1)
    for size in sizes:
        tunnel = Tunnel()
        client, _, process = tunnel.open()
        if received:
            process.pair.send(b"x")
            tunnel.settle()
        process.pair.fail(CONTAINERD)
        whole = len(tunnel.down)
        tunnel.pass_down(min(size, whole))
        if size < whole:
            assert client.end is None
            tunnel.pass_down()
        assert client.end is not None
        assert client.end[0] == ("reset" if received else "refused")
        assert "eof" not in client.log
        if size >= whole:
            break


@pytest.mark.parametrize("order", list(itertools.permutations(["fin", "text", "over"])))
def test_text_before_or_after_the_end_of_the_data(order: tuple[str, ...]) -> None:
    """Text may come before or after the FIN; the end of the error stream never comes before its text."""
    if order.index("over") < order.index("text"):
        return
    tunnel = Tunnel()
    client, pair, _ = tunnel.open()
    said = CONTAINERD.encode()
    frames = {
        "fin": spdy.data_header(pair.data_id, 0, spdy.FIN),
        "text": spdy.data_header(pair.error_id, len(said)) + said,
        "over": spdy.rst_stream(pair.error_id, spdy.CANCEL),
    }
    for name in order:
        tunnel.client.feed(memoryview(frames[name]), tunnel.now)
    assert client.end is not None
    assert client.end[0] == "refused"


def test_an_error_stream_that_never_ends_is_waited_for_a_little() -> None:
    tunnel = Tunnel()
    client, pair, _ = tunnel.open()
    said = b"error forwarding port 80: something broke"
    tunnel.client.feed(memoryview(spdy.data_header(pair.error_id, len(said)) + said), tunnel.now)
    assert client.end is None
    assert tunnel.client.alarm <= tunnel.now + 1.5
    tunnel.client.tick(tunnel.now + 1.5)
    assert client.end is not None
    assert client.end[0] == "reset"


def test_an_answer_brings_the_next_question_forward() -> None:
    """Each silence is asked about after `quiet`, not at the deadline of the question before."""
    tunnel = Tunnel(SessionLimits(pulse=PulseLimits(quiet=2.0, patience=5.0)))
    for _ in range(3):
        asked = tunnel.client.alarm
        assert asked - tunnel.now == 2.0
        assert (tunnel.client.tick(asked), tunnel.client.alarm) == ("", asked + 5.0)
        tunnel.pass_up()
        tunnel.now = asked
        tunnel.pass_down()
        assert tunnel.client.alarm == asked + 2.0


def test_after_the_pods_fin_no_data_leaves_until_it_is_a_half_close() -> None:
    tunnel = Tunnel()
    client, pair, process = tunnel.open()
    process.pair.finish()
    tunnel.settle()
    assert client.log == ["full"]
    tunnel.client.tick(tunnel.now + 1.5)
    assert client.log == ["full", "room", "eof"]
    tunnel.client.send(pair, b"more", tunnel.now)
    tunnel.client.finish(pair)
    tunnel.settle()
    assert (bytes(process.data), process.fin) == (b"more", True)
    process.pair.close()
    tunnel.settle()
    assert client.end == ("eof", "")


def test_an_end_said_twice_is_one_end_and_a_reset_after_a_half_close_is_a_reset() -> None:
    tunnel = Tunnel()
    client, pair, process = tunnel.open()
    process.pair.finish()
    tunnel.settle()
    tunnel.client.tick(tunnel.now + 1.5)
    tunnel.client.feed(memoryview(spdy.data_header(pair.data_id, 0, spdy.FIN)), tunnel.now)
    tunnel.client.tick(tunnel.now + 3.0)
    assert client.log == ["full", "room", "eof"]
    tunnel.client.feed(memoryview(spdy.rst_stream(pair.data_id, spdy.CANCEL)), tunnel.now)
    tunnel.client.tick(tunnel.now + 4.5)
    assert client.log.count("eof") == 1
    assert client.end is not None
    assert client.end[0] == "reset"


def test_no_data_follows_the_end_of_the_error_stream() -> None:
    tunnel = Tunnel()
    client, pair, process = tunnel.open()
    process.pair.close()
    tunnel.pass_down()
    assert client.end == ("eof", "")
    tunnel.up.clear()
    tunnel.client.send(pair, b"late", tunnel.now)
    tunnel.client.finish(pair)
    assert not tunnel.up


def test_a_pair_the_node_ended_is_reset_so_that_it_can_forget_it() -> None:
    tunnel = Tunnel()
    _, pair, process = tunnel.open()
    process.pair.close()
    tunnel.pass_down()
    assert tunnel.up == spdy.rst_stream(pair.data_id, spdy.CANCEL)


def test_a_reset_of_the_data_stream_alone_is_a_reset() -> None:
    tunnel = Tunnel()
    client, pair, _ = tunnel.open()
    tunnel.client.feed(memoryview(spdy.rst_stream(pair.data_id, spdy.CANCEL)), tunnel.now)
    tunnel.client.feed(memoryview(spdy.rst_stream(pair.error_id, spdy.CANCEL)), tunnel.now)
    assert client.end is not None
    assert client.end[0] == "reset"


def test_an_aborted_connection_is_reset_and_its_leftovers_are_counted_not_answered() -> None:
    tunnel = Tunnel()
    beside, _, _ = tunnel.open()
    client, pair, process = tunnel.open()
    tunnel.client.reset(pair)
    process.pair.send(bytes(5000))
    tunnel.up.clear()
    tunnel.pass_down()
    assert (tunnel.client.discarded, bytes(tunnel.up)) == (5000, b"")
    assert client.end is None
    assert beside.end is None


def test_a_node_that_never_answers_is_given_up() -> None:
    tunnel = Tunnel()
    client = Client()
    tunnel.client.open(80, client, b"x", tunnel.now)
    tunnel.client.tick(tunnel.now + 29)
    assert client.end is None
    tunnel.client.feed(memoryview(spdy.ping(999)), tunnel.now + 29)  # the tunnel itself lives
    tunnel.client.tick(tunnel.now + 31)
    assert client.end is not None
    assert client.end[0] == "tunnel-lost"


def test_a_lost_tunnel_ends_all() -> None:
    tunnel = Tunnel()
    clients = [tunnel.open()[0] for _ in range(3)]
    tunnel.client.lost("cut")
    assert [client.end for client in clients] == [("tunnel-lost", "cut")] * 3


@pytest.mark.parametrize("frame", [spdy.syn_stream(2, b""), spdy.data_header(0, 1) + b"x"])
def test_what_no_server_may_send_ends_the_tunnel(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        Tunnel().client.feed(memoryview(frame), 100.0)


@given(st.binary(max_size=200))
def test_garbage_after_an_opening_is_an_error_or_ignored(data: bytes) -> None:
    tunnel = Tunnel()
    tunnel.open(b"x")
    try:
        tunnel.client.feed(memoryview(bytearray(data)), tunnel.now)
        tunnel.client.tick(tunnel.now + 60)
    except ProtocolError:
        return


@given(st.binary(max_size=200))
def test_the_pod_side_survives_any_client(data: bytes) -> None:
    tunnel = Tunnel()
    try:
        tunnel.pod.feed(memoryview(bytearray(data)))
    except ProtocolError:
        return
    assert len(tunnel.down) <= 20 * len(data)


def test_an_endless_error_text_is_kept_only_in_part() -> None:
    tunnel = Tunnel()
    _, pair, _ = tunnel.open()
    for _ in range(100):
        tunnel.client.feed(memoryview(spdy.data_header(pair.error_id, 10_000) + bytes(10_000)), tunnel.now)
    assert len(pair.text) == 4096


def test_ids_are_odd_rising_and_both_on_one_worker() -> None:
    tunnel = Tunnel()
    last, workers = -1, set()
    for _ in range(50):
        _, pair, _ = tunnel.open()
        assert last < pair.error_id < pair.data_id
        assert pair.error_id % 2 == pair.data_id % 2 == 1
        assert pair.error_id % 5 == pair.data_id % 5 == pair.worker.index
        last = pair.data_id
        workers.add(pair.worker.index)
    assert workers == {0, 1, 2, 3, 4}


def test_a_worn_out_tunnel_takes_no_more() -> None:
    tunnel = Tunnel()
    tunnel.client._last_id = spdy.MAX_ID - 200
    while not tunnel.client.retiring:
        _, pair, _ = tunnel.open()
        assert pair.data_id < spdy.MAX_ID
    assert tunnel.client.retiring == "worn out"


class Server:
    """The five workers as spdystream deals to them; a stalled one holds its queue."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        self.queues: list[list[bytes]] = [[] for _ in range(5)]
        self.stalled: set[int] = set()
        self.turn = 0
        self.deepest = 0
        self.data = 0
        self.pings = 0

    def run(self) -> None:
        self._deal(bytes(self.tunnel.up))
        self.tunnel.up.clear()
        for index, queue in enumerate(self.queues):
            self.deepest = max(self.deepest, len(queue))
            assert self.tunnel.client.in_flight == sum(one.in_flight for one in self.tunnel.client._window.workers)
            if index not in self.stalled:
                for pong in [frame for frame in queue if frame]:
                    self.tunnel.client.feed(memoryview(pong), self.tunnel.now)
                queue.clear()

    def _deal(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at + 5 : at + 8], "big") + 8
            frame, at = data[at : at + size], at + size
            if frame[:4] in (b"\x80\x03\x00\x06", b"\x80\x03\x00\x04"):  # PING, and SETTINGS, which nobody answers
                self.queues[self.turn].append(frame if frame[3] == spdy.PING else b"")
                self.turn = (self.turn + 1) % 5
                self.pings += frame[3] == spdy.PING
            else:
                is_control = frame[0] & 0x80
                stream = int.from_bytes(frame[8:12] if is_control else frame[:4], "big")
                self.queues[stream % 5].append(b"")
                self.data += 0 if is_control else size - 8


def test_what_a_stalled_process_leaves_on_the_node_is_bounded_and_its_neighbours_go_on() -> None:
    tunnel = Tunnel()
    server = Server(tunnel)
    stalled, busy = Client(), Client()
    one = tunnel.client.open(80, stalled, b"", tunnel.now)
    server.run()
    server.stalled.add(one.worker.index)
    while stalled.log[-1:] != ["full"]:
        tunnel.client.send(one, bytes(16_384), tunnel.now)
        server.run()
    assert one.sent <= 1_000_000
    other = tunnel.client.open(80, busy, b"", tunnel.now)
    assert other.worker is not one.worker
    for _ in range(200):
        tunnel.client.send(other, bytes(65_536), tunnel.now)
        server.run()
        tunnel.now += 0.001
    assert busy.log.count("full") == busy.log.count("room")
    assert server.deepest < 50  # spdystream's reader would stop here, and the whole tunnel with it
    server.stalled.clear()
    server.run()
    assert stalled.log == ["full", "room"]


def test_a_question_to_one_worker_brings_one_answer() -> None:
    """However turns fall: the other workers' turns pass by, unless they are busy and their state is worth knowing."""
    tunnel = Tunnel()
    server = Server(tunnel)
    pairs = [tunnel.client.open(80, Client(), b"", tunnel.now) for _ in range(2)]
    asks = 0
    for pair in pairs:
        for _ in range(40):
            tunnel.client.send(pair, bytes(262_144), tunnel.now)
            before = server.pings
            server.run()
            asks += server.pings > before
    assert asks > 20
    assert server.pings < 2 * asks  # one each, and now and then one for a worker whose turn has passed a dozen times
    server.stalled.add(pairs[0].worker.index)
    for _ in range(4):
        for pair in pairs:
            tunnel.client.send(pair, bytes(262_144), tunnel.now)
            server.run()
    assert len(pairs[0].worker.marks) > 1


def test_the_window_grows_where_it_is_the_limit() -> None:
    tunnel = Tunnel()
    server = Server(tunnel)
    client = Client()
    pair = tunnel.client.open(80, client, b"", tunnel.now)
    start = pair.worker.window
    for _ in range(200):
        while not pair.full:
            tunnel.client.send(pair, bytes(262_144), tunnel.now)
        tunnel.now += 0.05
        server.run()
    assert start < pair.worker.window <= 4 * 1024 * 1024


def test_a_stalled_tunnel_says_so_until_it_moves() -> None:
    tunnel = Tunnel()
    server = Server(tunnel)
    pair = tunnel.client.open(80, Client(), b"", tunnel.now)
    server.stalled.add(pair.worker.index)
    tunnel.client.send(pair, bytes(300_000), tunnel.now)
    server.run()
    assert not tunnel.client.stalled(tunnel.now + 0.1)
    assert tunnel.client.stalled(tunnel.now + 1.0)
    server.stalled.clear()
    server.run()
    assert not tunnel.client.stalled(tunnel.now + 1.0)


def test_a_worker_that_stays_blocked_after_its_connection_ended_retires_the_tunnel() -> None:
    tunnel = Tunnel()
    server = Server(tunnel)
    client = Client()
    pair = tunnel.client.open(80, client, b"", tunnel.now)
    server.stalled.add(pair.worker.index)
    tunnel.client.send(pair, bytes(1000), tunnel.now)
    server.run()
    ending = spdy.data_header(pair.data_id, 0, spdy.FIN) + spdy.data_header(pair.error_id, 0, spdy.FIN)
    tunnel.client.feed(memoryview(ending), tunnel.now)
    assert client.end == ("eof", "")
    server.run()
    doubt = SessionLimits().doubt
    for second in range(6):
        assert not tunnel.client.retiring
        assert tunnel.client.alarm <= tunnel.now + doubt + second + 10
        tunnel.client.tick(tunnel.now + doubt + second)
    tunnel.client.tick(tunnel.now + doubt + 6)
    assert "worker" in tunnel.client.retiring


def test_doubts_are_asked_about_together_and_keep_new_connections_away() -> None:
    """Where connections end with data under way, a worker of the node's may have stopped, and nothing would tell."""
    tunnel = Tunnel()
    pairs = [tunnel.open(b"x")[1] for _ in range(3)]
    for process in tunnel.processes:
        process.pair.close()
    tunnel.settle()
    assert tunnel.client.alarm == tunnel.now + SessionLimits().doubt
    doubtful = {pair.worker for pair in pairs}
    assert len(doubtful) == 3
    assert not any(worker.marks for worker in doubtful)
    assert tunnel.open()[1].worker not in doubtful
    before = tunnel.writes
    tunnel.client.tick(tunnel.client.alarm)
    assert tunnel.writes == before + 1
    assert all(worker.marks and not worker.doubtful for worker in doubtful)
    tunnel.settle()
    assert not any(worker.marks or worker.in_flight for worker in doubtful)
    assert tunnel.client.alarm > tunnel.now + 1


def test_where_every_worker_is_doubtful_a_new_connection_brings_the_question() -> None:
    tunnel = Tunnel()
    for _ in range(5):
        tunnel.open(b"x")
    for process in tunnel.processes:
        process.pair.close()
    tunnel.settle()
    worker = tunnel.client.open(80, Client(), b"", tunnel.now).worker
    assert worker.marks
    assert not worker.doubtful


def test_a_doubt_outlives_a_worker_whose_queue_is_full() -> None:
    """A stalled process keeps all five from being asked at once; those that can be asked are, the others later."""
    tunnel = Tunnel()
    server = Server(tunnel)
    first = tunnel.client.open(80, Client(), b"", tunnel.now)
    server.stalled.add(first.worker.index)
    for _ in range(QUEUE_SAFE):
        tunnel.client.send(first, b"x", tunnel.now)
        tunnel.client.probe(tunnel.now)
        server.run()
    assert first.worker.deep
    pairs = [tunnel.client.open(80, Client(), b"x", tunnel.now) for _ in range(4)]
    for pair in pairs:
        ending = spdy.data_header(pair.data_id, 0, spdy.FIN) + spdy.data_header(pair.error_id, 0, spdy.FIN)
        tunnel.client.feed(memoryview(ending), tunnel.now)
    for _ in range(4):
        tunnel.now += SessionLimits().doubt
        tunnel.client.tick(tunnel.now)
        server.run()
    server.stalled.clear()
    server.run()
    tunnel.now += SessionLimits().doubt
    tunnel.client.tick(tunnel.now)
    server.run()
    assert not any(pair.worker.doubtful or pair.worker.in_flight for pair in pairs)


def test_what_follows_the_last_question_is_doubtful_too() -> None:
    tunnel = Tunnel()
    _, pair, process = tunnel.open()
    tunnel.client.send(pair, bytes(262_144), tunnel.now)
    assert pair.worker.marks
    tunnel.client.send(pair, b"more", tunnel.now)
    process.pair.close()
    tunnel.pass_down()
    assert pair.worker.doubtful


def test_only_connections_that_were_answered_can_hold_a_tunnel_up() -> None:
    """Every worker owes an answer. With stalled processes that is no death; on a dead path under load it is."""
    tunnel = Tunnel()
    pairs = [tunnel.client.open(80, Client(), bytes(1000), tunnel.now) for _ in range(10)]
    tunnel.client.probe(tunnel.now)
    assert {pair.worker.index for pair in pairs} == set(range(5))
    assert not tunnel.client.held_up()
    for pair in pairs:
        tunnel.client.feed(memoryview(spdy.syn_reply(pair.data_id, b"")), tunnel.now)
    assert tunnel.client.held_up()
    for pair in pairs[:-1]:
        tunnel.client.reset(pair)
    assert not tunnel.client.held_up()


steps = st.lists(
    st.tuples(st.sampled_from(["open", "send", "answer", "finish", "close", "fail", "reset", "up", "down", "tick"]),
              st.integers(0, 5), st.binary(min_size=1, max_size=50)),
    max_size=60,
)  # fmt: skip


@settings(max_examples=200)
@given(steps)
def test_whatever_happens_bytes_arrive_in_order_and_each_connection_ends_once(
    todo: list[tuple[str, int, bytes]],
) -> None:
    tunnel = Tunnel()
    opened: list[tuple[Client, Pair]] = []
    sent: list[bytearray] = []
    answered: dict[int, bytearray] = {}
    for action, which, data in todo:
        pair = opened[which % len(opened)][1] if opened else None
        process = tunnel.processes[which % len(tunnel.processes)] if tunnel.processes else None
        if action == "open":
            client = Client()
            opened.append((client, tunnel.client.open(80, client, data, tunnel.now)))
            sent.append(bytearray(data))
        elif action == "send" and pair is not None:
            before = pair.sent
            tunnel.client.send(pair, data, tunnel.now)
            if pair.sent > before:
                sent[which % len(opened)] += data
        elif action == "finish" and pair is not None:
            tunnel.client.finish(pair)
        elif action == "reset" and pair is not None:
            tunnel.client.reset(pair)
        elif action == "answer" and process is not None and not (process.pair._done or process.pair._fin_sent):
            process.pair.send(data)
            answered.setdefault(process.pair.data_id, bytearray()).extend(data)
        elif action == "close" and process is not None:
            process.pair.close()
        elif action == "fail" and process is not None:
            process.pair.fail("connection reset by peer")
        elif action == "up":
            tunnel.pass_up(which * 10)
        elif action == "down":
            tunnel.pass_down(which * 10)
        elif action == "tick":
            tunnel.now += which / 3
            tunnel.client.tick(tunnel.now)
    tunnel.settle()
    by_id = {process.pair.data_id: process for process in tunnel.processes}
    for (client, pair), bytes_sent in zip(opened, sent, strict=True):
        assert bytes_sent.startswith(bytes(by_id[pair.data_id].data))
        assert answered.get(pair.data_id, bytearray()).startswith(bytes(client.data))
        if client.end is not None and client.end[0] == "eof":
            assert client.data == answered.get(pair.data_id, bytearray())
    tunnel.client.lost("over")
    assert all(client.end is not None or pair.ended for client, pair in opened)
    assert not tunnel.client._pairs
    assert not tunnel.client._errors
    assert not tunnel.client._waiting


@pytest.mark.parametrize(
    ("text", "received", "kind"),
    [
        (CONTAINERD, 0, "refused"),
        (CONTAINERD, 1, "reset"),
        ('failed to find sandbox "abc" in store: not found', 0, "pod-gone"),
        ('network namespace for sandbox "abc" is closed', 0, "pod-gone"),
        ("sandbox abc is not running", 0, "pod-gone"),
        ("read tcp4 127.0.0.1:5->127.0.0.1:80: read: connection reset by peer", 0, "reset"),
        ("write: broken pipe", 10, "reset"),
        ("exit status 1: socat: connect(5, AF=2 127.0.0.1:80, 16): Connection refused", 0, "refused"),
        ("something new", 0, "reset"),
    ],
)
def test_the_nodes_words(text: str, received: int, kind: str) -> None:
    assert read_verdict(text, received=received) == kind
    assert "\n" not in short_text(text + "\nmore", 80)


def test_a_pulse_asks_after_silence_and_waits_only_so_long() -> None:
    pulse = Pulse(PulseLimits(quiet=10, patience=5, probe=3), 0.0)
    assert pulse.check(9.9) == ""
    assert (pulse.due, pulse.check(10.0), pulse.due) == (10.0, "ask", 15.0)
    assert pulse.check(14.9) == ""
    assert pulse.check(15.0) == "dead"
    pulse.hear(15.0)
    assert (pulse.check(15.1), pulse.doubtful) == ("", False)
    assert not pulse.expect(19.0)
    assert pulse.expect(21.0)
    assert (pulse.doubtful, pulse.due) == (True, 24.0)
    pulse.postpone(24.0)
    assert pulse.check(28.0) == ""
    assert pulse.check(29.0) == "dead"
