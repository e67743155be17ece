"""The sandbox's own certificate authority, server certificate, bearer token and kubeconfig, as files under its home.

Made once and kept, so that a kubeconfig in use stays right; the certificate is made anew before it ends. Files are
0600 in a folder that is 0700. The authority's key is thrown away: it signs one certificate.
"""

import base64
import ipaddress
import json
import os
import secrets
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

CONTEXT: Final = "krayne-sandbox"
LIFE: Final = timedelta(days=3650)
RENEW_BEFORE: Final = timedelta(days=30)
NAMES: Final = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


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
    whole = ca.exists() and server.exists() and _number(ends) > now + RENEW_BEFORE.total_seconds()
    if not whole:
        authority, certificate = _certificates(now)
        write_private(ca, authority)
        write_private(server, certificate)
        write_private(ends, str(int(now + LIFE.total_seconds())).encode())
    if not token.exists() or not token.read_text().strip():
        write_private(token, secrets.token_urlsafe(32).encode())
    return Credentials(ca, server, token.read_text().strip())


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


def _certificates(now: float) -> tuple[bytes, bytes]:
    """A new authority's certificate, and the server's certificate with its key, as PEM."""
    # Imported here: it is 8 MB of memory, for a moment in ten years.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, text)])

    start = datetime.fromtimestamp(now, UTC) - timedelta(hours=1)  # clocks differ
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def builder(subject: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("krayne sandbox CA"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(datetime.fromtimestamp(now, UTC) + LIFE)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        )

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    root = (
        builder("krayne sandbox CA", root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
        .add_extension(usage, critical=True)
        .sign(root_key, hashes.SHA256())
    )
    addresses = [x509.IPAddress(ipaddress.ip_address(one)) for one in ("127.0.0.1", "::1")]
    leaf = (
        builder("krayne sandbox", key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([*(x509.DNSName(one) for one in NAMES), *addresses]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = serialization.Encoding.PEM
    return root.public_bytes(pem), leaf.public_bytes(pem) + private
