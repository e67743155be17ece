"""The daemon as a service of the user: a systemd user unit or a launchd agent, written, started and taken away.

Never needs root and never touches the system's own units. A unit without our mark is left alone. Invariant: doing
anything here twice changes nothing the second time.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from krayne.errors import KrayneError

UNIT = "kraynd.service"
LABEL = "dev.krayne.kraynd"
MARK = "krayne daemon install"  # in every unit of ours
MANAGER_SECONDS = 60.0  # what one order to the service manager may take
# A service starts with next to no environment. This is recorded of the shell's: where things are, what credential
# plugins go by, the way out. Never what is itself a secret.
RECORDED = (
    "PATH", "KRAYNE_HOME", "KRAYNE_SOCKET", "KUBECONFIG",
    "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
    "AZURE_CONFIG_DIR", "CLOUDSDK_CONFIG", "CLOUDSDK_ACTIVE_CONFIG_NAME", "GOOGLE_APPLICATION_CREDENTIALS",
    "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",
)  # fmt: skip


def unit_path(system: str = "") -> Path:
    """Where the user's unit or agent is."""
    home = Path.home()
    if (system or sys.platform) == "darwin":
        return home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if os.path.isabs(base) else home / ".config") / "systemd" / "user" / UNIT


def render(system: str = "") -> str:
    """The unit or the agent for this installation and this environment."""
    environ = {name: value for name in RECORDED if (value := os.environ.get(name)) and not _is_secret(name, value)}
    if (system or sys.platform) == "darwin":
        return _agent(service_command(), environ)
    return _unit(
        " ".join(_quoted(word) for word in service_command()),
        [f"Environment={_quoted(f'{name}={value}', dollars=False)}" for name, value in environ.items()],
    )


def renewed(found: str, system: str = "") -> str:
    """A unit of ours as this version writes it: what it recorded stays, and its program while that is there."""
    if (system or sys.platform) == "darwin":
        import plistlib

        agent = plistlib.loads(found.encode())
        command = [str(word) for word in agent["ProgramArguments"]]
        return _agent(command if os.path.exists(command[0]) else service_command(), agent["EnvironmentVariables"])
    lines = found.splitlines()
    command_line = next((one.removeprefix("ExecStart=") for one in lines if one.startswith("ExecStart=")), "")
    if not os.path.exists(command_line.lstrip('"').split('"')[0]):
        command_line = " ".join(_quoted(word) for word in service_command())
    return _unit(command_line, [one for one in lines if one.startswith("Environment=")])


def _unit(command: str, environment: Sequence[str]) -> str:
    return _template(UNIT).replace("@COMMAND@", command).replace("@ENVIRONMENT@", "\n".join(environment))


def _agent(command: Sequence[str], environ: Mapping[str, str]) -> str:
    words = "".join(f"<string>{escape(word)}</string>" for word in command)
    pairs = "".join(f"<key>{name}</key><string>{escape(value)}</string>" for name, value in environ.items())
    filled = _template(f"{LABEL}.plist").replace("@COMMAND@", words).replace("@ENVIRONMENT@", pairs)
    return filled.replace("<plist ", f"<!-- written by {MARK} -->\n<plist ", 1)


def _is_secret(name: str, value: str) -> bool:
    """A proxy's address may hold a password."""
    return name.lower().endswith("_proxy") and "@" in value


def service_command() -> list[str]:
    """What starts the daemon, by a path that an upgrade leaves in place: the link on PATH, not what it leads to."""
    beside = os.path.join(os.path.dirname(sys.executable), "kraynd")
    linked = shutil.which("kraynd")
    same = linked and (not os.path.exists(beside) or os.path.realpath(linked) == os.path.realpath(beside))
    if linked and same and os.path.isabs(linked):
        return [_lasting(linked)]
    return [_lasting(beside)] if os.path.exists(beside) else [_lasting(sys.executable), "-P", "-m", "kraynd"]


def fleeting() -> str | None:
    """The service's program, where it is in a place that is cleaned up: a cache (uvx, pipx run), a temporary folder."""
    import tempfile

    program = service_command()[0]
    places = [os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"), tempfile.gettempdir()]
    if sys.platform == "darwin":
        places.append(os.path.expanduser("~/Library/Caches"))
    return program if any(one and program.startswith(os.path.join(one, "")) for one in places) else None


def _lasting(program: str) -> str:
    """Homebrew removes a version's own folder at the next upgrade; its `opt` link leads to the version there is."""
    link = re.sub(r"/Cellar/([^/]+)/[^/]+/", r"/opt/\1/", program)
    return link if os.path.exists(link) else program


def installed() -> bool:
    """Whether a unit of ours is there for this home."""
    found = _read(unit_path())
    return MARK in found and all(_says(found, name) for name in ("KRAYNE_HOME", "KRAYNE_SOCKET"))


def install() -> bool:
    """Write and enable the unit; whether it changed. Raises KrayneError."""
    _refuse_sudo()
    path = unit_path()
    found, wanted = _read(path), render()
    if found and MARK not in found:
        raise KrayneError(f"{path} is there and not krayne's own", hint=f"move it away: mv {path} {path}.old")
    if not reachable():
        raise KrayneError(
            "no service manager of yours answers here, as in containers, under su and in some WSL",
            hint="krayne daemon start runs the daemon without one",
        )
    if found != wanted:
        _write(path, wanted)
    if sys.platform != "darwin":
        order("daemon-reload")
        order("enable", UNIT)
    return found != wanted


def record_path() -> bool:
    """Let the unit's PATH be this shell's, for the next start; whether it changed. Raises KrayneError."""
    path = unit_path()
    found = _read(path)
    wanted = with_path(found)
    if MARK not in found or wanted == found:
        return False
    _write(path, wanted)
    if sys.platform != "darwin":
        order("daemon-reload", check=False)
    return True


def with_path(unit: str, system: str = "") -> str:
    """A unit or an agent with this shell's PATH for its own."""
    value = os.environ.get("PATH", "")
    if (system or sys.platform) == "darwin":
        pattern, line = r"<key>PATH</key><string>.*?</string>", f"<key>PATH</key><string>{escape(value)}</string>"
    else:
        pattern, line = r'(?m)^Environment="PATH=.*$', f"Environment={_quoted(f'PATH={value}', dollars=False)}"
    return re.sub(pattern, lambda _: line, unit) if value else unit


def uninstall() -> bool:
    """Stop the service and remove its unit; whether there was one. Raises KrayneError."""
    path = unit_path()
    found = _read(path)
    if not found:
        return False
    if MARK not in found:
        raise KrayneError(f"{path} is not krayne's own and stays", hint=f"look at it: cat {path}")
    if sys.platform == "darwin":
        _run("launchctl", "bootout", _domain(LABEL))
    elif reachable():
        order("disable", "--now", UNIT)
    path.unlink()
    if sys.platform != "darwin" and reachable():
        order("daemon-reload")
    return True


def start() -> None:
    """Start the service; a unit that an older version wrote, or whose program is gone, is written anew first.

    Raises KrayneError.
    """
    path = unit_path()
    found = _read(path)
    stale = bool(found) and renewed(found) != found
    if stale:
        _write(path, renewed(found))
    if sys.platform == "darwin":
        if stale:
            _run("launchctl", "bootout", _domain(LABEL))  # else the one it knows stays until the next login
        _run("launchctl", "bootstrap", _domain(), str(unit_path()))  # fails when it is loaded already, which is fine
        done = _run("launchctl", "kickstart", _domain(LABEL))
        if done.returncode:
            raise KrayneError(f"launchd does not start the daemon: {_said(done)}", hint="krayne daemon run")
        return
    if stale:
        order("daemon-reload")
    order("reset-failed", UNIT, check=False)
    order("start", UNIT)


def restart() -> None:
    """Start a running service anew with what its unit says now. Raises KrayneError."""
    order("restart", UNIT)


def stop() -> None:
    """Stop the service; fine when it does not run. Raises KrayneError."""
    if sys.platform == "darwin":
        _run("launchctl", "kill", "SIGTERM", _domain(LABEL))
    else:
        order("stop", UNIT)


def active() -> bool:
    """Whether the manager runs the daemon now."""
    return sys.platform != "darwin" and _run("systemctl", "--user", "is-active", UNIT).stdout.strip() == "active"


def reachable() -> bool:
    """Whether there is a service manager for this user: containers, su and some WSL have none."""
    if sys.platform == "darwin":
        return _run("launchctl", "print", _domain()).returncode == 0
    return _run("systemctl", "--user", "show", "--property=Version").returncode == 0


def order(*words: str, check: bool = True) -> None:
    """One order to `systemctl --user`. Raises KrayneError with what it said."""
    done = _run("systemctl", "--user", *words)
    if check and done.returncode:
        raise KrayneError(
            f"systemctl --user {' '.join(words)} failed: {_said(done)}",
            hint="journalctl --user -u kraynd -n 20, or run it by hand: krayne daemon run",
        )


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    environ = dict(os.environ)
    # su and sudo leave it out, and then the manager is not found though it runs.
    environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    try:
        return subprocess.run(  # noqa: S603 - fixed words, no shell
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=MANAGER_SECONDS,
        )  # fmt: skip
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]} is not on this machine")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {MANAGER_SECONDS:.0f} s")


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    return " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"


def _domain(label: str = "") -> str:
    return f"gui/{os.getuid()}" + (f"/{label}" if label else "")


def _refuse_sudo() -> None:
    if os.getuid() == 0 and os.environ.get("SUDO_USER"):
        raise KrayneError("this would install the daemon for root, not for you", hint="run it again without sudo")


def _template(name: str) -> str:
    here = Path(__file__).parent
    packed = here / "systemd" / name  # in a wheel; a checkout has the folder at its top
    return (packed if packed.exists() else here.parent / "systemd" / name).read_text()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


def _says(unit: str, name: str) -> bool:
    """Whether the unit records for `name` what holds here."""
    value = os.environ.get(name)
    if not value:
        return f'"{name}=' not in unit and f"<key>{name}</key>" not in unit
    return _quoted(f"{name}={value}", dollars=False) in unit or f"<key>{name}</key><string>{escape(value)}<" in unit


def _quoted(text: str, *, dollars: bool = True) -> str:
    """A word of a unit file (systemd.service(5)): quotes, specifiers and, on a command line, variables kept literal."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + (plain.replace("$", "$$") if dollars else plain) + '"'
