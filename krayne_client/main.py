"""The way of `krayne ls`: open the socket, send one line, copy what the daemon has rendered.

Recognises the plain forms of ls, get, describe, ports and status; everything else is `cli`'s. Loads nothing but this,
`krayne.paths` and the socket module: a test holds it to that.
"""

import os
import sys

from krayne import paths

TYPE_CHECKING = False  # typing itself would cost a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_SECONDS = 3.0  # views come from the daemon's memory; a daemon silent for longer hangs
LINE_SIZE = 65_536
CUT_OFF = 141  # what a shell shows for a program whose reader went away
_VIEWS = {
    "ls": "clusters",
    "get": "clusters",
    "describe": "cluster",
    "ports": "ports",
    "status": "status",
    "__complete": "names",
}
_NAMED = ("ls", "get", "describe", "ports", "__complete")
_FLAGS = {"-A": "all", "--all-namespaces": "all", "--no-color": "plain", "--no-start": "stay"}
_TAKES = {"-n": "namespace", "--namespace": "namespace", "-o": "form", "--output": "form"}
_FORMATS = ("table", "wide", "json", "yaml", "name")
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
_HEAD = b'{"jsonrpc":"2.0","id":1,"result":{"upgrade":"raw","exit":'


def main() -> int:
    """The `krayne` command; the exit code."""
    words = sys.argv[1:]
    line = fast_request(words)
    if line is not None:
        code = _ask(line)
        if code is not None:
            return code
    if words[:1] == ["__complete"]:  # a shell that asks for names must not start a daemon, or be told anything
        return 0
    from krayne_client import cli

    return cli.main(words)


def fast_request(words: list[str]) -> bytes | None:
    """The request for a plain reading command; None for all others."""
    chosen: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word in _FLAGS:
            chosen[_FLAGS[word]] = word
        elif word in _TAKES:
            chosen[_TAKES[word]] = next(rest, "")
        elif "view" not in chosen and word in _VIEWS:
            chosen["view"] = word
        elif chosen.get("view") in _NAMED and "name" not in chosen:
            chosen["name"] = word
        else:
            return None
    return _line(chosen)


def _line(chosen: dict[str, str]) -> bytes | None:
    """The request line; only formats we know and names of safe characters get into it, so nothing needs escaping."""
    view, form = chosen.get("view"), chosen.get("form", "table")
    if view is None or form not in _FORMATS or (view == "describe" and "name" not in chosen):
        return None
    width, color = terminal("plain" in chosen)
    text = f'{{"view":"{_VIEWS[view]}","format":"{form}","width":{width},"color":{"true" if color else "false"}'
    for field in ("name", "namespace"):
        if field in chosen:
            name = chosen[field]
            if not name or name[0] == "-" or not _SAFE.issuperset(name):
                return None
            text += f',"{field}":"{name}"'
    if "all" in chosen:
        text += ',"all_namespaces":true'
    return b'{"jsonrpc":"2.0","id":1,"method":"view.render","meta":{"api":1},"params":%b}}\n' % text.encode("ascii")


def terminal(plain: bool) -> tuple[int, bool]:
    """Width and colour of stdout: 0 and no colour in a pipe; NO_COLOR and a dumb terminal are honoured."""
    environ = os.environ
    try:
        width = os.get_terminal_size(1).columns
    except OSError:
        return 0, False
    return width or 80, not (plain or environ.get("NO_COLOR") or environ.get("TERM") == "dumb")


def _ask(line: bytes) -> int | None:
    """Send the request and print the answer; None when there is no daemon or it answers something else."""
    try:
        from _socket import AF_UNIX, SOCK_STREAM, socket
    except ImportError:  # an interpreter that hides it
        return None
    connection = socket(AF_UNIX, SOCK_STREAM)
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.connect(paths.socket_path())
        connection.sendall(line)
        answer = _receive(connection.recv)
    # No daemon, a silent one, or one that says more (that it wants our PATH) or something else: `cli` sees to it.
    except (OSError, ValueError):
        return None
    finally:
        connection.close()
    if answer is None:
        return None
    code, out, remarks = answer
    return code if write_all(out, remarks) else CUT_OFF


def _receive(recv: "Callable[[int], bytes]") -> tuple[int, bytes, bytes] | None:
    """The exit code, stdout and stderr, whole; None for an error or an end before that."""
    chunks = [recv(LINE_SIZE)]
    while b"\n" not in chunks[-1]:
        chunks.append(recv(LINE_SIZE))
        if not chunks[-1]:
            return None
    head, _, body = b"".join(chunks).partition(b"\n")
    if not head.startswith(_HEAD):
        return None
    numbers = [int(part.rpartition(b":")[2]) for part in head[len(_HEAD) :].rstrip(b"}").split(b",")]
    code, out, remarks = numbers[:3]
    parts, left = [body], out + remarks - len(body)
    while left > 0:
        chunk = recv(min(left, 1 << 20))
        if not chunk:
            return None
        parts.append(chunk)
        left -= len(chunk)
    data = b"".join(parts)
    return code, data[:out], data[out : out + remarks]


def write_all(out: bytes, remarks: bytes) -> bool:
    """Copy to stdout and stderr; False when the reader went away, which is not an error of ours."""
    try:
        for target, data in ((1, out), (2, remarks)):
            while data:
                data = data[os.write(target, data) :]
    except BrokenPipeError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
