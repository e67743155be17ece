"""The sandbox's own certificate authority, server certificate, bearer token and kubeconfig, as files under its home.

Made once and kept, so that a kubeconfig in use stays right; the certificate is made anew before it ends. Files are
0600 in a folder that is 0700. The authority's key is thrown away: it signs one certificate.
"""

import base64
import json
import os
import secrets
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from krayne_sandbox.certificates import LIFE, SEPARATOR

CONTEXT: Final = "krayne-sandbox"
RENEW_BEFORE: Final = 30 * 86400.0  # seconds before the certificate ends
MAKING_SECONDS: Final = 60.0  # for two keys and two signatures, on any machine


class Credentials(NamedTuple):
    """What the server serves with, and what its clients must know."""

    ca: Path
    server: Path  # certificate and key
    token: str


def credentials(home: Path, now: float) -> Credentials:
    """Those of this home, made when they are missing or about to end. Raises OSError."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.chmod(0o700)
    ca, server, token, ends = home / "ca.crt", home / "server.pem", home / "token", home / "ends"
    whole = ca.exists() and server.exists() and _number(ends) > now + RENEW_BEFORE
    if not whole:
        authority, certificate = _made(now)
        write_private(ca, authority)
        write_private(server, certificate)
        write_private(ends, str(int(now + LIFE)).encode())
    if not token.exists() or not token.read_text().strip():
        write_private(token, secrets.token_urlsafe(32).encode())
    return Credentials(ca, server, token.read_text().strip())


def _made(now: float) -> tuple[bytes, bytes]:
    """In a process of its own: the library for it would stay in memory, 10 MB for a moment in ten years."""
    words = [sys.executable, "-m", "krayne_sandbox.certificates", str(now)]
    done = subprocess.run(words, capture_output=True, timeout=MAKING_SECONDS, check=False)  # noqa: S603 our own module
    authority, _, certificate = done.stdout.partition(SEPARATOR)
    if done.returncode or not certificate:
        raise OSError(f"the sandbox's certificates cannot be made: {done.stderr.decode(errors='replace')[-500:]}")
    return authority, certificate


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def server_context(known: Credentials) -> ssl.SSLContext:
    """TLS for the server, HTTP/1.1 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(known.server)
    context.set_alpn_protocols(["http/1.1"])
    return context


def kubeconfig(known: Credentials, url: str) -> bytes:
    """The file that leads kubectl and krayne here, as JSON, which is YAML."""
    authority = base64.b64encode(known.ca.read_bytes()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "clusters": [{"name": CONTEXT, "cluster": {"server": url, "certificate-authority-data": authority}}],
        "users": [{"name": CONTEXT, "user": {"token": known.token}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT, "namespace": "default"}}],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def write_private(path: Path, data: bytes) -> None:
    """Whole or not at all, 0600."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
