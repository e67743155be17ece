"""The reconciler leaves what is others', deletes only what it should, and remembers across crashes."""

from typing import Any

import anyio
import msgspec
import pytest

from kraynd.core.model import ClusterKey
from kraynd.core.plan import (
    CAME_BACK,
    FILE_GONE,
    ClusterMemory,
    FileProblem,
    asked_to_adopt,
    asked_to_delete,
    asked_to_prune,
)
from krayne.errors import ClusterForeignError
from tests.core.rays import KEY, OTHER, config, live, manifest, pod, provisioned
from tests.daemon.reconciling import created, running, snapshot
from tests.daemon.virtual import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


async def test_a_foreign_and_a_handmade_cluster_are_shown_and_never_written() -> None:
    async with running() as daemon:
        theirs = live(manifest(owner=OTHER), **provisioned())
        daemon.world.put(theirs)
        by_hand = live(manifest(config(name="hand")), uid="u2")
        by_hand["metadata"]["annotations"] = {}
        daemon.world.put(by_hand)
        daemon.it.declare(snapshot(config(head={"cpus": "7"}), config(name="hand", head={"cpus": "7"})))
        state = await daemon.it.settle(KEY, 5)
        hand = await daemon.it.settle(ClusterKey("default", "hand"), 5)
        assert daemon.world.writes == []
        assert (state.ownership, state.owner) == ("foreign", "bob@desk")
        assert state.problem == "owned by bob@desk: krayne leaves it alone"
        assert hand.ownership == "unowned"
        assert hand.problem == "exists, not ours: krayne adopt hand"
        daemon.it.declare(snapshot())
        await daemon.quiet()
        assert not daemon.state.declared
        assert daemon.state.problem == ""
        daemon.world.drop(KEY)
        await daemon.quiet()
        assert KEY not in daemon.it.statuses


async def test_adopting() -> None:
    async with running() as daemon:
        daemon.world.put(live(manifest(owner=OTHER)))
        daemon.it.declare(snapshot(config()))
        await daemon.it.settle(KEY, 5)
        daemon.ask(asked_to_adopt)
        state = await daemon.it.settle(KEY, 5)
        assert state.ownership == "ours"
        assert daemon.world.kinds == ["patch"]
        assert daemon.memory.uid == "u1"


async def test_a_cluster_made_by_somebody_between_look_and_create_is_found_out() -> None:
    async with running() as daemon:
        daemon.world.lag = True

        def race() -> None:
            if KEY not in daemon.world.stored:
                daemon.world.put(live(manifest(owner=OTHER)))
                daemon.world.deliver()

        daemon.world.before_write = race
        daemon.it.declare(snapshot(config()))
        state = await daemon.it.settle(KEY, 5)
        assert daemon.world.kinds == ["create"]
        assert state.ownership == "foreign"


# Deleting


async def test_deleted_behind_our_back_it_comes_back_and_the_reason_says_so() -> None:
    async with running() as daemon:
        await created(daemon)
        daemon.world.drop(KEY)
        await daemon.quiet()
        assert daemon.world.kinds == ["create"]
        assert CAME_BACK in daemon.state.status.reason


async def test_a_vanished_file_changes_nothing_but_what_is_said() -> None:
    async with running() as daemon:
        await created(daemon)
        daemon.it.declare(snapshot(missing={KEY: anyio.current_time()}))
        await anyio.sleep(3600)
        assert daemon.world.writes == []
        assert not daemon.state.declared
        assert FILE_GONE in daemon.state.notes


async def test_prune_waits_for_the_grace_and_deletes_by_uid_and_version() -> None:
    async with running(prune=True) as daemon:
        daemon.world.usual_pods = (pod("head"),)
        others = [config(name=f"other-{n}") for n in range(3)]
        daemon.it.declare(snapshot(config(), *others))
        await anyio.sleep(1)
        daemon.world.writes.clear()
        daemon.it.declare(snapshot(*others, missing={KEY: anyio.current_time()}))
        await anyio.sleep(59)
        assert daemon.world.writes == []
        metadata = daemon.world.stored[KEY]["metadata"]
        await anyio.sleep(2)
        assert daemon.world.writes == [("delete", (metadata["uid"], metadata["resourceVersion"]))]
        assert daemon.memory == ClusterMemory()
        assert KEY not in daemon.it.statuses


async def test_prune_of_the_last_cluster_waits_for_confirm() -> None:
    async with running(prune=True) as daemon:
        await created(daemon)
        daemon.it.declare(snapshot(missing={KEY: anyio.current_time()}))
        await anyio.sleep(100)
        assert daemon.world.writes == []
        assert any("it is the last cluster" in note for note in daemon.state.notes)
        daemon.ask(asked_to_prune)
        await daemon.it.settle(KEY, 5)
        assert daemon.world.kinds == ["delete"]


async def test_a_broken_file_elsewhere_holds_prune_back() -> None:
    async with running(prune=True) as daemon:
        daemon.world.usual_pods = (pod("head"),)
        others = [config(name=f"other-{n}") for n in range(3)]
        daemon.it.declare(snapshot(config(), *others))
        await anyio.sleep(1)
        daemon.world.writes.clear()
        broken = (FileProblem("x.yaml", None, "x.yaml:1: not YAML", "mend it"),)
        daemon.it.declare(snapshot(*others, missing={KEY: anyio.current_time()}, problems=broken))
        await anyio.sleep(100)
        assert daemon.world.writes == []


async def test_krayne_delete() -> None:
    async with running() as daemon:
        await created(daemon)
        daemon.ask(asked_to_delete)
        daemon.it.declare(snapshot())
        state = await daemon.it.settle(KEY, 5)
        assert daemon.world.kinds == ["delete"]
        assert state.status.phase in {"deleting", "absent"}
        await daemon.quiet()
        assert daemon.memory == ClusterMemory()
        assert KEY not in daemon.it.statuses


async def test_krayne_delete_of_a_foreign_cluster_is_refused() -> None:
    async with running() as daemon:
        daemon.world.put(live(manifest(owner=OTHER)))
        daemon.ask(asked_to_delete)
        with pytest.raises(ClusterForeignError, match="bob@desk"):
            await daemon.it.settle(KEY, 5)
        assert daemon.world.writes == []


async def test_a_delete_is_looked_at_again_when_the_object_changed_meanwhile() -> None:
    async with running() as daemon:
        await created(daemon)
        replaced = [live(manifest(owner=OTHER), uid="theirs")]

        def race() -> None:
            if replaced:
                daemon.world.put(replaced.pop())

        daemon.world.before_write = race
        daemon.ask(asked_to_delete)
        daemon.it.declare(snapshot())
        with pytest.raises(ClusterForeignError):
            await daemon.it.settle(KEY, 5)
        assert daemon.world.kinds == ["delete"]
        assert daemon.world.stored[KEY]["metadata"]["uid"] == "theirs"


# Memory


async def test_a_crash_between_create_and_save_is_made_good() -> None:
    async with running() as first:
        await created(first)
        stored = first.world.stored
        before = first.records.log[0]
    async with running() as second:
        second.world.stored = stored
        second.world.deliver()
        assert before is not None
        second.records.kept[("world-a", KEY)] = before
        second.it.declare(snapshot(config()))
        await second.it.settle(KEY, 5)
        assert second.world.writes == []
        assert second.memory.uid == stored[KEY]["metadata"]["uid"]


async def test_what_others_remember_meanwhile_is_not_lost() -> None:
    async with running() as daemon:
        daemon.world.before_write = lambda: daemon.ask(
            lambda memory: msgspec.structs.replace(memory, forwards_off=True)
        )
        daemon.it.declare(snapshot(config()))
        await daemon.it.settle(KEY, 5)
        assert daemon.memory.forwards_off
        assert daemon.memory.uid
