"""Between what a person types or reads and the values that travel: times, ports, files, progress. Asks no daemon."""

import os
import select
import sys
import time
from typing import Any

from krayne.errors import UsageError

FILE_LIMIT = 1024 * 1024  # bytes of one cluster file; the daemon's own limit is lower and says more
FILES_LIMIT = 500  # cluster files of one `apply`
SERVICE_PORTS = {"dashboard": 8265, "client": 10001, "notebook": 8888, "code-server": 8443, "ssh": 22}
_UNITS = {"s": 1, "m": 60, "h": 3600}


def aside(text: str) -> None:
    """A remark on stderr; dim on a terminal that likes colours."""
    dim = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    sys.stderr.write(f"\x1b[2m{text}\x1b[0m\n" if dim else f"{text}\n")
    sys.stderr.flush()


def as_json(value: Any) -> str:
    """JSON for people and jq alike."""
    import json

    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def as_json_line(value: Any) -> str:
    """JSON on one line, for streams."""
    import json

    return json.dumps(value, ensure_ascii=False) + "\n"


def plain(text: str) -> str:
    """Without control characters: what Kubernetes says must not drive the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def as_plain_yaml(facts: dict[str, Any]) -> str:
    """A flat mapping as YAML; JSON's scalars are YAML's."""
    import json

    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in facts.items())


def seconds(text: str) -> float:
    """`90`, `90s`, `10m`, `1h`. Raises UsageError."""
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    if not number.isdecimal() or len(number) > 6:
        raise UsageError(f"{text!r} is not a time", hint="write 90, 90s, 10m or 1h")
    return float(int(number) * _UNITS[unit])


def value(text: str) -> Any:
    """An override's value: whole numbers and truth values as such, everything else as text."""
    if text in ("true", "false"):
        return text == "true"
    if text in ("null", "none"):
        return None
    digits = text[1:] if text[:1] == "-" else text
    return int(text) if digits.isdecimal() and digits.isascii() and len(digits) < 16 else text


def port_number(text: str) -> int:
    """A port, or a service's name. Raises UsageError."""
    if text in SERVICE_PORTS:
        return SERVICE_PORTS[text]
    if text.isdecimal() and text.isascii() and 0 < int(text[:6]) <= 65_535:
        return int(text)
    raise UsageError(f"{text!r} is no port and no service", hint=f"1 to 65535, or {', '.join(SERVICE_PORTS)}")


def port_pair(text: str) -> dict[str, int]:
    """`PORT[:LOCAL]`; local 0 lets the port book choose. Raises UsageError."""
    remote, colon, local = text.partition(":")
    return {"remote": port_number(remote), "local": port_number(local) if colon else 0}


def read_text(path: str) -> str:
    """A cluster file's text; `-` is stdin. Raises UsageError."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(FILE_LIMIT + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            raise UsageError(f"{path} is larger than {FILE_LIMIT // 1024} KiB", hint="is it a cluster file?")
        return data.decode()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error


def read_cluster_files(paths: list[str]) -> list[dict[str, str]]:
    """The texts of files, of the YAML files anywhere below folders, and of stdin. Raises UsageError."""
    names: list[str] = []
    for path in paths:
        names += _yaml_files(path) if os.path.isdir(path) else [path]
    if len(names) > FILES_LIMIT:
        raise UsageError(f"{len(names)} files are more than {FILES_LIMIT} at once", hint="apply the folders one by one")
    return [{"source": "standard input" if name == "-" else name, "text": read_text(name)} for name in names]


def _yaml_files(folder: str) -> list[str]:
    found = [
        os.path.join(where, name)
        for where, _, names in os.walk(folder)
        for name in names
        if name.endswith((".yaml", ".yml")) and not name.startswith(".")
    ]
    if not found:
        raise UsageError(f"{folder} holds no .yaml file", hint="check the path")
    return sorted(found)


def wait_gone(pid: int, limit: float) -> bool:
    """Wait until a process has ended; False when it does not in time."""
    if sys.platform != "linux":
        return _poll_gone(pid, limit)  # no event there tells of a process that is not our child
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:  # a kernel before 5.3, or a sandbox that forbids it
        return _poll_gone(pid, limit)
    try:
        ended = select.poll()
        ended.register(watched, select.POLLIN)  # also while its parent has not asked for its code
        return bool(ended.poll(limit * 1000))
    finally:
        os.close(watched)


def _poll_gone(pid: int, limit: float) -> bool:
    pause, until = 0.01, time.monotonic() + limit
    while _is_alive(pid):
        if time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.2)
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # A child of ours that has ended still has its number until it is asked for.
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return True


class Story:
    """Progress of a wait, told on stderr: a line for each change a person would notice."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._told = ""

    def tell(self, view: dict[str, Any]) -> None:
        """The cluster as it is now."""
        workers = view["workers"]
        text = f"{self._name}: {view['phase']}"
        if workers["desired"]:
            text += f", workers {workers['ready']}/{workers['desired']}"
        if view["reason"]:
            text += f" ({view['reason']})"
        if installing := [one["name"] for one in view["services"] if one["state"] == "installing"]:
            text += f", installing {', '.join(installing)}"
        if text != self._told:
            self._told = text
            aside(text)
