"""The state file: round trip, damage, a full disk. Losing it may only make us do less."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kraynd.core.model import ClusterKey, ForwardKey
from kraynd.core.plan import ClusterMemory
from kraynd.local import memory as subject
from kraynd.local.home import Home
from kraynd.local.memory import MemoryStore
from krayne import paths

pytestmark = pytest.mark.anyio
KEY = ClusterKey("default", "demo")
LOW, HIGH = 15000, 24999


async def test_what_is_put_is_there_after_a_restart(home: Home) -> None:
    store = MemoryStore.load()
    port = store.port("w", ForwardKey("default", "demo", "ssh"), LOW, HIGH)
    store.learn_world("endpoint", "w")
    store.learn_transport("https://api", "websocket")
    await store.put_cluster("w", KEY, ClusterMemory(uid="u1", ours=True))
    again = MemoryStore.load()
    assert again.state == store.state
    assert again.cluster("w", KEY) == ClusterMemory(uid="u1", ours=True)
    assert again.clusters_of("w") == {KEY: ClusterMemory(uid="u1", ours=True)}
    assert again.port("w", ForwardKey("default", "demo", "ssh"), LOW, HIGH) == port
    assert not again.dirty


async def test_worlds_are_apart(home: Home) -> None:
    store = MemoryStore.load()
    await store.put_cluster("w", KEY, ClusterMemory(uid="u1"))
    assert store.cluster("another", KEY) == ClusterMemory()


async def test_forgetting(home: Home) -> None:
    store = MemoryStore.load()
    await store.put_cluster("w", KEY, ClusterMemory(uid="u1"))
    await store.put_cluster("w", KEY, None)
    assert MemoryStore.load().clusters_of("w") == {}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 99}', b'{"ports": {"a": "x"}}', b"[" * 100_000])
async def test_a_damaged_file_is_set_aside_and_reported(home: Home, damage: bytes) -> None:
    path = Path(paths.state_file())
    path.write_bytes(damage)
    store = MemoryStore.load()
    assert store.state == subject.Memory()
    assert "kept as" in store.problem
    kept = next(path.parent.glob("state.json.damaged-*"))
    assert kept.read_bytes() == damage


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(cut=st.integers(0, 400), flip=st.integers(0, 7))
@example(cut=63, flip=7)  # bytes that are not UTF-8 in a key
async def test_any_damage_loads_something_or_nothing(home: Home, cut: int, flip: int) -> None:
    store = MemoryStore(subject.Memory())
    store.port("w", ForwardKey("default", "demo", "ssh"), LOW, HIGH)
    await store.put_cluster("w", KEY, ClusterMemory(uid="u1", ours=True))
    path = Path(paths.state_file())
    data = bytearray(path.read_bytes())
    data[cut % len(data)] ^= 1 << flip
    path.write_bytes(data)
    MemoryStore.load()


async def test_a_full_disk_keeps_the_old_state_and_stays_dirty(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore.load()
    await store.put_cluster("w", KEY, ClusterMemory(uid="u1"))

    def full(state: subject.Memory) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(subject, "write_state", full)
        with pytest.raises(OSError, match="No space"):
            await store.put_cluster("w", KEY, ClusterMemory(uid="u2"))
    assert store.dirty
    assert MemoryStore.load().cluster("w", KEY).uid == "u1"
    await store.save()
    assert MemoryStore.load().cluster("w", KEY).uid == "u2"
