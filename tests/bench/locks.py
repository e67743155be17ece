"""What the locks of a port cost: a connect through an HTTP forward with both on, beside one with both off.

One connection to each in turn, so that what else the machine does falls on both alike.
"""

import time

from tests.bench import measure
from tests.bench.lab import Lab, bare_forward
from tests.bench.table import row

EACH = 400  # connections a round
MOST = 1.05


def locks(lab: Lab, rounds: int) -> None:
    """Connect, a browser's request, its echo: locks on, locks off."""
    with bare_forward(lab, "--http") as shut, bare_forward(lab, "--http", "--open") as open_:
        times: dict[int, list[float]] = {shut.echo: [], open_.echo: []}
        for number in range(rounds * EACH):
            for port in sorted(times, reverse=bool(number % 2)):
                times[port].append(_request(port))
        on, off = (measure.median(one[EACH // 4 :]) for one in times.values())
        row("connect + request, locks on / off", on * 1e3, off * 1e3, "ms", MOST)


def _request(port: int) -> float:
    """Seconds from connect until all of a request has come back."""
    head = (
        f"GET /api/version HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: keep-alive\r\nAccept: */*\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0 Safari/537.36\r\n"
        "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n"
        f"Referer: http://127.0.0.1:{port}/\r\nAccept-Language: en\r\nCookie: session={'x' * 200}\r\n\r\n"
    ).encode()
    started = time.perf_counter()
    with measure.connect(port) as peer:
        peer.sendall(head)
        left = len(head)
        while left:
            got = len(peer.recv(left))
            assert got, "the connection ended"
            left -= got
    return time.perf_counter() - started
