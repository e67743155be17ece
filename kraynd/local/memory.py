"""The state file: what must survive the daemon, replaced atomically and read back with suspicion.

The law: losing memory may only make us do less. A damaged file is set aside and reported, and we start empty: ports
are then guessed again (the same guess), and clusters prove themselves ours by the marks they carry.
"""

import os
import time
from collections.abc import Mapping

import anyio
import msgspec
from anyio import to_thread

from kraynd.core.model import ClusterKey, ForwardKey
from kraynd.core.plan import ClusterMemory
from kraynd.core.ports import assign
from kraynd.local.home import atomic_write
from krayne import paths
from krayne.rpc import DECODE_FAULTS

VERSION = 1
STATE_LIMIT = 128 * 1024 * 1024  # bytes: a thousand clusters' last applied manifests, 40 KiB each, and room


class Memory(msgspec.Struct, frozen=True):
    """The state file's content. Worlds are Kubernetes clusters, by id."""

    version: int = VERSION
    endpoints: dict[str, str] = {}
    clusters: dict[str, dict[str, ClusterMemory]] = {}
    ports: dict[str, int] = {}
    transports: dict[str, str] = {}


class MemoryStore:
    """The one writer of the state file. `problem` says what was wrong with the file that was found."""

    def __init__(self, state: Memory, problem: str = "") -> None:
        self.state = state
        self.problem = problem
        self._saved = state
        self._writing = anyio.Lock()

    @classmethod
    def load(cls) -> "MemoryStore":
        """Read the state file; a damaged or newer one is set aside, never overwritten."""
        path = paths.state_file()
        try:
            with open(path, "rb") as file:
                data = file.read(STATE_LIMIT + 1)
        except FileNotFoundError:
            return cls(Memory())
        try:
            if len(data) > STATE_LIMIT:
                raise msgspec.DecodeError("too large")
            state = msgspec.json.decode(data, type=Memory)
            if state.version > VERSION:
                raise msgspec.DecodeError(f"written by a newer krayne (format {state.version})")
        except DECODE_FAULTS as error:
            aside = f"{path}.damaged-{time.time_ns()}"
            os.rename(path, aside)
            return cls(Memory(), f"the state file could not be read ({error}); it was kept as {aside}")
        return cls(state)

    def cluster(self, world: str, key: ClusterKey) -> ClusterMemory:
        """What is remembered of a cluster; the empty memory for an unknown one."""
        return self.state.clusters.get(world, {}).get(str(key), ClusterMemory())

    def clusters_of(self, world: str) -> dict[ClusterKey, ClusterMemory]:
        """Every cluster remembered of a world."""
        found = self.state.clusters.get(world, {})
        return {ClusterKey(*name.split("/", 1)): memory for name, memory in found.items()}

    async def put_cluster(self, world: str, key: ClusterKey, memory: ClusterMemory | None) -> None:
        """Remember (or forget, with None) and return once it is on disk."""
        records = dict(self.state.clusters.get(world, {}))
        if memory is None:
            records.pop(str(key), None)
        else:
            records[str(key)] = memory
        self._replace(clusters={**self.state.clusters, world: records})
        await self.save()

    def port(self, world: str, key: ForwardKey, low: int, high: int) -> int:
        """The forward's local port, for good; a new one is written by the next `save`."""
        name = f"{world}/{key}"
        known = self.state.ports.get(name)
        if known is None:
            # Two users of one machine with equal names guess differently.
            known = assign(self.state.ports, name, low=low, high=high, salt=str(os.getuid()))
            self._replace(ports={**self.state.ports, name: known})
        return known

    def set_port(self, world: str, key: ForwardKey, port: int) -> None:
        """The port the user chose for a forward."""
        self._replace(ports={**self.state.ports, f"{world}/{key}": port})

    def holder_of(self, port: int, besides: str) -> str | None:
        """The book's other entry with this port, if any."""
        for name, taken in self.state.ports.items():
            if taken == port and name != besides:
                return name
        return None

    def learn_world(self, fingerprint: str, world: str) -> None:
        """Which world an endpoint led to; what was remembered under the endpoint moves along."""
        if self.state.endpoints.get(fingerprint) == world:
            return
        clusters, ports = dict(self.state.clusters), dict(self.state.ports)
        early = clusters.pop(fingerprint, {})
        if early:
            clusters[world] = {**early, **clusters.get(world, {})}
        for name in [one for one in ports if one.startswith(f"{fingerprint}/")]:
            port = ports.pop(name)
            ports.setdefault(world + name.removeprefix(fingerprint), port)
        self._replace(endpoints={**self.state.endpoints, fingerprint: world}, clusters=clusters, ports=ports)

    def learn_transport(self, server: str, transport: str) -> None:
        """Which port-forward transport works at a server."""
        if self.state.transports.get(server) != transport:
            self._replace(transports={**self.state.transports, server: transport})

    @property
    def dirty(self) -> bool:
        """Whether something is not on disk yet."""
        return self._saved is not self.state

    async def save(self) -> None:
        """Return once everything known at the call is on disk. Raises OSError (a full disk)."""
        async with self._writing:
            if self.dirty:
                state = self.state
                await to_thread.run_sync(write_state, state)
                self._saved = state

    def _replace(self, **changes: Mapping[str, object]) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)


def write_state(state: Memory) -> None:
    """Put the state on disk, atomically."""
    atomic_write(paths.state_file(), msgspec.json.format(msgspec.json.encode(state), indent=1))
