"""Certificates of one test control plane: a throw-away CA, server certificates and client identities.

Files only, written once under one folder; nothing is reused between planes.
"""

from dataclasses import dataclass
from pathlib import Path

import trustme

SERVER_NAMES = ("127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Pki:
    """The plane's CA."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA(organization_name="krayne test control plane")
        self.ca = folder / "ca.crt"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def server(self, name: str) -> Pair:
        """A certificate valid for loopback."""
        return self._write(f"server-{name}", self._ca.issue_cert(*SERVER_NAMES, common_name=name))

    def client(self, user: str, group: str | None = None) -> Pair:
        """A client certificate: the user is its common name, the group its organization."""
        # Without a name in it, the alternative-names extension would be critical and empty, which Go refuses.
        leaf = self._ca.issue_cert("client.test", common_name=user, organization_name=group)
        return self._write(f"client-{user.replace(':', '_').replace('/', '_')}", leaf)

    def _write(self, name: str, leaf: trustme.LeafCert) -> Pair:
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(leaf.private_key_pem.bytes())
        return pair
