"""The startup command run for real: it ends at once whatever happens, and each service tells how it fares."""

import ast
import functools
import hashlib
import http.client
import http.server
import json
import os
import platform
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kraynd.core.bootstrap import parse_service_report
from tests.pod.lab import Pod, free_port, pod, script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the program runs in Linux pods")

NOBODY = "krayne-test-no-such-user"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
SERVER = """
import http.server, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = repr((sys.argv[1:], dict(os.environ))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_DELETE(self):
        os._exit(3)
port = int(sys.argv[1].rpartition(":")[2])
print("serving", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Pod]:
    with pod(tmp_path, PORT="1", CODE_SERVER_HOST="0.0.0.0") as made:
        yield made


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A download site; its address with the file name left open."""
    (tmp_path / "mirror").mkdir()
    answer = functools.partial(_Quiet, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{{version}}-{{arch}}.tar.gz"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None: ...


def release(folder: Path, text: str = SERVER) -> str:
    """A code-server release for this processor on the mirror; its sha256."""
    script(folder / "code-server", text, sys.executable)
    archive = folder / "mirror" / f"1.0-{ARCH}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / "code-server", f"code-server-1.0-linux-{ARCH}/bin/code-server")
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def code_server(url: str, **sha256: str) -> dict[str, Any]:
    return {"port": free_port(), "version": "1.0", "url": url, "sha256": sha256}


def ssh() -> dict[str, Any]:
    return {"port": free_port(), "user": NOBODY, "apt": False, "apt_mirror": ""}


def notebook() -> dict[str, Any]:
    return {"port": free_port(), "hosts": [], "requirement": "notebook", "pip_index_url": "http://127.0.0.1:9/"}


def ask(port: int) -> tuple[list[str], dict[str, str]]:
    """The arguments and environment of a stand-in service."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as reply:
        told: tuple[list[str], dict[str, str]] = ast.literal_eval(reply.read().decode())
    return told


def state_is(state: str) -> Any:
    return lambda reports: bool(reports) and all(report["state"] == state for report in reports.values())


def test_when_everything_fails_the_hook_succeeds_and_each_service_says_why(lab: Pod) -> None:
    closed = f"http://127.0.0.1:{free_port()}/x"
    done = lab.start({"notebook": notebook(), "code-server": code_server(closed), "ssh": ssh()})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    reports = lab.await_reports(lambda found: len(found) == 3 and state_is("failed")(found))
    assert NOBODY in reports["ssh"]["reason"]
    assert "Connection refused" in reports["code-server"]["reason"]
    assert reports["notebook"]["reason"]
    assert set(parse_service_report(lab.get("/services")[1])) == set(reports)


def test_each_state_is_also_a_file_that_only_its_user_reads(lab: Pod) -> None:
    lab.start({"ssh": ssh()})
    reports = lab.await_reports(state_is("failed"))
    assert json.loads((lab.folder / "services" / "ssh.json").read_text()) == reports["ssh"]
    assert lab.folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_costs_only_the_files(tmp_path: Path) -> None:
    with pod(tmp_path) as lab:
        lab.folder.write_text("in the way")
        assert lab.start({"ssh": ssh()}).returncode == 0
        lab.folder = tmp_path
        (tmp_path / "bootstrap.log").write_text("")
        assert NOBODY in lab.await_reports(state_is("failed"))["ssh"]["reason"]


def test_without_any_python_the_hook_succeeds_and_leaves_a_word(lab: Pod, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("mkdir",):
        (tmp_path / "empty" / name).symlink_to(f"/bin/{name}")
    lab.env["PATH"] = str(tmp_path / "empty")
    done = lab.start({"ssh": ssh()})
    assert (done.returncode, done.stderr) == (0, b"")
    assert "no Python" in lab.log()


def test_the_python_beside_ray_runs_it_and_the_current_folder_is_not_trusted(lab: Pod, tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    script(beside / "ray", "exit 1")
    script(beside / "python", f'echo chosen >&2\nexec {sys.executable} "$@"')
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user stood in for a module')")
    lab.env["PATH"] = f"{beside}:{lab.env['PATH']}"
    lab.start({"ssh": ssh()})
    lab.await_reports(state_is("failed"))
    assert lab.log().startswith("chosen")


def test_called_again_it_leaves_the_first_alone(lab: Pod) -> None:
    lab.start({"ssh": ssh()})
    first = lab.await_reports(state_is("failed"))
    assert lab.start({"ssh": {**ssh(), "user": "another"}}).returncode == 0
    assert lab.await_reports(state_is("failed")) == first


def test_code_server_is_downloaded_checked_unpacked_and_served_on_loopback(
    lab: Pod, mirror: str, tmp_path: Path
) -> None:
    told = code_server(mirror, **{ARCH: release(tmp_path)})
    lab.start({"code-server": told})
    lab.await_reports(state_is("running"))
    argv, environment = ask(told["port"])
    assert argv[:2] == [f"--bind-addr=127.0.0.1:{told['port']}", "--auth=none"]
    assert {"--disable-telemetry", "--disable-update-check", "--disable-proxy"} <= set(argv)
    assert not {"PORT", "CODE_SERVER_HOST"} & set(environment), "either would move it off its address"
    assert not [name for name in environment if name.startswith("KRAYNE_")]


def test_a_service_that_ends_is_told_of_and_started_again(lab: Pod, mirror: str, tmp_path: Path) -> None:
    told = code_server(mirror, **{ARCH: release(tmp_path)})
    lab.start({"code-server": told})
    lab.await_reports(state_is("running"))
    link = http.client.HTTPConnection("127.0.0.1", told["port"], timeout=30)
    link.request("DELETE", "/")
    with pytest.raises(http.client.RemoteDisconnected):
        link.getresponse()
    link.close()
    report = lab.await_reports(state_is("failed"))["code-server"]
    assert "exit code 3" in report["reason"]
    assert "next try" in report["reason"]
    assert report["log"], "its last words"
    lab.await_reports(state_is("running"))


def test_a_download_with_another_checksum_is_never_run(lab: Pod, mirror: str, tmp_path: Path) -> None:
    release(tmp_path)
    lab.start({"code-server": code_server(mirror, **{ARCH: "0" * 64})})
    report = lab.await_reports(state_is("failed"))["code-server"]
    assert "sha256" in report["reason"]
    assert "next try" not in report["reason"]
    assert not list((tmp_path / ".krayne").rglob("bin"))


def test_a_service_that_dies_while_starting_says_its_last_words(lab: Pod, mirror: str, tmp_path: Path) -> None:
    release(tmp_path, "import sys\nsys.exit('no http://u:secret@host/ here')")
    lab.start({"code-server": code_server(mirror)})
    reason = lab.await_reports(state_is("failed"))["code-server"]["reason"]
    assert "ended while starting: no http://host/ here (exit code 1)" in reason
    status, log, _ = lab.get("/logs/code-server")
    assert status == 200
    assert b"no http://" in log


def test_a_port_held_by_something_else_is_named(lab: Pod, mirror: str) -> None:
    told = code_server(mirror)
    told["port"] = int(mirror.rpartition(":")[2].partition("/")[0])
    lab.start({"code-server": told})
    assert f"port {told['port']} is in use" in lab.await_reports(state_is("failed"))["code-server"]["reason"]


@pytest.mark.parametrize("path", ["/", "/services/ssh", "/logs/", "/logs/other", "/logs/../bootstrap.log", "/logs/%2e"])
def test_the_status_server_has_nothing_else(lab: Pod, path: str) -> None:
    lab.start({"ssh": ssh()})
    lab.await_reports(state_is("failed"))
    assert lab.get(path)[0] == 404


def test_without_root_ssh_says_what_it_needs(lab: Pod, tmp_path: Path) -> None:
    script(tmp_path / "bin" / "sudo", "echo 'sudo: a password is required' >&2; exit 1")
    lab.start({"ssh": {**ssh(), "user": "root"}}, as_user=True)
    reason = lab.await_reports(state_is("failed"))["ssh"]["reason"]
    assert "needs root" in reason
    assert "a password is required" in reason
    assert "next try" not in reason


@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
def test_jupyter_is_not_run_as_root(lab: Pod) -> None:
    lab.start({"notebook": notebook()})
    assert "does not run as root" in lab.await_reports(state_is("failed"))["notebook"]["reason"]


def test_the_images_own_notebook_is_used_on_loopback_with_its_host_check(lab: Pod, tmp_path: Path) -> None:
    site = tmp_path / "site" / "notebook"
    site.mkdir(parents=True)
    (site / "__init__.py").touch()
    port = "next(word for word in sys.argv if word.startswith('--port=')).partition('=')[2]"
    (site / "__main__.py").write_text(SERVER.replace('sys.argv[1].rpartition(":")[2]', port))
    lab.env["PYTHONPATH"] = str(site.parent)
    told = {**notebook(), "hosts": ["localhost", "notebook.demo.localhost"]}
    lab.start({"notebook": told}, as_user=True)
    lab.await_reports(state_is("running"))
    argv, _ = ask(told["port"])
    assert {"--ip=127.0.0.1", "--ServerApp.port_retries=0", "--IdentityProvider.token="} <= set(argv)
    assert "--ServerApp.local_hostnames=notebook.demo.localhost" in argv
    assert not [word for word in argv if "allow" in word]
