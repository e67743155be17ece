"""How one service of the head pod is kept: prepared, started, seen to answer, started again.

Invariant: whatever goes wrong in a service is recorded and ends there; every command has a deadline.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import traceback
from typing import Any

from kraynd.pod.board import Board, ServiceError, say

STEP_LIMIT = 60  # seconds for a step that does not download
INSTALL_LIMIT = 1800  # seconds for one that does: a slow mirror and 95 packages
ANSWER_LIMIT = 180  # seconds until a started service answers, on a head that is busy starting Ray
BACKOFF_BASE, BACKOFF_CAP = 2.0, 300.0  # seconds between two tries of a failing service
STEADY = 60.0  # seconds after which a service that ended is started again without delay

# Variables that would move a service off its address.
MISLEADING = ("PORT", "CODE_SERVER_HOST", "JUPYTER_PORT", "JUPYTER_IP", "VSCODE_IPC_HOOK_CLI")


class Service:
    """One service: how it gets into the pod, and the command that then serves it in the foreground."""

    # What to send to see whether it answers, and how the answer begins.
    question = b""
    answer = b""

    def __init__(self, name: str, told: dict[str, Any], board: Board) -> None:
        self.name = name
        self.told = told
        self.board = board
        self.port = int(told["port"])
        self.env = {key: value for key, value in os.environ.items() if key not in MISLEADING}

    def prepare(self) -> list[str]:
        """Install what is missing; the command to run. ServiceError says why not."""
        raise ServiceError("unknown service", final=True)

    def step(self, reason: str) -> None:
        """Say what is being done now."""
        say(f"{self.name}: {reason}")
        self.board.report(self.name, "installing", reason)

    def run(self, what: str, argv: list[str], *, limit: float = STEP_LIMIT, text: str = "", **env: str) -> None:
        """One command to its end, its output in the log; ServiceError when it fails or takes longer than `limit`."""
        log = self.board.open_log(self.name)
        try:
            process = subprocess.Popen(  # noqa: S603 (our own commands, no shell)
                argv, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**self.env, **env}, start_new_session=True
            )
        except OSError as error:
            raise ServiceError(f"{what}: {error}") from None
        finally:
            os.close(log)
        try:
            process.communicate(text.encode(), timeout=limit)
        except subprocess.TimeoutExpired:
            end(process)
            raise ServiceError(f"{what}: not done after {limit:g} s") from None
        if process.returncode:
            raise ServiceError(f"{what}: {self.last_words(process.returncode)}")

    def last_words(self, code: int) -> str:
        """How a command ended, in its own words."""
        lines = self.board.tail(self.name)
        return f"{lines[-1]} (exit code {code})" if lines else f"exit code {code}"

    def keep(self) -> None:
        """Run the service for as long as the pod lives. The wall: whatever goes wrong here ends here."""
        failures = 0
        while True:
            started = time.monotonic()
            try:
                reason, final = self.serve(), False
            except ServiceError as failure:
                reason, final = str(failure), failure.final
            except Exception as error:  # noqa: BLE001 (the wall between the services; it is recorded and tried again)
                traceback.print_exc()
                reason, final = f"{type(error).__name__}: {error}", False
            failures = 1 if time.monotonic() - started > STEADY else failures + 1
            pause = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(failures, 10))
            say(f"{self.name}: {reason}")
            self.board.report(self.name, "failed", reason if final else f"{reason}; next try in {pause:g} s")
            if final:
                return
            time.sleep(pause)

    def serve(self) -> str:
        """Prepare, start, and wait until the service ends; how it ended."""
        if self.connects():
            raise ServiceError(f"port {self.port} is in use by another program in the pod")
        argv = self.prepare()
        self.step("starting")
        log = self.board.open_log(self.name)
        try:
            process = subprocess.Popen(  # noqa: S603 (our own commands, no shell)
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True
            )
        except OSError as error:
            raise ServiceError(f"cannot be started: {error}") from None
        finally:
            os.close(log)
        self.await_answer(process)
        self.board.report(self.name, "running")
        say(f"{self.name}: running on port {self.port}")
        while True:
            try:
                return f"ended: {self.last_words(process.wait(timeout=STEADY))}"
            except subprocess.TimeoutExpired:
                self.board.trim_log(self.name)

    def await_answer(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the started service answers; ServiceError when it ends or stays silent."""
        deadline = time.monotonic() + ANSWER_LIMIT
        while not self.answers():
            if time.monotonic() > deadline:
                end(process)
                raise ServiceError(f"started, but gave no answer on port {self.port} in {ANSWER_LIMIT} s")
            try:
                code = process.wait(timeout=0.25)
            except subprocess.TimeoutExpired:
                continue
            raise ServiceError(f"ended while starting: {self.last_words(code)}")

    def connects(self) -> bool:
        """Whether anything listens on the port."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def answers(self) -> bool:
        """Whether the service itself answers on its port."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as asked:
                asked.sendall(self.question)
                got = b""
                while len(got) < len(self.answer):
                    more = asked.recv(len(self.answer) - len(got))
                    if not more:
                        return False
                    got += more
        except OSError:
            return False
        return got == self.answer


def end(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it started. As root's it cannot be ended from here: `timeout` does that (as_root)."""
    try:
        os.killpg(process.pid, 9)
        process.wait(timeout=STEP_LIMIT)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"process {process.pid} cannot be ended: {error}")


def gentle() -> list[str]:
    """What keeps an installing step from competing with Ray."""
    low = ["nice", "-n", "19"] if shutil.which("nice") else []
    return low + (["ionice", "-c", "3"] if shutil.which("ionice") else [])


def as_root(argv: list[str]) -> list[str]:
    """The same command with root's rights, never asking for a password."""
    return argv if os.geteuid() == 0 else ["sudo", "-n", *argv]


def limited(seconds: int, argv: list[str]) -> list[str]:
    """A deadline that also ends root's processes; the caller's own is a little later."""
    return ["timeout", "-k", "10", str(seconds), *argv] if shutil.which("timeout") else argv


def home() -> str:
    """A folder of the user's own for what is installed; a random uid may have none."""
    own = os.path.expanduser("~")
    return own if os.access(own, os.W_OK) else "/tmp"  # noqa: S108 (the pod's own)
