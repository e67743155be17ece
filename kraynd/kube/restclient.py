"""kubernetes_asyncio's REST client, without the 700 models its package imports beside it.

They cost 35 MiB and a quarter of a second in every daemon, which uses none. Whoever imports the package later gets it
whole: nothing bare stays behind.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubernetes_asyncio.client.rest import RESTClientObject

__all__ = ["RESTClientObject"]

_PACKAGES = ("kubernetes_asyncio", "kubernetes_asyncio.client")


def _bare(name: str) -> None:
    """Put a package that runs no code of its own where its modules look for it."""
    found = find_spec(name)
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = found.submodule_search_locations
    sys.modules[name] = module_from_spec(spec)


def _load() -> type:
    if any(name in sys.modules for name in _PACKAGES):
        return importlib.import_module("kubernetes_asyncio.client.rest").RESTClientObject  # type: ignore[no-any-return]
    before = set(sys.modules)
    try:
        for name in _PACKAGES:
            _bare(name)
        made: type = importlib.import_module("kubernetes_asyncio.client.rest").RESTClientObject
    finally:
        for name in {name for name in sys.modules if name.split(".")[0] == _PACKAGES[0]} - before:
            del sys.modules[name]
    return made


if not TYPE_CHECKING:
    RESTClientObject = _load()
