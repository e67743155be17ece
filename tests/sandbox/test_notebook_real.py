"""The notebook of a sandbox's cluster is a real JupyterLab, reached through krayne's forward."""

import http.client
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.controlplane.build import cache_dir, locked
from tests.sandbox.machine import fresh_home

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

LIMIT = 120.0
DEMO = "name: demo\nservices: {notebook: true, code_server: false, ssh: false}\nworker_groups: [{replicas: 0}]\n"
# Whatever is no JupyterLab is the Ray that pretends.
WRAPPER = '#!/bin/sh\ncase " $* " in *" jupyterlab "*) exec "{jupyter}" "$@";; esac\nexec "{ray}" "$@"\n'


def jupyter() -> Path:
    """An environment with JupyterLab, installed once into the cache."""
    folder = cache_dir() / f"jupyter-py{sys.version_info.major}.{sys.version_info.minor}"
    with locked("jupyter"):
        if not (folder / "installed").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", "jupyterlab>=4.2"], check=True)
            (folder / "installed").touch()
    return folder


def test_jupyterlab_answers_through_the_forward() -> None:
    environment = jupyter()
    with fresh_home() as krayne:
        ray = krayne.home / "ray" / "bin"
        shutil.move(ray / "python", ray / "pretender")
        (ray / "python").write_text(WRAPPER.format(jupyter=environment / "bin" / "python", ray=ray / "pretender"))
        (ray / "python").chmod(0o755)
        (ray.parent / "lib").symlink_to(environment / "lib")
        krayne("sandbox", "up")
        krayne("apply", "-f", "-", stdin=DEMO)
        krayne("wait", "demo", "--for", "service=notebook", "--timeout", "110s")
        port = krayne.port("demo", "notebook")
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        link.request("GET", "/api/status", headers={"Host": f"notebook.demo.localhost:{port}"})
        reply = link.getresponse()
        assert (reply.status, "kernels" in json.load(reply)) == (200, True)
        link.request("GET", "/lab", headers={"Host": f"notebook.demo.localhost:{port}"})
        reply = link.getresponse()
        assert (reply.status, b"JupyterLab" in reply.read()) == (200, True)
        link.close()
        assert "Jupyter Server" in krayne("logs", "demo", "--service", "notebook").out
