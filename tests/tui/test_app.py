"""The screen driven by keys: what it shows at 80x24, and what it does to the clusters."""

import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from textual.pilot import Pilot

from kraynd.core.model import ClusterKey
from krayne import paths
from krayne_tui.app import Screen
from tests.api.conftest import House
from tests.daemon.backend import some_cluster
from tests.docs.pictures import FOLDER, without_fonts

pytestmark = pytest.mark.anyio
SNAPSHOTS = Path(__file__).parent / "snapshots"
PICTURE = FOLDER / "tui.svg"
SECONDS = 40.0


@asynccontextmanager
async def shown(namespace: str = "") -> AsyncIterator[Pilot[None]]:
    async with Screen(namespace).run_test(size=(80, 24)) as pilot:
        yield pilot


def dump(pilot: Pilot[None]) -> str:
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(part.text for part in strip).rstrip() for strip in strips) + "\n"


async def until(pilot: Pilot[None], holds: Callable[[], Any]) -> None:
    """Let the application work until it shows what is wanted."""
    with anyio.move_on_after(SECONDS):
        while not holds():
            await pilot.pause()
            await anyio.sleep(0.01)
        return
    pytest.fail(f"never came:\n{dump(pilot)}")


async def same(pilot: Pilot[None], name: str) -> None:
    """The screen is the committed one; KRAYNE_SNAPSHOTS=1 writes it, and the list as the picture of docs/."""
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("KRAYNE_SNAPSHOTS"):
        await pilot.pause(1.0)
        path.write_text(dump(pilot))
        if name == "list":
            PICTURE.write_text(without_fonts(pilot.app.export_screenshot(title="krayne tui")))
    wanted = path.read_text()
    with anyio.move_on_after(SECONDS):
        while dump(pilot) != wanted:
            await pilot.pause()
            await anyio.sleep(0.01)
    assert dump(pilot) == wanted


def app(pilot: Pilot[None]) -> Screen:
    assert isinstance(pilot.app, Screen)
    return pilot.app


async def ready(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: "SERVICES" in dump(pilot))


async def test_the_list_and_the_chosen_cluster(house: House) -> None:
    house.operates = False
    house.put("new", "ml", "pending", reason="no node has room")
    async with shown() as pilot:
        await ready(pilot)
        await same(pilot, "list")
        await pilot.press("down")
        await until(pilot, lambda: "new in ml: pending" in dump(pilot))
        house.put("new", "ml", "ready")
        await until(pilot, lambda: "new in ml: ready" in dump(pilot))
        house.backend.remove(ClusterKey("ml", "new"))
        await until(pilot, lambda: "1 cluster\n" in dump(pilot) and "new in ml" not in dump(pilot))


async def test_the_filter_and_the_namespace(house: House) -> None:
    house.operates = False
    house.put("new", "ml", "pending")
    async with shown() as pilot:
        await ready(pilot)
        await pilot.press("slash", *"pending", "enter")
        await until(pilot, lambda: list(app(pilot).cells) == [("ml", "new")] and "new in ml" in dump(pilot))
        await same(pilot, "filter")
        await pilot.press("escape")
        await until(pilot, lambda: len(app(pilot).cells) == 2)
        await pilot.press("n")
        await until(pilot, lambda: "show the clusters of" in dump(pilot))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: list(app(pilot).cells) == [("ml", "new")])


async def test_a_new_cluster_is_declared_from_the_form(house: House) -> None:
    async with shown() as pilot:
        await ready(pilot)
        await pilot.press("c")
        await until(pilot, lambda: "a new cluster" in dump(pilot))
        await same(pilot, "create-empty")
        await pilot.press("enter")
        assert len(app(pilot).screen_stack) == 2
        await pilot.press(*"fresh")
        await same(pilot, "create")
        await pilot.press("enter")
        await until(pilot, lambda: ("default", "fresh") in app(pilot).cells)
    assert house.backend.log[0][:2] == ("create", "default/fresh")


async def test_a_cluster_is_deleted_only_when_its_name_is_typed(house: House) -> None:
    house.operates = False
    async with shown() as pilot:
        await ready(pilot)
        await pilot.press("d")
        await until(pilot, lambda: "delete demo in default?" in dump(pilot))
        await pilot.press(*"dem", "enter")
        await same(pilot, "delete")
        assert not house.backend.log
        await pilot.press("o", "enter")
        await until(pilot, lambda: app(pilot).known["default", "demo"].status == "deleting")
    assert house.backend.log == [("delete", "default/demo", False)]


async def test_scale_and_suspend(house: House) -> None:
    async with shown() as pilot:
        await ready(pilot)
        await pilot.press("s")
        await until(pilot, lambda: "scale demo" in dump(pilot))
        await pilot.press("tab", "end", "backspace", "x", "enter")
        await same(pilot, "scale")
        await pilot.press("backspace", "3", "enter")
        await until(pilot, lambda: app(pilot).known["default", "demo"].num_workers == 3)
        await pilot.press("p")
        await until(pilot, lambda: app(pilot).known["default", "demo"].status == "suspended")
        await pilot.press("p")
        await until(pilot, lambda: app(pilot).known["default", "demo"].status != "suspended")
    assert house.backend.log[0] == ("scale", "default/demo", "worker", 3, None, None)


async def test_a_refusal_is_said_and_the_screen_stays(house: House) -> None:
    async with shown() as pilot:
        await ready(pilot)
        await pilot.press("c")
        await until(pilot, lambda: "a new cluster" in dump(pilot))
        await pilot.press(*"demo", "enter")
        await until(pilot, lambda: any("declared already" in one.message for one in app(pilot)._notifications))


async def test_the_help_names_every_key(house: House) -> None:
    async with shown() as pilot:
        await ready(pilot)
        await pilot.press("question_mark")
        await until(pilot, lambda: "leave; clusters and ports stay" in dump(pilot))
        await same(pilot, "help")
        await pilot.press("d", "escape")
        await until(pilot, lambda: len(app(pilot).screen_stack) == 1)


async def test_a_restart_of_the_daemon_is_said_and_survived(house: House) -> None:
    async with shown() as pilot:
        await ready(pilot)
        Path(paths.home()).mkdir(mode=0o700, exist_ok=True)
        with open(paths.start_lock_file(), "wb") as lock:  # as `krayne daemon restart`: who comes meanwhile waits
            fcntl.flock(lock, fcntl.LOCK_EX)
            await house.stop()
            await same(pilot, "lost")
            house.put("made")
            await house.tasks.start(house.serve)
        await until(pilot, lambda: ("default", "made") in app(pilot).cells and "unreachable" not in dump(pilot))


async def test_the_log_is_shown_and_left(house: House) -> None:
    async with shown() as pilot:
        await ready(pilot)
        await pilot.press("l")
        await until(pilot, lambda: "log of demo" in dump(pilot) and "krayne:" in dump(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: len(app(pilot).screen_stack) == 1)


async def test_a_thousand_clusters(house: House) -> None:
    for number in range(999):
        house.backend.views[ClusterKey("many", f"c{number:04}")] = some_cluster(f"c{number:04}", "many")
    async with shown() as pilot:
        await until(pilot, lambda: len(app(pilot).cells) == 1000 and "SERVICES" in dump(pilot))
        app(pilot).table.move_cursor(row=999)
        await until(pilot, lambda: "c0998 in many" in dump(pilot))
        house.put("c0500", "many", "degraded")
        await until(pilot, lambda: app(pilot).cells["many", "c0500"][2].plain == "degraded")
        assert app(pilot).chosen == ("many", "c0998")
        await pilot.press("slash", *"c0500", "enter")
        await until(pilot, lambda: list(app(pilot).cells) == [("many", "c0500")] and "c0500 in many" in dump(pilot))
