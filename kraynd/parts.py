"""The parts the daemon is made of, as the operations see them."""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from kraynd.changes import Changes
from kraynd.connection import Connection
from kraynd.core.bootstrap import BootstrapSettings, ServiceReport
from kraynd.core.images import ImageChoice
from kraynd.core.manifest import Owner
from kraynd.core.model import ClusterKey, ForwardKey
from kraynd.forwards import ForwardState
from kraynd.local.desired import Desired
from kraynd.local.home import Home
from kraynd.local.memory import MemoryStore
from kraynd.reconciler import Reconciler
from krayne.messages import ClientVersions


class ForwardStates(Protocol):
    """What is shown of forwards."""

    def states(self) -> Mapping[ForwardKey, ForwardState]:
        """Every forward that is on."""


class Parts(msgspec.Struct, frozen=True):
    """What the operations work on; `refresh` makes the forwards follow a change of intent at once."""

    home: Home
    memory: MemoryStore
    desired: Desired
    reconciler: Reconciler
    connection: Connection
    forwards: ForwardStates
    changes: Changes
    reports: Mapping[ClusterKey, Mapping[str, ServiceReport]]
    owner: Owner
    bootstrap: BootstrapSettings
    beside: ClientVersions
    default_image: ImageChoice
    notes: tuple[str, ...]
    ports: tuple[int, int]
    refresh: Callable[[], None]
    stop: Callable[[], None]
    restart: Callable[[], None]
