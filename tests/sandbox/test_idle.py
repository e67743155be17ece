"""The sandbox's API in a process of its own: what it weighs, and that it does nothing while nobody asks."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox.running import LIMIT

MOST_MIB = 60
PROGRAM = """
import asyncio, resource, sys, time
from pathlib import Path
from krayne_sandbox.api.server import serving
from krayne_sandbox.store import Store
from tests.sandbox.stub_node import StubNode

async def main():
    home = Path(sys.argv[1])
    home.mkdir()
    store = Store.open(str(home / "state.db"), clock=time.time)
    async with serving(store, StubNode(), home=home):
        loop = asyncio.get_running_loop()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        # A program that polls has timers; one that waits has none.
        print(pages * resource.getpagesize() // 2**20, len(loop._scheduled))
    store.close()

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_idle_it_is_small_and_still(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "home")], capture_output=True, text=True, timeout=LIMIT,
        check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mib, timers = map(int, done.stdout.split())
    assert mib < MOST_MIB
    assert timers == 0
