"""The forwards of the daemon: the set that should be on, and where each cluster's lead.

Level-triggered: `want` is the whole set and `aim` the whole truth of a cluster; saying either twice changes nothing.
Owns the task each forward runs in; knows nothing of Kubernetes but a pod's name and what opens streams into it.
"""

import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import blake2b

import anyio
import anyio.abc

from kraynd.clients import Aim, Ended, Ground, Opener, Stream
from kraynd.core.forwarding import ForwardSpec, ForwardState, HoldSettings
from kraynd.core.model import ClusterKey, ForwardKey, PodTarget
from kraynd.forward import Forward
from kraynd.local.accepted import READ_SIZE
from kraynd.local.control import identity
from kraynd.local.handover import Door, forward_name, unix_name
from kraynd.local.home import remove_quietly
from kraynd.local.listen import sweep
from kraynd.local.peer import Peers

__all__ = ["Ended", "ForwardSpec", "ForwardState", "Forwards", "HoldSettings", "Opener", "Stream", "socket_name"]

DEFAULT_HOLD = HoldSettings()
NOWHERE_YET = "the cluster has not been looked up yet"
NAME_LIMIT = 39  # bytes for a socket's name: `paths.run_dir` leaves 40, and the slash takes one


class Forwards:
    """See the module. `allowed` are further uids let in beside the user's own.

    Locks, on by default: `check_peer` False lets every user in, `guard_web` False every web page.
    """

    def __init__(
        self,
        *,
        socket_dir: str | None,
        hold: HoldSettings = DEFAULT_HOLD,
        on_change: Callable[[ForwardKey], None],
        check_peer: bool = True,
        guard_web: bool = True,
        allowed: Collection[int] = (),
        inherited: Iterable[socket.socket] = (),
        inherited_unix: Mapping[str, socket.socket] | None = None,
    ) -> None:
        self._socket_dir = socket_dir
        self._peers = Peers()
        self._ground = Ground(
            hold=hold,
            peers=self._peers,
            allowed=None,
            scratch=memoryview(bytearray(READ_SIZE)),
            on_change=on_change,
        )
        self._uids = frozenset({os.getuid(), *allowed})
        self.govern(hold, check_peer=check_peer, guard_web=guard_web)
        self._inherited: dict[int, list[socket.socket]] = {}
        for one in inherited:
            self._inherited.setdefault(one.getsockname()[1], []).append(one)
        self._inherited_unix = dict(inherited_unix or {})  # by path
        self._forwards: dict[ForwardKey, Forward] = {}
        self._aims: dict[ClusterKey, Aim] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the wanted forwards until cancelled."""
        try:
            async with anyio.create_task_group() as self._tasks:
                for forward in self._forwards.values():
                    self._tasks.start_soon(forward.run)
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._tasks = None
            for forward in self._forwards.values():
                forward.end("the daemon stops")
            self._forwards.clear()
            self._peers.close()

    def end_streams(self, reason: str) -> None:
        """End every open connection in order, while what carries them is still there."""
        for forward in self._forwards.values():
            forward.end_streams(reason)

    def govern(self, hold: HoldSettings, *, check_peer: bool, guard_web: bool) -> None:
        """The bounds and locks from now on. Who was let in stays, and guarded as it was."""
        self._ground.hold = hold
        self._ground.allowed = self._uids if check_peer else None
        self._ground.guard_web = guard_web

    def want(self, specs: Collection[ForwardSpec]) -> None:
        """The forwards that should be on. Others close now, with their connections; new ones open in the next tick."""
        wanted = {spec.key: spec for spec in specs}
        for key, forward in list(self._forwards.items()):
            if wanted.get(key) != forward.spec:
                del self._forwards[key]
                forward.stop("the forward was closed")
        for key, spec in wanted.items():
            if key not in self._forwards:
                self._add(spec)

    def aim(self, cluster: ClusterKey, pool: Opener | None, target: PodTarget | None, why: str) -> None:
        """Where the cluster's forwards lead now. With no pool or no target everything waits, and `why` is shown."""
        aim = Aim(pool, target) if pool is not None and target is not None else Aim(why=why or NOWHERE_YET)
        self._aims[cluster] = aim
        for key, forward in self._forwards.items():
            if key.cluster_key == cluster:
                forward.aim(aim)

    def states(self) -> Mapping[ForwardKey, ForwardState]:
        """Every wanted forward as it is now."""
        return {key: forward.state() for key, forward in self._forwards.items()}

    def doors(self) -> Mapping[ForwardKey, tuple[Door, ...]]:
        """The listening sockets of each forward by name, to hand to whoever keeps them across a restart."""
        return {key: forward.doors for key, forward in self._forwards.items()}

    def doors_of(self, key: ForwardKey) -> tuple[Door, ...]:
        """Those of one forward; none when it is not wanted."""
        forward = self._forwards.get(key)
        return () if forward is None else forward.doors

    def keep_path(self, key: ForwardKey) -> None:
        """A forward's Unix socket lives on elsewhere: its path stays when the daemon ends, not when it is closed."""
        self._forwards[key].keep_path()

    def close(self) -> None:
        """Close every forward, as if none were wanted: there is no successor to go on with them."""
        self.want(())
        self.release_unclaimed()

    def unclaimed(self) -> tuple[Door, ...]:
        """Inherited sockets no forward has taken yet."""
        found = [(forward_name(port), one) for port, sockets in self._inherited.items() for one in sockets]
        files = [(identity(path), one) for path, one in self._inherited_unix.items()]
        return (*found, *((unix_name(file), one) for file, one in files if file is not None))

    def release_unclaimed(self) -> tuple[str, ...]:
        """Close inherited sockets no forward has taken; their names."""
        names = dict.fromkeys(name for name, _ in self.unclaimed())
        for one in (*self._inherited_unix.values(), *(one for some in self._inherited.values() for one in some)):
            one.close()
        for path in self._inherited_unix:
            remove_quietly(path)  # handed to us, so nobody else listens there
        self._inherited.clear()
        self._inherited_unix.clear()
        return tuple(names)

    def sweep(self, besides: Collection[str] = ()) -> None:
        """Take away what earlier daemons left in the folder of the Unix sockets."""
        if self._socket_dir:
            sweep(self._socket_dir, {*besides, *self._inherited_unix, *map(self._path, self._forwards)})

    def wake(self) -> None:
        """The machine slept: whatever waits between two tries is tried now."""
        for forward in self._forwards.values():
            forward.wake()

    def _path(self, key: ForwardKey) -> str:
        return os.path.join(self._socket_dir, socket_name(key)) if self._socket_dir else ""

    def _add(self, spec: ForwardSpec) -> None:
        path = self._path(spec.key)
        unix = self._inherited_unix.pop(path, None)
        forward = Forward(
            spec,
            self._ground,
            self._aims.get(spec.key.cluster_key, Aim(why=NOWHERE_YET)),
            path=path or None,
            inherited=(*self._inherited.pop(spec.local_port, ()), *([unix] if unix is not None else ())),
        )
        self._forwards[spec.key] = forward
        if self._tasks is not None:
            self._tasks.start_soon(forward.run)


def socket_name(key: ForwardKey) -> str:
    """A forward's Unix socket in the runtime directory: readable where it fits a socket's path, else a hash."""
    name = f"{key.namespace}.{key.cluster}.{key.service}.sock"
    if len(name.encode()) <= NAME_LIMIT:
        return name
    return blake2b(name.encode(), digest_size=12).hexdigest() + ".sock"
