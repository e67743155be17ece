"""A daemon that speaks another API is replaced by the client's own command, but never in the middle of a connection."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from krayne_client.connection import connect
from tests.service.test_restart import ROOT, environ, reached

__all__ = ["environ"]
pytestmark = pytest.mark.timeout(180)

# The first start is of an older kraynd; what an upgrade has put in its place starts the second time.
OLDER = """
import os, runpy
import kraynd.methods, kraynd.session
if not os.path.exists("BEEN"):
    open("BEEN", "w").close()
    kraynd.session.API_OLDEST = kraynd.session.API_VERSION = 0
    hello = kraynd.methods.Methods.daemon_hello
    async def busy(self, call, params):
        import msgspec
        return msgspec.structs.replace(await hello(self, call, params), streams=STREAMS)
    kraynd.methods.Methods.daemon_hello = busy
runpy.run_module("kraynd", run_name="__main__")
"""


@contextmanager
def older(environ: dict[str, str], tmp_path: Path, streams: int) -> Iterator["subprocess.Popen[bytes]"]:
    script = OLDER.replace("BEEN", str(tmp_path / "been")).replace("STREAMS", str(streams))
    command = [sys.executable, "-P", "-c", script]
    with subprocess.Popen(command, env=environ, cwd="/", stderr=subprocess.DEVNULL) as process:
        try:
            reached(process).close()
            yield process
        finally:
            process.kill()


def krayne(environ: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "krayne_client.main", *words]
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_it_is_replaced_and_the_command_goes_on(environ: dict[str, str], tmp_path: Path) -> None:
    with older(environ, tmp_path, 0) as process:
        ran = krayne(environ, "ls", "-o", "json")
        assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stderr
        with reached(process) as found:
            assert found.call("daemon.status", seconds=60)["pid"] == process.pid


def test_it_stays_while_connections_are_open_until_the_user_says_so(environ: dict[str, str], tmp_path: Path) -> None:
    with older(environ, tmp_path, 2) as process:
        for words in (("ls",), ("ls", "--no-start")):
            refused = krayne(environ, *words)
            assert refused.returncode == 1
            assert "this daemon speaks API 0 to 0, the client asks for 1" in refused.stderr
            assert "krayne daemon restart" in refused.stderr
        assert "2 connections through its forwards" in krayne(environ, "ls").stderr
        found = connect()
        assert found is not None, "it is the same one"
        found.close()
        assert krayne(environ, "daemon", "restart").returncode == 0
        assert krayne(environ, "ls").returncode == 0
        assert process.poll() is None
