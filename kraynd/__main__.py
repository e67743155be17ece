"""`kraynd`: arguments in, exit status out. Everything else is in `daemon.py`."""

import argparse
import logging
import os
import sys
from importlib.metadata import version
from logging.handlers import RotatingFileHandler

from krayne import paths
from krayne.errors import KrayneError

LOG_BYTES = 4 * 1024 * 1024  # of one log file, before it is rotated
PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"
PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}  # sd-daemon(3)
LEVELS = ("debug", "info", "warning", "error")


def main(argv: list[str] | None = None) -> int:
    """Run the daemon in the foreground; the exit status."""
    options = _arguments(argv)
    _log_to(options.log_level or "info", None)
    try:
        return _serve(options)
    except KrayneError as error:
        print(f"kraynd: {error}", file=sys.stderr)
        if error.hint:
            print(f"try: {error.hint}", file=sys.stderr)
        return error.exit_code


class _JournalFormatter(logging.Formatter):
    """The journal has the time; each line says its priority."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{record.name}: {super().format(record)}"
        return "\n".join(f"<{PRIORITIES.get(record.levelname, 6)}>{line}" for line in text.splitlines())


def _log_to(level: str, file: str | None) -> None:
    """Log on stderr, or into a rotated file when nobody reads stderr."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if file is not None:
        os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
        handler = RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=3)
    journal = file is None and "JOURNAL_STREAM" in os.environ and not sys.stderr.isatty()
    handler.setFormatter(_JournalFormatter() if journal else logging.Formatter(PLAIN))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Their debug output holds whole bodies, Secrets and tokens included.
    for foreign in ("aiofastnet", "aiohttp", "asyncio", "kubernetes_asyncio", "urllib3"):
        logging.getLogger(foreign).setLevel(logging.WARNING)


def _serve(options: argparse.Namespace) -> int:
    import anyio

    from kraynd.daemon import Daemon
    from kraynd.local import handover, system
    from kraynd.local.home import AlreadyRunningError, Home
    from kraynd.settingsfile import SettingsFile

    os.umask(0o077)
    system.refuse_core_dumps()
    system.raise_descriptor_limit()
    handed = handover.take(paths.run_dir())
    home = Home.open()
    try:
        home.lock()
    except AlreadyRunningError as error:
        print(f"kraynd: {error}", file=sys.stderr)
        # A service manager must not restart what is already there.
        return 0 if os.environ.get("INVOCATION_ID") else 1

    settings = SettingsFile()
    detached = not sys.stderr.isatty() and "JOURNAL_STREAM" not in os.environ and not options.log_stderr
    _log_to(options.log_level or settings.current.log_level, paths.log_file() if detached else None)

    kept: list[tuple[str, int]] | None = None

    async def run() -> None:
        nonlocal kept
        daemon = Daemon(home, settings, handed=handed, log_level=options.log_level)
        await daemon.run()
        kept = daemon.kept

    try:
        anyio.run(run, backend_options={"use_uvloop": _use_uvloop(options.loop)})
    except BaseExceptionGroup as group:
        known, unknown = group.split(KrayneError)
        if unknown is not None or known is None:
            logging.getLogger("kraynd").critical("ended by a fault of krayne's own", exc_info=True)
            raise
        raise _first(known) from group
    finally:
        home.unlock()
    if kept is not None:
        handover.give(kept)
        _become_successor()
    return 0


def _become_successor() -> None:
    """Run what is installed now in this very process: its id, its manager and its doors stay."""
    if os.path.exists(sys.executable):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command, no shell
    os.execvp("kraynd", ["kraynd", *sys.argv[1:]])  # noqa: S606, S607 - an upgrade moved it: the one on PATH


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _use_uvloop(choice: str) -> bool:
    if choice == "auto":
        from importlib.util import find_spec

        return find_spec("uvloop") is not None
    return choice == "uvloop"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kraynd",
        description="Keeps Ray clusters on Kubernetes as declared in ~/.krayne/clusters, and their local ports alive.",
        epilog="It stays in the foreground; `krayne daemon start` puts it in the background.",
    )
    parser.add_argument("--log-level", choices=LEVELS, help="how much is logged (default: kraynd.yaml's, info)")
    parser.add_argument("--log-stderr", action="store_true", help="log on stderr, also when it is not a terminal")
    parser.add_argument(
        "--loop", choices=("auto", "uvloop", "asyncio"), default="auto", help="event loop: uvloop where it is installed"
    )
    parser.add_argument("--version", action="version", version=f"kraynd {version('kraynd')}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
