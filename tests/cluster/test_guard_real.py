"""The lock of an HTTP forward through a real API server and node: what a web page may send, and what programs do."""

import asyncio
import http.client
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.cluster.conftest import Krayne
from tests.cluster.using import Service, becomes, service, status
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
PAGE = b"the dashboard"
DASHBOARD = 8265
PATIENCE = 60.0  # seconds for one answer


class Site(Service):
    """Answers every request with the page, or takes a WebSocket and sends back what comes. Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__(bytes)
        self.heard = bytearray()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as rest:
                self.heard += rest.partial
                return
            self.heard += head
            if b"Upgrade: websocket" in head:
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
                while data := await reader.read(1000):
                    writer.write(data)
            else:
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0
                )
                self.heard += await reader.readexactly(length)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE))
            await writer.drain()


@pytest.fixture
def site(plane: ControlPlane) -> Iterator[Site]:
    with Site().running() as server:
        yield server
    plane.node.reset()


def opened(plane: ControlPlane, namespace: str, krayne: Krayne, site: Site) -> int:
    """The dashboard's local port, with the site behind it."""
    krayne("create", "demo", "-n", namespace, "--wait", "--timeout", "60s")
    plane.node.map_port(namespace, "demo-head-*", DASHBOARD, site.port)
    row = becomes(krayne, "demo", lambda row: service(row, "dashboard")["state"] == "ready")
    return int(service(row, "dashboard")["local_port"])


def said(port: int, data: bytes, *, pieces: int = 1 << 20) -> bytes:
    """All that comes back until the end."""
    found = b""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):
            for at in range(0, len(data), pieces):
                client.sendall(data[at : at + pieces])
        while part := client.recv(65536):
            found += part
    return found


def get(host: str, *lines: str, method: str = "GET", target: str = "/") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


def attacks(port: int) -> dict[str, tuple[bytes, bytes]]:
    """What must not pass, and a word of the reason."""
    own, evil = f"127.0.0.1:{port}", f"evil.example:{port}"
    websocket = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")
    return {
        "a rebound name": (get(evil), b"evil.example"),
        "a rebound name and its own origin": (get(evil, f"Origin: http://{evil}", method="POST"), b"evil.example"),
        "a name of another cluster": (get(f"dashboard.other.localhost:{port}"), b"host name"),
        "a foreign origin": (get(own, "Origin: http://evil.example", method="DELETE"), b"evil.example"),
        "another port of this machine": (get(own, "Origin: http://127.0.0.1:3000", method="POST"), b"3000"),
        "a sandboxed page": (get(own, "Origin: null", method="POST"), b"null"),
        "a page's image": (get(own, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"), b"another web page"),
        "a cross-site WebSocket": (get(own, "Origin: http://evil.example", *websocket), b"evil.example"),
        "two Host lines": (get(own, "Host: evil.example"), b"two host"),
        "an absolute target": (get(own, target="http://evil.example/"), b"evil.example"),
        "CONNECT": (get(own, method="CONNECT", target="evil.example:443"), b"no proxy"),
        "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"HTTP/2"),
        "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"not https"),
        "a folded line": (get(own, "X: a", " Origin: b"), b"malformed"),
        "a space before the colon": (get(own, "Origin : http://evil.example"), b"malformed"),
        "length and chunks": (get(own, "Content-Length: 3", "Transfer-Encoding: chunked", method="POST"), b"length"),
    }


def test_what_a_web_page_can_send_is_refused_and_no_byte_reaches_the_pod(
    plane: ControlPlane, namespace: str, krayne: Krayne, site: Site
) -> None:
    port = opened(plane, namespace, krayne, site)
    cases = attacks(port)
    for name, (data, why) in cases.items():
        for pieces in (1 << 20, 7):
            answer = said(port, data, pieces=pieces)
            assert answer.startswith(b"HTTP/1.1 403 "), name
            head, _, body = answer.partition(b"\r\n\r\n")
            assert why in body, name
            assert f"http://dashboard.demo.localhost:{port}".encode() in body
            assert b"Access-Control" not in head
    assert (bytes(site.heard), site.connections) == (b"", 0)
    (row,) = [one for one in krayne("ports", "demo", "-o", "json").json() if one["service"] == "dashboard"]
    assert (row["blocked"], row["bytes_out"]) == (2 * len(cases), 0)
    assert "requests of web pages refused" in krayne("ports", "demo").out


def test_programs_and_our_own_pages_pass(plane: ControlPlane, namespace: str, krayne: Krayne, site: Site) -> None:
    port = opened(plane, namespace, krayne, site)
    for name in ("127.0.0.1", "localhost", "[::1]"):
        with urllib.request.urlopen(f"http://{name}:{port}/", timeout=PATIENCE) as answer:
            assert answer.read() == PAGE
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    for body in (b"a job", b"another on the same connection"):
        kept.request("POST", "/api/jobs/", body)
        assert kept.getresponse().read() == PAGE
        assert body in site.heard
    kept.close()
    if curl := shutil.which("curl"):
        done = subprocess.run(
            [curl, "-sS", f"http://127.0.0.1:{port}/"], capture_output=True, check=True, timeout=PATIENCE
        )
        assert done.stdout == PAGE
    own = f"dashboard.demo.localhost:{port}"
    with closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as client:
        client.sendall(get(own, f"Origin: http://{own}", "Connection: Upgrade", "Upgrade: websocket") + b"\x81\x00")
        found = b""
        while not found.endswith(b"\r\n\r\n\x81\x00"):
            part = client.recv(1000)
            assert part, found
            found += part
    assert found.startswith(b"HTTP/1.1 101 ")


def test_a_lock_that_is_off_is_said_and_lets_pages_in(
    plane: ControlPlane, namespace: str, krayne: Krayne, site: Site
) -> None:
    krayne.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (krayne.folder / "kraynd.yaml").write_text("locks: {users: false, web: false}\n")
    port = opened(plane, namespace, krayne, site)
    notes = " ".join(status(krayne)["notes"])
    assert "locks.users is off" in notes
    assert "locks.web is off" in notes
    with closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as client:
        client.sendall(get("evil.example"))
        assert client.recv(1000).endswith(PAGE)
