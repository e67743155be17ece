"""`kraynd`: arguments in, exit status out. Everything else is in `daemon.py`."""

import argparse
import logging
import os
import sys
from importlib.metadata import version

from krayne.errors import KrayneError

LEVELS = ("debug", "info", "warning", "error")


def main(argv: list[str] | None = None) -> int:
    """Run the daemon in the foreground; the exit status."""
    options = _arguments(argv)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    # Their debug output holds whole bodies, Secrets and tokens included.
    for foreign in ("aiohttp", "asyncio", "kubernetes_asyncio", "urllib3"):
        logging.getLogger(foreign).setLevel(logging.WARNING)
    try:
        return _serve(options.loop)
    except KrayneError as error:
        print(f"kraynd: {error}", file=sys.stderr)
        if error.hint:
            print(f"try: {error.hint}", file=sys.stderr)
        return error.exit_code


def _serve(loop: str) -> int:
    import anyio

    from kraynd.daemon import Daemon
    from kraynd.local import system
    from kraynd.local.home import AlreadyRunningError, Home

    os.umask(0o077)
    system.refuse_core_dumps()
    system.raise_descriptor_limit()
    home = Home.open()
    try:
        home.lock()
    except AlreadyRunningError as error:
        print(f"kraynd: {error}", file=sys.stderr)
        # A service manager must not restart what is already there.
        return 0 if os.environ.get("INVOCATION_ID") else 1

    async def run() -> None:
        await Daemon(home).run()

    try:
        anyio.run(run, backend_options={"use_uvloop": _use_uvloop(loop)})
    except BaseExceptionGroup as group:
        known, unknown = group.split(KrayneError)
        if unknown is not None or known is None:
            raise
        raise _first(known) from group
    finally:
        home.unlock()
    return 0


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
        epilog="It runs in the foreground; `krayne daemon start` runs it in the background. KRAYNE_HOME moves ~/.krayne.",
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="how much is logged on stderr")
    parser.add_argument(
        "--loop", choices=("auto", "uvloop", "asyncio"), default="auto", help="event loop: uvloop where it is installed"
    )
    parser.add_argument("--version", action="version", version=f"kraynd {version('kraynd')}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
