"""The daemon: builds each part once, owns the root task group, and stops in order.

Nothing is decided here: parts are wired to each other by synchronous callbacks, and every task lives in this group.
Stopping: no new clients, streams end, the state is written, the lock is released.
"""

import logging
import os
import platform
import pwd
import signal
import socket
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import anyio
import anyio.abc
import msgspec

from kraynd.changes import Changes
from kraynd.connection import Connection, Link
from kraynd.core.manifest import Owner
from kraynd.core.model import ClusterKey, ForwardKey
from kraynd.core.pods import head_target
from kraynd.forwards import Forwards, ForwardSpec, HoldSettings
from kraynd.idling import Idling
from kraynd.kube.tunnel import TunnelSettings
from kraynd.lasting import DescriptorStore, follow_upgrades, installed
from kraynd.local import handover, system
from kraynd.local.desired import Desired
from kraynd.local.handover import Handed
from kraynd.local.home import Home, atomic_write, remove_quietly
from kraynd.local.memory import MemoryStore
from kraynd.methods import Methods
from kraynd.parts import Parts
from kraynd.reaching import Reaching
from kraynd.reconciler import Reconciler, ReconcileSettings
from kraynd.reports import Reports
from kraynd.server import Server
from kraynd.settingsfile import SettingsFile
from kraynd.setupmethods import SetupMethods
from kraynd.sshhosts import SshHosts
from kraynd.tending import Tending
from kraynd.tendmethods import TendMethods
from krayne import paths
from krayne.messages import API_OLDEST, API_VERSION, ClientVersions

log = logging.getLogger("kraynd")

SAVE_SECONDS = 1.0  # for the last words to the disk; with the server's grace a stop takes 5 s at most
SAVE_EVERY = 0.2  # seconds a newly given port may wait to be written with others


class Daemon:
    """One user's daemon. The home's lock is held by the caller."""

    def __init__(
        self, home: Home, settings: SettingsFile, *, handed: Handed | None = None, log_level: str | None = None
    ) -> None:
        self.home = home
        self.handed = handed or Handed()
        self.kept: list[tuple[str, int]] | None = None  # what our successor gets, once a restart is asked for
        self.settings = settings
        self.log_level = log_level  # the command line's, over the file's
        self.memory = MemoryStore.load()
        self.desired = Desired(home)
        self.changes = Changes(start=time.time_ns() // 1_000_000)
        self.connection = Connection(
            self.memory,
            namespaces=settings.current.namespaces,
            wanted=lambda: {key.namespace for key in self.desired.snapshot.clusters},
            tunnels=TunnelSettings(idle=settings.current.tunnel_idle_seconds),
            on_change=self._world_changed,
            on_link=self._linked,
        )
        owner = Owner(home_id=home.id, host=socket.gethostname(), user=pwd.getpwuid(os.getuid()).pw_name)
        self.reconciler = Reconciler(
            memory=self.memory,
            build=lambda declared, memory, live: self.operations.build(declared, memory, live),
            settings=ReconcileSettings(owner=owner, prune=settings.current.prune),
            on_change=self._status_changed,
        )
        self.forwards = Forwards(
            socket_dir=paths.run_dir(),
            on_change=self._forward_changed,
            inherited=self.handed.forwards,
            inherited_unix=self.handed.unix,
        )
        self._apply_settings()
        settings.attach(self._apply_settings)
        self.store = DescriptorStore(self.forwards, besides=(paths.socket_path(),))
        self.reports = Reports(self._reported)
        self._announced = False
        self._stop = anyio.Event()
        self._for_good = False
        self._stale = anyio.Event()
        self._uids: dict[ClusterKey, str] = {}
        parts = self._parts(owner)
        self.operations = Tending(parts, started=time.monotonic())
        self.ssh = SshHosts(parts, self.operations, lambda key: self._uids.get(key, ""))

    def _parts(self, owner: Owner) -> Parts:
        return Parts(
            home=self.home,
            memory=self.memory,
            desired=self.desired,
            reconciler=self.reconciler,
            connection=self.connection,
            forwards=self.forwards,
            changes=self.changes,
            reports=self.reports.latest,
            owner=owner,
            settings=self.settings,
            beside=_installed_here(),
            ports=(self.settings.at_start.ports.low, self.settings.at_start.ports.high),
            refresh=self._refresh,
            stop=self._end,
            restart=self._restart,
        )

    async def run(self) -> None:
        """Serve until told to stop. Raises StateError, SocketLostError."""
        reaching = Reaching(self.operations, lambda: self.connection.link, self.ssh)
        methods = Methods(self.operations, TendMethods(self.operations), SetupMethods(self.connection), reaching)
        self.server = self._server(methods)
        try:
            async with anyio.create_task_group() as root:
                await root.start(self._listen_to_signals)  # a SIGHUP before it would end the process
                await root.start(self.forwards.run)
                await self.desired.refresh()
                self.reconciler.declare(self.desired.snapshot)
                await root.start(self.server.run)
                self._announce()
                root.start_soon(self.desired.run, self._files_changed)
                root.start_soon(self.settings.run)
                root.start_soon(self.reconciler.run)
                root.start_soon(self.connection.run)
                root.start_soon(self.reports.run)
                root.start_soon(self._keep_forwards)
                root.start_soon(Idling(self.operations).run)
                root.start_soon(system.watch_sleep, self._woke)
                root.start_soon(system.feed_watchdog)
                root.start_soon(self.store.release_leftovers)
                root.start_soon(follow_upgrades, self._is_idle, self._restart, installed)
                await self._stop.wait()
                self.store.leave()
                system.notify("RELOADING=1" if self.kept is not None else "STOPPING=1")
                await self.server.drain()
                self.forwards.end_streams("the daemon stops")
                if self._for_good:
                    self.forwards.close()
                root.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(SAVE_SECONDS):
                await self.memory.save()
            remove_quietly(paths.daemon_file())
            log.info("stopped")

    def _server(self, methods: Methods) -> Server:
        path, given = paths.socket_path(), self.handed.control
        if given is not None and not self.handed.activated and not os.path.exists(path):
            given.close()  # nobody can reach it without its path
            given = None
        return Server(
            methods.table(),
            path=path,
            inherited=given,
            keep_path=self.handed.activated,
            wants=lambda: "path" if self.connection.lacks_plugin else "",
        )

    def _restart(self) -> None:
        """Stop in order, with the doors left open for the program this process becomes."""
        if not self._stop.is_set():
            doors = self.forwards.doors()
            found = [door for one in doors.values() for door in one]
            self.kept = handover.keep(self.server.socket, [*found, *self.forwards.unclaimed()])
            for key in doors:
                self.forwards.keep_path(key)
            self.server.keep_path = True
            self._stop.set()

    def _end(self) -> None:
        """Stop because the user says so: no path stays for a successor. After a signal nobody knows of one."""
        self._for_good = True
        self.kept = None
        self.server.keep_path = self.handed.activated
        self._stop.set()

    def _is_idle(self) -> bool:
        return not any(state.connections or state.held for state in self.forwards.states().values())

    def _tell_manager(self) -> None:
        clusters, forwards = len(self.reconciler.statuses), len(self.forwards.states())
        condition = self.connection.state.condition
        trouble = "" if condition == "ready" else f"; Kubernetes: {condition}"
        system.notify(f"STATUS={clusters} clusters, {forwards} forwards{trouble}")

    # What the parts say to each other. Synchronous, and quick.

    def _apply_settings(self) -> None:
        """What kraynd.yaml says now holds now; manifests take its images and downloads when they are made."""
        now = self.settings.current
        hold = HoldSettings(seconds=now.hold.seconds, connections=now.hold.connections)
        self.forwards.govern(hold, check_peer=now.locks.users, guard_web=now.locks.web)
        self.connection.keep_tunnels(now.tunnel_idle_seconds)
        self.reconciler.set_prune(now.prune)
        logging.getLogger().setLevel((self.log_level or now.log_level).upper())

    async def _reload(self) -> None:
        """Read everything again, and say so to the service manager (sd_notify(3)) that knows us as ready."""
        if not self._announced:
            await self.operations.reload()
            return
        system.notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            await self.operations.reload()
        finally:
            system.notify("READY=1")

    def _files_changed(self) -> None:
        self.reconciler.declare(self.desired.snapshot)
        self.connection.review()
        self._refresh()

    def _world_changed(self, key: ClusterKey | None) -> None:
        if key is not None:
            self._aim(key)
            self.reconciler.wake(key)
            return
        for one in list(self.reconciler.statuses):
            self._aim(one)
        self.reconciler.wake()
        self._refresh()

    def _linked(self, link: Link | None) -> None:
        self.reconciler.attach(None if link is None else link.world, self.connection.state.reason)
        self._uids.clear()
        self._world_changed(None)

    def _status_changed(self, key: ClusterKey) -> None:
        self._aim(key)
        self._refresh()
        self.changes.publish(key)

    def _reported(self, key: ClusterKey) -> None:
        self.ssh.reported(key)
        self.changes.publish(key)

    def _forward_changed(self, key: ForwardKey) -> None:
        self.changes.publish(key.cluster_key)
        self.store.follow((key,))

    def _woke(self, asleep: float) -> None:
        log.info("the machine slept for %.0f s: checking every connection", asleep)
        self.connection.wake()
        self.forwards.wake()
        self.desired.poke()
        self.reconciler.wake()

    def _aim(self, key: ClusterKey) -> None:
        """Point a cluster's forwards at its head pod of the moment."""
        link = self.connection.link
        if link is None:
            self.forwards.aim(key, None, None, f"no connection to Kubernetes: {self.connection.state.reason}")
            self.reports.aim(key, None, None)
            return
        target = head_target(link.world.pods_of(key), key)
        before = self._uids.get(key)
        if before is not None and (target is None or target.uid != before):
            link.pool.drop(before)
            del self._uids[key]
        if target is not None:
            self._uids[key] = target.uid
        state = self.reconciler.statuses.get(key)
        why = state.status.reason if state is not None else "the head pod is not there yet"
        running = target if target is not None and target.running else None
        self.forwards.aim(key, link.pool, running, why or "the head pod is not running yet")
        self.reports.aim(key, link.pool, target if target is not None and target.ready else None)

    def _refresh(self) -> None:
        self._stale.set()

    async def _keep_forwards(self) -> None:
        """The forwards that should be on follow what is declared, ours, and opened."""
        while True:
            await self._stale.wait()
            self._stale = anyio.Event()
            if self.connection.world_id:
                keys = {*self.reconciler.statuses, *self.desired.snapshot.clusters}
                self.forwards.want([spec for key in keys for spec in self._specs(key)])
                for key in keys:
                    self._aim(key)
                self.changes_in_ports()
                self.ssh.refresh()
                self.store.follow()
                self.store.settle()
                await self._save()
            self._tell_manager()
            await anyio.sleep(SAVE_EVERY)

    def changes_in_ports(self) -> None:
        """Tell watchers once more of clusters whose ports were only now given."""
        if self.memory.dirty:
            for key in self.reconciler.statuses:
                self.changes.publish(key)

    async def _save(self) -> None:
        try:
            await self.memory.save()
        except OSError as error:
            log.warning("the state file cannot be written: %s", error)

    def _specs(self, key: ClusterKey) -> list[ForwardSpec]:
        return [
            ForwardSpec(
                offer.key, offer.service.remote_port, self.operations.local_port(offer.key), offer.service.scheme
            )
            for offer in self.operations.offers(key)
            if offer.on
        ]

    async def _listen_to_signals(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """The first SIGTERM or SIGINT stops in order, a second one at once; SIGHUP reads everything again."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    await self._reload()
                    continue
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                log.info("%s: stopping", signal.Signals(number).name)
                self._stop.set()

    def _announce(self) -> None:
        """Tell the service manager and write daemon.json: who serves this home."""
        about: Mapping[str, object] = {
            "pid": self.home.pid,
            "started": time.time(),
            "socket": paths.socket_path(),
            "version": version("kraynd"),
            "api": [API_OLDEST, API_VERSION],
            "executable": sys.executable,
            "host": platform.node(),
        }
        atomic_write(paths.daemon_file(), msgspec.json.encode(about) + b"\n")
        if self.server.socket is not None and not self.handed.activated:
            self.server.keep_path |= self.store.put_control(self.server.socket)
        system.notify("READY=1")
        self._announced = True
        self._tell_manager()
        log.info("serving %s on %s", self.home.path, paths.socket_path())


def _installed_here() -> ClientVersions:
    """The Ray and the Python beside the daemon, found without importing Ray."""
    try:
        ray = version("ray")
    except PackageNotFoundError:
        ray = None
    return ClientVersions(ray=ray, python=platform.python_version(), client="")
