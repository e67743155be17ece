"""The services a browser uses: Jupyter and code-server, on the pod's loopback, installed when the image lacks them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import time
import urllib.request

from kraynd.pod.board import ServiceError, safe
from kraynd.pod.service import INSTALL_LIMIT, Service, gentle, home

READ_LIMIT = 60  # seconds without a byte of a download
DOWNLOAD_LIMIT = 1 << 30  # bytes; code-server has about 120 MB


class Notebook(Service):
    """Jupyter on loopback, which keeps its check of the Host header on."""

    question = b"GET /api HTTP/1.0\r\nHost: localhost\r\n\r\n"
    answer = b"HTTP/1.1 200"

    def prepare(self) -> list[str]:
        """Jupyter's command line."""
        if os.geteuid() == 0:
            raise ServiceError("Jupyter does not run as root: the image's user must be another", final=True)
        return [
            *self._jupyter(),
            "--no-browser",
            "--ip=127.0.0.1",
            f"--port={self.port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={home()}",
            *(f"--ServerApp.local_hostnames={host}" for host in self.told["hosts"]),
            # Loopback of the pod is the lock, as for ssh; a JUPYTER_TOKEN of the user's own is honoured.
            *([] if os.environ.get("JUPYTER_TOKEN") else ["--IdentityProvider.token="]),
        ]

    def _jupyter(self) -> list[str]:
        """The image's own notebook or lab, else one in a virtual environment that sees the image's packages."""
        for module in ("notebook", "jupyterlab"):
            if importlib.util.find_spec(module):
                return [sys.executable, "-m", module]
        place = os.path.join(home(), ".krayne", "notebook")
        python = os.path.join(place, "bin", "python")
        done = os.path.join(place, "installed")
        if not os.path.exists(done):
            self._install(place, python)
            with open(done, "w", encoding="utf-8"):
                pass
        return [python, "-m", "notebook"]

    def _install(self, place: str, python: str) -> None:
        """Apart from Ray's environment, which a resolver must not change. Ray's own pip does the work."""
        wanted = self.told["requirement"]
        self.step(f"installing {wanted}")
        made = [sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", "--clear", place]
        self.run("python -m venv", [*gentle(), *made])
        quiet = ["--no-input", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar=off"]
        index = {"PIP_INDEX_URL": self.told["pip_index_url"]} if self.told["pip_index_url"] else {}
        pip = [*gentle(), python, "-m", "pip", "install", *quiet, wanted]
        self.run(f"pip install {wanted}", pip, limit=INSTALL_LIMIT, **index)


class CodeServer(Service):
    """VS Code in the browser, from its standalone release for this pod's processor."""

    question = b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n"
    answer = b"HTTP/1.1 200"

    def prepare(self) -> list[str]:
        """code-server's command line."""
        return [
            shutil.which("code-server") or self._installed(),
            f"--bind-addr=127.0.0.1:{self.port}",
            f"--auth={'password' if os.environ.get('PASSWORD') or os.environ.get('HASHED_PASSWORD') else 'none'}",
            "--disable-telemetry",
            "--disable-update-check",
            "--disable-proxy",
            home(),
        ]

    def _installed(self) -> str:
        version = self.told["version"]
        place = os.path.join(home(), ".krayne", f"code-server-{version}")
        program = os.path.join(place, "bin", "code-server")
        if not os.path.exists(program):
            machine = platform.machine()
            arch = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(machine)
            if arch is None:
                raise ServiceError(f"there is no code-server for {machine}", final=True)
            os.makedirs(place + ".new", exist_ok=True)
            archive = place + ".tar.gz"
            self._download(self.told["url"].format(version=version, arch=arch), archive, self.told["sha256"].get(arch))
            self.step("unpacking code-server")
            unpack = ["tar", "-xzf", archive, "-C", place + ".new", "--strip-components=1", "--no-same-owner"]
            self.run("tar", [*gentle(), *unpack], limit=INSTALL_LIMIT)
            os.remove(archive)
            os.rename(place + ".new", place)
        return program

    def _download(self, url: str, path: str, sha256: str | None) -> None:
        shown = safe(url)
        self.step(f"downloading {shown}")
        deadline = time.monotonic() + INSTALL_LIMIT
        digest, size = hashlib.sha256(), 0
        try:
            # The address is a setting of the user's own.
            with urllib.request.urlopen(url, timeout=READ_LIMIT) as reply, open(path, "wb") as file:  # noqa: S310
                while chunk := reply.read(1 << 16):
                    size += len(chunk)
                    if size > DOWNLOAD_LIMIT or time.monotonic() > deadline:
                        raise ServiceError(f"{shown}: larger or slower than allowed ({size} bytes so far)")
                    digest.update(chunk)
                    file.write(chunk)
        except (OSError, ValueError) as error:
            raise ServiceError(f"{shown}: {error}") from None
        if sha256 and digest.hexdigest() != sha256.lower():
            raise ServiceError(f"{shown}: its sha256 is {digest.hexdigest()}, not {sha256}", final=True)
