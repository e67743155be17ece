"""Keeps ssh's view of the clusters true: which hosts there are, on which ports, with which host keys.

A key is believed when the head pod's own report brought it over the API server's authenticated connection, and only
for that pod: another pod's old key is forgotten as soon as the new pod is known.
"""

import os
from collections.abc import Callable, Mapping

from kraynd.core import sshconfig
from kraynd.core.bootstrap import ServiceReport
from kraynd.core.model import SSH, ClusterKey
from kraynd.core.sshconfig import Host, Known
from kraynd.local.sshfiles import SshFiles
from kraynd.parts import Parts
from kraynd.showing import Showing
from krayne import messages, paths
from krayne.errors import StateError


class SshHosts:
    """`pods` gives the uid of each cluster's head pod, as far as it is known."""

    def __init__(self, parts: Parts, showing: Showing, pods: Callable[[ClusterKey], str]) -> None:
        self._parts = parts
        self._showing = showing
        self._pods = pods
        self._files = SshFiles()
        self._keys = sshconfig.read_known_hosts(self._files.known_hosts)
        self._hosts: tuple[Host, ...] = ()

    def refresh(self) -> None:
        """Look at everything and write what changed. Quick, and never raises."""
        if not self._parts.connection.world_id:
            return
        keys = {*self._parts.reconciler.statuses, *self._parts.desired.snapshot.clusters}
        self._hosts = sshconfig.chosen(host for key in keys if (host := self._host(key)) is not None)
        # Keys of clusters that are not seen yet stay: a daemon that starts has not heard of all.
        self._keys.update(
            {sshconfig.full_alias(one.key): Known(one.host_key, one.pod, one.user) for one in self._hosts}
        )
        try:
            identity = paths.sandbox_identity()
            config = sshconfig.config_text(
                self._hosts, self._names(), paths.known_hosts_file(), identity if os.path.exists(identity) else ""
            )
        except StateError as error:
            self._files.trouble = error.message
            return
        self._files.update(known_hosts=sshconfig.known_hosts_text(self._hosts), config=config)

    def reported(self, key: ClusterKey) -> None:
        """A head pod said something: its key must be in place before anybody hears that ssh is ready."""
        if self._told(key) is not None:
            self.refresh()

    def show(self, name: str | None, namespace: str | None) -> messages.SshHosts:
        """The hosts, or the one that is meant. Raises KrayneError."""
        self.refresh()
        if self._files.trouble:
            raise StateError(self._files.trouble, hint="check the disk and the permissions of the folder")
        only = self._showing.find(name, namespace) if name else None
        names = self._names()
        return messages.SshHosts(
            config=paths.ssh_config_file(),
            known_hosts=paths.known_hosts_file(),
            text=self._files.config,
            hosts=tuple(
                messages.SshHost(
                    name=one.key.name,
                    namespace=one.key.namespace,
                    aliases=names[one.key],
                    local_port=one.port,
                    host_key=one.host_key,
                )
                for one in self._hosts
                if (only is None or one.key == only) and (name or namespace in (None, one.key.namespace))
            ),
        )

    def _names(self) -> Mapping[ClusterKey, tuple[str, ...]]:
        return sshconfig.aliases(self._hosts, self._showing.default_namespace())

    def _host(self, key: ClusterKey) -> Host | None:
        offer = next((one for one in self._showing.offers(key) if one.on and one.service == SSH), None)
        if offer is None:
            return None
        port, pod, told = self._showing.local_port(offer.key), self._pods(key), self._told(key)
        if told is not None and pod:
            return Host(key, port, told.host_key, pod, sshconfig.login_user(told.user))
        kept = self._keys.get(sshconfig.full_alias(key), Known("", ""))
        # While no head is known (a daemon that starts, an API server that is away) what was known holds.
        return Host(key, port, *kept) if kept.host_key and pod in ("", kept.pod) else Host(key, port)

    def _told(self, key: ClusterKey) -> ServiceReport | None:
        """The report of the pod of the moment, when it brings a host key."""
        report: ServiceReport | None = self._parts.reports.get(key, {}).get(SSH.name)
        return report if report is not None and sshconfig.is_host_key(report.host_key) else None
