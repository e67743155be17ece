"""TLS contexts from a kubeconfig's certificates. Reads files; never asks a terminal for a key's password."""

import base64
import os
import ssl
import tempfile

from kraynd.core.model import Json
from kraynd.kube.kubeconfig import Access
from krayne.errors import KubeConfigError


def client_context(access: Access, pair: tuple[str, str] | None = None) -> ssl.SSLContext:
    """How to speak TLS to this server; `pair` is a certificate and key in PEM instead of the kubeconfig's own.

    Raises KubeConfigError.
    """
    try:
        context = ssl.create_default_context(cadata=_pem(access.cluster, "certificate-authority") or None)
        context.set_alpn_protocols(["http/1.1"])
        # Many clusters' own CAs lack the key usage that Python 3.13 began to demand.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if access.cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        _load(context, *(pair or (_pem(access.user, "client-certificate"), _pem(access.user, "client-key"))))
    except (ssl.SSLError, ValueError, TypeError, AttributeError) as error:
        raise KubeConfigError(f"the certificates of context {access.context} cannot be used: {_why(error)}") from None
    return context


def authority(cluster: Json) -> str:
    """The PEM of the server's CA; empty for the system's authorities. Raises KubeConfigError."""
    try:
        return _pem(cluster, "certificate-authority")
    except (ValueError, TypeError, AttributeError):
        raise KubeConfigError("the certificate authority of the kubeconfig's cluster is not PEM text") from None


def _pem(entry: Json, name: str) -> str:
    """An entry's -data, else its file."""
    data, path = entry.get(f"{name}-data"), entry.get(name)
    if not data and not path:
        return ""
    text = base64.b64decode("".join(data.split()), validate=True).decode("ascii", "ignore") if data else _file(path)
    if not text.strip():
        raise ValueError("empty")  # for a CA, nothing would mean the system's authorities
    return text


def _file(path: object) -> str:
    try:
        with open(str(path), encoding="ascii", errors="ignore") as file:  # comments between certificates
            return file.read()
    except OSError as error:
        raise KubeConfigError(f"the certificate file {path} cannot be read: {error.strerror}") from None


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    if not certificate:
        return
    # OpenSSL takes a key only from a file; it lives for this call, in a directory of ours alone.
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pair.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(certificate + "\n" + key)
        # With a password given it never asks the terminal for one.
        context.load_cert_chain(path, password=b"")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error.strerror or "not PEM").replace("_", " ").lower()
    return "not base64 of PEM text"
