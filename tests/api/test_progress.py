"""Progress in a notebook: one table that is updated, through IPython's display as its kernel offers it."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from krayne.api import aio
from krayne.config import ClusterConfig
from tests.api.conftest import House

pytestmark = pytest.mark.anyio


def kernel(shown: list[Any], *, notebook: bool) -> ModuleType:
    """IPython as far as it is used: its shell, and displays with a handle."""

    def display(value: Any, *, display_id: bool) -> Any:
        shown.append(("display", value))
        return SimpleNamespace(update=lambda value: shown.append(("update", value)))

    ipython: Any = ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object()) if notebook else SimpleNamespace()
    ipython.display = SimpleNamespace(display=display)
    return ipython  # type: ignore[no-any-return]


async def test_one_table_is_updated_until_it_is_ready(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setitem(sys.modules, "IPython", kernel(shown, notebook=True))
    await aio.create_cluster(ClusterConfig(name="train"))
    assert shown == []
    await aio.create_cluster(ClusterConfig(name="third"), wait=True)
    assert [how for how, _ in shown] == ["display"] + ["update"] * (len(shown) - 1)
    assert shown[-1][1].status == "ready"
    assert "third" in shown[-1][1]._repr_html_()


async def test_ipython_on_a_terminal_is_no_notebook(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setitem(sys.modules, "IPython", kernel(shown, notebook=False))
    await aio.wait_until_ready("demo")
    assert shown == []
