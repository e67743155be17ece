"""The parts the daemon is made of, as the operations see them."""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from kraynd.changes import Changes
from kraynd.connection import Connection
from kraynd.core.bootstrap import BootstrapSettings, ServiceReport
from kraynd.core.images import DEFAULT_IMAGE, ImageChoice, ray_version_of
from kraynd.core.manifest import Owner
from kraynd.core.model import ClusterKey, ForwardKey
from kraynd.forwards import ForwardState
from kraynd.local.desired import Desired
from kraynd.local.home import Home
from kraynd.local.memory import MemoryStore
from kraynd.reconciler import Reconciler
from kraynd.settingsfile import SettingsFile
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
    settings: SettingsFile
    beside: ClientVersions
    ports: tuple[int, int]
    refresh: Callable[[], None]
    stop: Callable[[], None]
    restart: Callable[[], None]

    @property
    def bootstrap(self) -> BootstrapSettings:
        """What the heads' services are installed from, for manifests made now."""
        return BootstrapSettings(**self.settings.current.bootstrap.model_dump(exclude_none=True))

    @property
    def default_image(self) -> ImageChoice:
        """The image of clusters that name none, for manifests made now."""
        named = self.settings.current.default_image
        if named is None:
            return DEFAULT_IMAGE
        return ImageChoice(named, ray_version_of(named) or DEFAULT_IMAGE.ray_version, "default")
