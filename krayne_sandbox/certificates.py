"""Makes the sandbox's certificate authority and server certificate; run as a program by `pki`, which keeps them.

The authority's key is thrown away: it signs one certificate.
"""

import ipaddress
import sys
from datetime import UTC, datetime, timedelta
from typing import Final

LIFE: Final = 3650 * 86400.0  # seconds: longer than any sandbox
SEPARATOR: Final = b"\0"  # between the two, in the program's output
NAMES: Final = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


def certificates(now: float) -> tuple[bytes, bytes]:
    """A new authority's certificate, and the server's certificate with its key, as PEM."""
    # Imported here: whoever wants the constants needs no cryptography.
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
            .not_valid_after(datetime.fromtimestamp(now, UTC) + timedelta(seconds=LIFE))
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


if __name__ == "__main__":
    sys.stdout.buffer.write(SEPARATOR.join(certificates(float(sys.argv[1]))))
