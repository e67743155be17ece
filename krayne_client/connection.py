"""One conversation with the daemon: requests out, answers and progress in. Blocking; the standard library alone.

Every failure is a KrayneError: the daemon's own kinds come back as the classes of `krayne.errors`, and a daemon that is
absent, silent or gone is DaemonUnreachableError.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from krayne import errors, paths
from krayne.errors import DaemonUnreachableError, KrayneError

# json, select and socket are imported where they are used: `krayne --help` needs none of them.
if TYPE_CHECKING:
    import socket

API_VERSION = 1
CALL_SECONDS = 330.0  # a little longer than the daemon gives a call
VIEW_SECONDS = 30.0  # views come from the daemon's memory: longer is a daemon that hangs
CONNECT_SECONDS = 5.0
QUEUE_PAUSE = 0.02
CTRL_C_SECONDS = 1.0  # most a Ctrl-C may go unseen: one that comes just before a system call does not end it
LINE_LIMIT = 4 * 1024 * 1024
_ABSENT = (FileNotFoundError, ConnectionRefusedError)


class Connection:
    """An open control connection."""

    def __init__(self, connected: "socket.socket") -> None:
        self._socket = connected
        self._rest = b""
        self._calls = 0
        self.gives_path = True  # once, to a daemon that asks for it
        self.path_taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; reading calls are cancelled, changing ones finish in the daemon."""
        self._socket.close()

    def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        seconds: float = CALL_SECONDS,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Any:
        """The method's result. Raises KrayneError."""
        import json

        self._calls += 1
        request = {"jsonrpc": "2.0", "id": self._calls, "method": method, "params": params or {}}
        line = json.dumps({**request, "meta": {"api": API_VERSION}}).encode() + b"\n"
        if len(line) > LINE_LIMIT:
            raise errors.UsageError("the request is larger than 4 MiB", hint="send fewer files at once")
        self._send(line)
        deadline = time.monotonic() + seconds
        while True:
            answer = self._answer(deadline)
            if answer.get("method") == "call.progress" and on_progress is not None:
                on_progress(answer["params"]["cluster"])
            elif answer.get("id") in (self._calls, None) and "method" not in answer:
                if self._gave_path(answer) and "error" in answer:  # perhaps of another cause: it is told then
                    return self.call(method, params, seconds=seconds, on_progress=on_progress)
                return result_of(answer)

    def render(self, params: dict[str, Any], *, seconds: float = VIEW_SECONDS) -> tuple[int, bytes, bytes]:
        """A view as text: exit code, stdout, stderr. The connection is used up. Raises KrayneError."""
        head = self.call("view.render", params, seconds=seconds)
        if not isinstance(head, dict) or not {"exit", "stdout", "stderr"} <= head.keys():
            raise _strange()
        data, size = self._rest, head["stdout"] + head["stderr"]
        while len(data) < size:
            data += self._receive(time.monotonic() + seconds)
        return head["exit"], data[: head["stdout"]], data[head["stdout"] : size]

    def notifications(self, method: str, *, seconds: float | None = None) -> Iterator[dict[str, Any]]:
        """The parameters of each such notification, as they come; ends after `seconds` of silence."""
        import select

        while seconds is None or b"\n" in self._rest or select.select([self._socket], [], [], seconds)[0]:
            found = self._answer(None)
            if found.get("method") == method:
                yield found["params"]

    def upgrade(self, method: str, params: dict[str, Any]) -> tuple[dict[str, Any], "socket.socket", bytes]:
        """Call a method after whose answer the connection carries frames: the answer, the socket, its first bytes."""
        answer = self.call(method, params)
        if not isinstance(answer, dict) or answer.get("upgrade") != "frames":
            raise _strange()
        self._socket.settimeout(None)
        first, self._rest = self._rest, b""
        return answer, self._socket, first

    def wait_closed(self, seconds: float) -> bool:
        """Wait for the daemon to close its end; False when it does not in time."""
        try:
            while self._receive(time.monotonic() + seconds):
                pass
        except DaemonUnreachableError as error:
            return not error.retryable
        return True

    def _gave_path(self, answer: dict[str, Any]) -> bool:
        """Whether the daemon lacked a credential plugin that is on our PATH, and has it now."""
        if not (self.gives_path and answer.get("meta") == {"wants": "path"}):
            return False
        self.gives_path = False
        from krayne_client.pluginpath import give_path

        self.path_taken = give_path()
        return self.path_taken

    def _send(self, line: bytes) -> None:
        try:
            self._socket.sendall(line)
        except OSError:
            # It may have said why before it closed: the answer, or its absence, tells.
            return

    def _answer(self, deadline: float | None) -> dict[str, Any]:
        import json

        while b"\n" not in self._rest:
            self._rest += self._receive(deadline)
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise _strange()
        return answer

    def _receive(self, deadline: float | None) -> bytes:
        data: bytes | None = None
        while data is None:
            left = CTRL_C_SECONDS if deadline is None else deadline - time.monotonic()
            self._socket.settimeout(min(CTRL_C_SECONDS, max(0.01, left)))
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError:
                if left > CTRL_C_SECONDS or deadline is None:
                    continue
                raise DaemonUnreachableError(
                    "the daemon does not answer", hint="krayne daemon restart", retryable=True
                ) from None
            except OSError:
                data = b""
        if not data:
            raise DaemonUnreachableError(
                "the daemon went away before it answered", hint="krayne status, then repeat the command"
            )
        return data


def connect(seconds: float = CONNECT_SECONDS) -> Connection | None:
    """A connection to the running daemon; None when there is none. Raises DaemonUnreachableError for other trouble."""
    import socket

    path = paths.socket_path()
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    until = time.monotonic() + seconds
    while True:
        try:
            connected.settimeout(seconds)
            connected.connect(path)
        except _ABSENT:
            connected.close()
            return None
        except BlockingIOError as error:
            # Its queue is full. The kernel offers no event for a place in it.
            if time.monotonic() > until:
                connected.close()
                raise DaemonUnreachableError("the daemon takes no clients", hint="krayne daemon restart") from error
            time.sleep(QUEUE_PAUSE)
        except OSError as error:
            connected.close()
            why = error.strerror or str(error)
            raise DaemonUnreachableError(
                f"the daemon's socket {path} cannot be opened: {why}", hint="krayne daemon restart"
            ) from error
        else:
            return Connection(connected)


def version_of(distribution: str) -> str | None:
    """A distribution's version from its metadata, without importing it; None when it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def new_token() -> str:
    """A token for one change: repeated, it gives the first answer again."""
    return os.urandom(12).hex()


def result_of(answer: dict[str, Any]) -> Any:
    """The answer's result. Raises the daemon's error as the class that carries its kind."""
    if "result" in answer:
        return answer["result"]
    fault = answer.get("error")
    if not isinstance(fault, dict):
        raise _strange()
    data = dict(fault.get("data") or {})
    kind, hint = str(data.pop("kind", "internal")), str(data.pop("hint", ""))
    retryable = bool(data.pop("retryable", False))
    message = str(fault.get("message", ""))
    raise errors.error_for(kind, message, hint=hint, retryable=retryable, data=data)


def _strange() -> KrayneError:
    return errors.ProtocolError(
        f"what answers on {paths.socket_path()} does not speak as kraynd does", hint="krayne daemon restart"
    )
