"""`python -m krayne_sandbox --home DIR`: run the sandbox in the foreground; `--end` ends all its pods' processes."""

import argparse
import asyncio
import json
import logging
import shutil
import sys
from pathlib import Path

from krayne_sandbox.node.processes import HOME_MARK, end_all


def main() -> int:
    """Exit code 0 when it was asked to stop, 1 when it could not serve."""
    options = argparse.ArgumentParser(prog="krayne_sandbox")
    options.add_argument("--home", type=Path, required=True)
    options.add_argument("--end", action="store_true")
    asked = options.parse_args()
    home = asked.home.absolute()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if asked.end:
        left = asyncio.run(end_all(None, f"{HOME_MARK}={home}"))
        for record in home.glob("pods/*/run.json"):
            shutil.rmtree(json.loads(record.read_text(encoding="utf-8"))["short"], ignore_errors=True)
        return 1 if left else 0
    from krayne_sandbox.sandbox import RunningError, live

    try:
        asyncio.run(live(home))
    except (RunningError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
