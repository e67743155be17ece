"""The current world: built from the user's settings, run, and replaced when the settings lead elsewhere.

Owns the one Kubernetes connection and its tunnels. A wrong setting is a state with a reason, never an end; the tunnels
of a world that is left are closed, since nothing of another world may answer on a forward's port.
"""

import logging
import os
import time
from collections.abc import Callable, Collection

import anyio
import msgspec

from kraynd.core.model import ClusterKey
from kraynd.core.rounds import ROUND, until_round
from kraynd.core.sparing import Sparing
from kraynd.kube.tunnel import TunnelPool, TunnelSettings
from kraynd.kube.world import World, WorldState
from kraynd.local.memory import MemoryStore
from krayne import paths
from krayne.config import KrayneSettings, load_krayne_settings
from krayne.errors import KrayneError

log = logging.getLogger("kraynd.connection")

LOOK_AGAIN = 3 * ROUND  # seconds between two looks at the settings and the kubeconfig
UNSETTLED = WorldState("connecting", "not contacted yet", 0.0, "")


class Link(msgspec.Struct, frozen=True):
    """A world and the tunnels into its pods."""

    world: World
    pool: TunnelPool


class Connection:
    """Holds at most one link. `on_link` is called with each new link, and with None when it is gone."""

    def __init__(
        self,
        memory: MemoryStore,
        *,
        namespaces: tuple[str, ...] = (),
        wanted: Callable[[], Collection[str]] = tuple,
        tunnels: TunnelSettings | None = None,
        on_change: Callable[[ClusterKey | None], None],
        on_link: Callable[[Link | None], None],
    ) -> None:
        self._memory = memory
        self._namespaces = namespaces
        self._wanted = wanted
        self._tunnels = tunnels or TunnelSettings()
        self._on_change = on_change
        self._on_link = on_link
        self._poked = anyio.Event()
        self._contacted = anyio.Event()
        self._moved = anyio.Event()
        self._log = Sparing()
        self._logged = ""  # what the log says last of how it stands
        self.tries = 0
        self._trouble = UNSETTLED
        self._settings_stamp: object = None
        self.link: Link | None = None

    @property
    def state(self) -> WorldState:
        """How the world stands; the reason why there is none."""
        return self._trouble if self.link is None else self.link.world.state

    @property
    def world_id(self) -> str:
        """The name memory knows the world by: its id, or until the first contact its endpoint's fingerprint."""
        if self.link is None:
            return ""
        return self.link.world.id or self.link.world.fingerprint

    async def contacted(self) -> None:
        """Wait for the first contact, good or bad."""
        await self._contacted.wait()

    async def settled(self, since: int) -> None:
        """Wait until a later try than `since` has met its server, or has failed for a reason."""
        while self.tries == since or self.state.condition == "connecting":
            await self._moved.wait()

    async def caught_up(self) -> bool:
        """Follow settings and kubeconfig at once where they lead elsewhere by now; whether they did."""
        if self.link is not None and not self._is_elsewhere(self.link.world):
            return False
        tries = self.tries
        self.reload()
        await self.settled(tries)
        return True

    async def run(self) -> None:
        """Keep a world until cancelled. This is one of the two walls: no fault of a world ends the daemon."""
        while True:
            self.tries += 1
            try:
                self._settings_stamp = _stamp(paths.settings_file())
                await self._serve(load_krayne_settings())
                continue
            except KrayneError as error:
                trouble = WorldState("misconfigured", error.message, time.time(), error.hint)
            except Exception as error:
                log.exception("the connection to Kubernetes met a fault of krayne's own and is built anew")
                reason = f"a fault of krayne's own, tried again: {type(error).__name__}"
                trouble = WorldState("unreachable", reason, time.time(), "krayne daemon logs")
            self._say(trouble)
            await self._pause()

    def reload(self) -> None:
        """Look at the settings and the kubeconfig now. A world they still lead to stays as it is."""
        self._poked.set()

    @property
    def lacks_plugin(self) -> bool:
        """Whether a client's PATH could help: the credential plugin is not on ours."""
        return self.link is not None and self.link.world.transport.lacks_plugin

    def learn_path(self, path: str) -> bool:
        """Take over a PATH that has the plugin ours lacks, and try again; whether it was taken."""
        link = self.link
        if not path or "\0" in path or link is None or not link.world.transport.learn_path(path):
            return False
        os.environ["PATH"] = path  # what is loaded later, and our successor
        log.info("credential plugins are looked for in a client's PATH now: ours lacked one")
        link.world.wake()
        return True

    async def changed(self, before: WorldState) -> None:
        """Wait until the connection stands otherwise."""
        while self.state == before:
            await self._moved.wait()

    def keep_tunnels(self, seconds: float) -> None:
        """How long idle tunnels stay warm, in this world and the next."""
        self._tunnels = msgspec.structs.replace(self._tunnels, idle=seconds)
        if self.link is not None:
            self.link.pool.keep_idle(seconds)

    def review(self) -> None:
        """Clusters were declared: perhaps in a namespace that is not watched yet."""
        if self.link is not None:
            self.link.world.review()

    async def looked_into(self, namespace: str, seconds: float) -> None:
        """Wait until a namespace something was declared in is watched, or known to be barred; at most so long."""
        with anyio.move_on_after(seconds):
            while self.link is not None and not self.link.world.looks_into(namespace):
                await self._moved.wait()

    def wake(self) -> None:
        """The machine slept: nothing that was open can be trusted."""
        if self.link is not None:
            self.link.world.wake()
            self.link.pool.probe()

    def _is_elsewhere(self, world: World) -> bool:
        return _stamp(paths.settings_file()) != self._settings_stamp or world.stale()

    async def _serve(self, settings: KrayneSettings) -> None:
        """Live in the world the settings lead to, until they lead elsewhere."""
        world = World(
            settings,
            namespaces=self._namespaces,
            wanted=self._wanted,
            on_change=self._changed,
            known_worlds=self._memory.state.endpoints,
        )
        server = world.server
        pool = TunnelPool(
            world.transport,
            remembered=self._memory.state.transports.get(server),
            on_transport=lambda name: self._memory.learn_transport(server, name),
            settings=self._tunnels,
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(pool.run)
            self.link = Link(world, pool)
            try:
                self._on_link(self.link)
                tasks.start_soon(world.run)
                while not self._is_elsewhere(world):
                    await self._pause()
                self._trouble = UNSETTLED
            finally:
                self.link = None
                self._on_link(None)
            tasks.cancel_scope.cancel()

    async def _pause(self) -> None:
        with anyio.move_on_after(until_round(anyio.current_time(), LOOK_AGAIN)):
            await self._poked.wait()
        self._poked = anyio.Event()

    def _changed(self, key: ClusterKey | None) -> None:
        link = self.link
        if key is None and link is not None and link.world.id is not None:
            self._memory.learn_world(link.world.fingerprint, link.world.id)
        if link is not None and link.world.state.condition != "connecting":
            self._contacted.set()
        self._move()
        self._on_change(key)

    def _say(self, state: WorldState) -> None:
        self._contacted.set()
        if (self._trouble.condition, self._trouble.reason) != (state.condition, state.reason):
            self._trouble = state
            self._on_change(None)
        self._move()

    def _move(self) -> None:
        state = self.state
        said = f"{state.condition}: {state.reason}" if state.reason else state.condition
        if state.condition != "connecting" and said != self._logged and self._log.wants(said, time.monotonic()):
            self._logged = said
            log.info("Kubernetes: %s", said)
        self._moved.set()
        self._moved = anyio.Event()


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
