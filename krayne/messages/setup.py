"""What travels for setting krayne up: which contexts there are, and which one is used."""

import msgspec

from krayne.messages.views import WorldView


class ContextsParams(msgspec.Struct, frozen=True, kw_only=True):
    """`kubeconfig`: another file than the one used now."""

    kubeconfig: str = ""


class ContextView(msgspec.Struct, frozen=True, kw_only=True):
    """One context of a kubeconfig. `current`: kubectl's own choice; `used`: krayne's."""

    name: str
    server: str = ""
    user: str = ""
    namespace: str = ""
    current: bool = False
    used: bool = False


class ContextList(msgspec.Struct, frozen=True, kw_only=True):
    """The contexts of the files, by name."""

    files: tuple[str, ...] = ()
    contexts: tuple[ContextView, ...] = ()


class UseParams(msgspec.Struct, frozen=True, kw_only=True):
    """The kubeconfig and context from now on; empty: as before. `wait_ms`: for the outcome of the first contact."""

    kubeconfig: str = ""
    context: str = ""
    wait_ms: int = 0
    token: str = ""


class UseResult(msgspec.Struct, frozen=True, kw_only=True):
    """What is saved, and how the connection stands."""

    kubeconfig: str = ""
    context: str = ""
    settings: str = ""
    world: WorldView = WorldView()
