"""What the service manager keeps of the forwards: stored when opened, taken out when closed, left alone at the end."""

import socket

import anyio
import pytest

from kraynd.core.model import ForwardKey
from kraynd.lasting import DescriptorStore, follow_upgrades
from kraynd.local.handover import Door, forward_name
from tests.service.test_restart import Manager, manager

__all__ = ["manager"]
KEY = ForwardKey("default", "demo", "ssh")


class Doors:
    """The part of Forwards that is asked: which sockets each forward listens on."""

    def __init__(self) -> None:
        self.open: dict[ForwardKey, tuple[Door, ...]] = {}
        self.kept: list[ForwardKey] = []

    def doors(self) -> dict[ForwardKey, tuple[Door, ...]]:
        return self.open

    def doors_of(self, key: ForwardKey) -> tuple[Door, ...]:
        return self.open.get(key, ())

    def keep_path(self, key: ForwardKey) -> None:
        self.kept.append(key)


@pytest.mark.anyio
async def test_an_upgrade_is_taken_when_it_is_whole_and_nobody_is_connected() -> None:
    """Seen once it may be half written; gone for a moment it is being replaced; while streams are open it waits."""
    looks = iter(["1", "1", "2", "", "2", "2", "2", "2"])
    idle = iter([False, True])
    done: list[str] = []
    with anyio.fail_after(60):
        await follow_upgrades(lambda: next(idle), lambda: done.append("restart"), lambda: next(looks), every=0)
    assert done == ["restart"]
    assert list(looks) == ["2"], "not before two looks in a row agreed, and nobody was connected"


@pytest.mark.parametrize("keys", [None, (KEY,)], ids=["all", "one"])
def test_what_closes_is_taken_out_unless_the_process_ends(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, keys: tuple[ForwardKey, ...] | None
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    doors = Doors()
    store = DescriptorStore(doors)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as door:
        name = forward_name(door.getsockname()[1])
        doors.open = {KEY: ((name, door), ("unix-1-2", door))}
        store.follow(keys)
        manager.await_word(f"FDSTORE=1\nFDNAME={name}")
        manager.await_word("FDSTORE=1\nFDNAME=unix-1-2")
        assert KEY in doors.kept
        doors.open = {}
        store.follow(keys)
        manager.await_word(f"FDSTOREREMOVE=1\nFDNAME={name}", times=2)
        manager.await_word("FDSTOREREMOVE=1\nFDNAME=unix-1-2", times=2)
        assert not manager.stored
        doors.open = {KEY: ((name, door),)}
        store.follow(keys)
        manager.await_word(f"FDSTORE=1\nFDNAME={name}", times=2)
        store.leave()
        doors.open = {}
        store.follow(keys)
        store.put_control(door)  # a later word, so that the one that must not come would be there by now
        manager.await_word("FDSTORE=1\nFDNAME=control")
        assert len(manager.stored[name]) == 1
