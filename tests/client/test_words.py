"""Waiting for a process to end: seen at once, also where its parent never asks for its code."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from krayne_client import words

LIMIT = 60.0
WAITS = [words.wait_gone, words._poll_gone]


@pytest.mark.parametrize("wait", WAITS)
def test_a_process_that_goes_on_is_not_gone(wait: Callable[[int, float], bool]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert not wait(child.pid, 0.05)
        child.communicate(b"\n")
    assert wait(child.pid, LIMIT)


@pytest.mark.parametrize("wait", WAITS)
def test_a_child_of_ours_that_ended_is_gone(wait: Callable[[int, float], bool]) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert wait(child.pid, LIMIT)
    child.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such event")
def test_one_whose_parent_does_not_ask_is_gone_too() -> None:
    """As under an init that is slow to bury: its number stays, and it is over."""
    reads, writes = os.pipe()
    program = (
        "import os,sys,time\n"
        "pid = os.fork()\n"
        "if pid == 0: sys.stdin.readline(); os._exit(0)\n"
        f"os.write({writes}, str(pid).encode())\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, pass_fds=[writes]) as parent:
        pid = int(os.read(reads, 32))
        assert parent.stdin is not None
        threading.Timer(0.05, parent.stdin.close).start()
        assert words.wait_gone(pid, LIMIT)
        os.kill(pid, 0)  # not buried
        parent.kill()
    os.close(reads)
    os.close(writes)
