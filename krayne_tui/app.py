"""The screen of `krayne tui`: the clusters as the daemon's watch tells them, the chosen one below, keys to act.

Never polls and never blocks: what waits is a worker. Invariant: the table has exactly the clusters of `known` that the
filter lets through; a change touches only the cells that differ.
"""

import asyncio
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Awaitable
from contextlib import aclosing
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult, SuspendNotSupported
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Input, Static
from textual.widgets.data_table import RowDoesNotExist

from krayne.api import ClusterEvent, ClusterInfo, aio
from krayne.errors import KrayneError
from krayne_tui import daemon, keys, view
from krayne_tui.dialogs import Choice, Log, NewCluster, Values, Words
from krayne_tui.view import Key

AGAIN_SECONDS = 2.0  # between attempts to start a daemon that does not start
ALL = " "  # the choice of every namespace; no namespace is called so
STYLE = """
#title { height: 1; background: $primary; color: $text; }
#banner { height: 1; background: $error; color: $text; display: none; }
#filter { display: none; }
DataTable { height: 1fr; }
#pane { height: 9; border-top: solid $primary; }
#keys { height: 2; background: $panel; }
ModalScreen { align: center middle; }
.dialog { width: 64; height: auto; max-height: 100%; padding: 0 1; border: solid $primary; background: $surface; }
.wide { width: 100%; height: 100%; }
.title { text-style: bold; }
.keys { color: $text-muted; }
.wrong { color: $error; }
.field { height: 1; }
.field Label { width: 15; }
.field Input { width: 1fr; }
#form { height: 1fr; }
#fields { width: 34; margin-right: 1; }
"""


class Screen(App[None]):
    """The application."""

    CSS = STYLE
    BINDINGS: ClassVar[list[BindingType]] = list(keys.BINDINGS)
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, namespace: str = "") -> None:
        super().__init__()
        self.namespace = namespace
        self.words = ""
        self.known: dict[Key, ClusterInfo] = {}
        self.cells: dict[Key, tuple[Text, ...]] = {}
        self._synced = False

    def compose(self) -> ComposeResult:
        """Title, table, pane, keys."""
        yield Static(id="title", markup=False)
        yield Static(id="banner", markup=False)
        yield Input(id="filter", placeholder="words of a cluster's name, namespace or phase", compact=True)
        yield DataTable(cursor_type="row", zebra_stripes=False)
        with VerticalScroll(id="pane", can_focus=False):
            yield Static(id="detail", markup=False)
        yield Static(keys.bar(), id="keys", markup=False)

    def on_mount(self) -> None:
        """Begin the watch."""
        self.table.add_columns(*((name, name) for name in view.COLUMNS))
        self.table.focus()
        self._head()
        self.watch_clusters()

    @property
    def table(self) -> "DataTable[Text]":
        """The clusters shown."""
        return self.screen_stack[0].query_one(DataTable)

    @property
    def chosen(self) -> Key | None:
        """The cluster under the cursor."""
        if not self.table.is_valid_row_index(self.table.cursor_row):
            return None
        return _key(self.table.coordinate_to_cell_key(self.table.cursor_coordinate).row_key.value)

    # What the daemon tells.

    @work(group="watch")
    async def watch_clusters(self) -> None:
        """Apply every change; say so while there is no daemon."""
        while True:
            try:
                async with aclosing(aio.watch(lost=self._lost)) as events:
                    async for event in events:
                        self._take(event)
            except KrayneError as error:
                self._lost(error.message)
                await asyncio.sleep(AGAIN_SECONDS)

    def _lost(self, why: str = "") -> None:
        banner = self._part("#banner")
        banner.update("daemon unreachable, reconnecting" + (f": {why}" if why else ""))
        banner.display = True

    def _take(self, event: ClusterEvent) -> None:
        self._part("#banner").display = False
        key = (event.namespace, event.name)
        if event.kind == "synced":
            self._synced = True
            self._fill()
            return
        if event.cluster is None:
            self.known.pop(key, None)
        else:
            self.known[key] = event.cluster
        if self._synced:
            self._place(key)
            self._head()
            self._say_nothing_is_here()
            if key == self.chosen:
                self.show_details(key)

    def _say_nothing_is_here(self) -> None:
        if not self.cells:
            self._part("#detail").update("no cluster here: c creates one" if not self.known else "none matches")

    def _place(self, key: Key) -> None:
        info = self.known.get(key)
        wanted = view.row(info) if info and view.is_shown(info, self.words, self.namespace) else None
        before = self.cells.get(key)
        if wanted is None:
            if before is not None:
                del self.cells[key]
                self.table.remove_row(_row(key))
        elif before is None:
            chosen = self.chosen
            self.cells[key] = wanted
            self.table.add_row(*wanted, key=_row(key))
            self.table.sort("NAMESPACE", "NAME", key=_plain)
            self._choose(chosen)
        else:
            self.cells[key] = wanted
            for name, old, new in zip(view.COLUMNS, before, wanted, strict=True):
                if old != new:
                    self.table.update_cell(_row(key), name, new, update_width=True)

    def _fill(self) -> None:
        """The whole table anew: at the beginning, after a restart, for another filter."""
        chosen = self.chosen
        self.table.clear()
        self.cells = {
            key: view.row(info)
            for key, info in sorted(self.known.items())
            if view.is_shown(info, self.words, self.namespace)
        }
        for key, cells in self.cells.items():
            self.table.add_row(*cells, key=_row(key))
        self._choose(chosen)
        self._head()
        self._say_nothing_is_here()

    def _choose(self, key: Key | None) -> None:
        if key is None:
            return
        try:
            self.table.move_cursor(row=self.table.get_row_index(_row(key)))
        except RowDoesNotExist:
            return  # deleted or filtered away: the cursor stays where it is

    def _head(self) -> None:
        self._part("#title").update(view.heading(len(self.known), len(self.cells), self.words, self.namespace))

    def _part(self, name: str) -> Static:
        return self.screen_stack[0].query_one(name, Static)

    @on(DataTable.RowHighlighted)
    def highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the cluster under the cursor."""
        if event.row_key.value is not None:
            self.show_details(_key(event.row_key.value))

    @work(group="details", exclusive=True)
    async def show_details(self, key: Key) -> None:
        """Ask for everything known of a cluster; a newer question ends this one."""
        try:
            text = view.detail(await daemon.details(key))
        except KrayneError as error:
            text = error.message
        if key == self.chosen:
            self._part("#detail").update(text)

    # What is pressed.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002 - Textual's
        """Over a dialog only its own keys act."""
        own = {name for _, name, _, _ in keys.KEYS}
        return not (action in own and len(self.screen_stack) > 1)

    def action_filter(self) -> None:
        """Type words; the table follows."""
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    @on(Input.Changed, "#filter")
    def filtered(self, event: Input.Changed) -> None:
        """Show what matches."""
        self.words = event.value
        self._fill()

    @on(Input.Submitted, "#filter")
    def filter_kept(self) -> None:
        """Back to the table."""
        self.query_one("#filter", Input).display = False
        self.table.focus()

    def key_escape(self) -> None:
        """End the filter."""
        if len(self.screen_stack) == 1:
            self.query_one("#filter", Input).value = ""
            self.filter_kept()

    def action_refresh(self) -> None:
        """Ask again for what the pane shows."""
        if self.chosen:
            self.show_details(self.chosen)

    def action_help(self) -> None:
        """Every key with what it does."""
        self.push_screen(Words("keys", keys.help_text()))

    @work(group="dialog", exclusive=True)
    async def action_namespace(self) -> None:
        """Choose what is shown."""
        names = sorted({namespace for namespace, _ in self.known})
        options = [(ALL, "all namespaces"), *((name, name) for name in names)]
        found = await self.push_screen_wait(Choice("show the clusters of", options))
        if found is not None:
            self.namespace = found.strip()
            self._fill()

    @work(group="dialog", exclusive=True)
    async def action_create(self) -> None:
        """A form, then a new cluster."""
        config = await self.push_screen_wait(NewCluster())
        if config is not None:
            await self._do(aio.create_cluster(config), f"{config.name} is declared")

    @work(group="dialog", exclusive=True)
    async def action_scale(self) -> None:
        """A worker group's new count."""
        key = self.chosen
        found = await self._ask(key)
        if key is None or found is None:
            return
        groups = {one["name"]: one["desired"] for one in found["groups"]}
        first = next(iter(groups), "worker")
        fields = {"group": first, "workers": str(groups.get(first, 0))}

        def wrong(values: Any) -> str:
            if values["group"] not in groups:
                return f"there is no group {values['group']}: {', '.join(groups)}"
            return "" if values["workers"].isascii() and values["workers"].isdigit() else "workers: a whole number"

        values = await self.push_screen_wait(Values(f"scale {key[1]}", fields, wrong))
        if values is not None:
            scaled = aio.scale_cluster(key[1], key[0], values["group"], int(values["workers"]))
            await self._do(scaled, f"{key[1]} is scaled")

    @work(group="act")
    async def action_pause(self) -> None:
        """Suspend, or resume."""
        key = self.chosen
        if key is not None:
            running = self.known[key].status == "suspended"
            await self._do(daemon.set_running(key, running), f"{key[1]} is {'resumed' if running else 'suspended'}")

    @work(group="dialog", exclusive=True)
    async def action_browse(self) -> None:
        """A service's page in the browser."""
        details = await self._ask(self.chosen)
        found = view.pages(details) if details else []
        if not found:
            self.notify("no service here has a page", severity="warning")
            return
        url = found[0][1]
        if len(found) > 1:
            options = [(page, f"{name}  {page}") for name, page in found]
            answer: str | None = await self.push_screen_wait(Choice("open", options))
            url = answer or ""
        if url and not await asyncio.to_thread(webbrowser.open, url):
            self.notify(f"no browser here: {url}", severity="warning")

    @work(group="dialog", exclusive=True)
    async def action_delete(self) -> None:
        """Ask for the name, then delete."""
        key = self.chosen
        if key is None:
            return
        values = await self.push_screen_wait(
            Values(
                f"delete {key[1]} in {key[0]}?",
                {"name": ""},
                lambda typed: "" if typed["name"] == key[1] else f"type {key[1]} to delete it",
                "Its pods and its declaration go. Type its name.",
            )
        )
        if values is not None:
            await self._do(aio.delete_cluster(key[1], key[0]), f"{key[1]} is being deleted")

    def action_logs(self) -> None:
        """The head's log, followed."""
        if self.chosen:
            self.push_screen(
                Log(f"log of {self.chosen[1]}", daemon.command("logs", self.chosen, "-f", "--tail", "200"))
            )

    def action_ssh(self) -> None:
        """A shell in the cluster, then back."""
        if self.chosen is None:
            return
        try:
            with self.suspend():
                _on_terminal(daemon.command("ssh", self.chosen))
        except SuspendNotSupported:
            self.notify("ssh needs a terminal", severity="warning")
        self.refresh()

    async def _ask(self, key: Key | None) -> dict[str, Any] | None:
        if key is None:
            return None
        try:
            return await daemon.details(key)
        except KrayneError as error:
            self.notify(error.message, severity="error", markup=False)
            return None

    async def _do(self, work: Awaitable[object], done: str) -> None:
        try:
            await work
        except KrayneError as error:
            self.notify(f"{error.message}\n{error.hint}", severity="error", markup=False)
        else:
            self.notify(done, markup=False)


def _on_terminal(command: list[str]) -> None:
    """Give the terminal to a command until it ends."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # ^C is the command's; an ignored one would be inherited
    try:
        code = subprocess.call(command)  # noqa: S603 - our own command
        if code:  # what it said would be gone with the screen's return
            print(f"ssh ended with code {code}; Enter goes back ", end="", flush=True)
            sys.stdin.readline()
    finally:
        signal.signal(signal.SIGINT, before)


def _row(key: Key) -> str:
    return "/".join(key)


def _key(row: str | None) -> Key:
    namespace, _, name = (row or "").partition("/")
    return namespace, name


def _plain(cells: Any) -> tuple[str, ...]:
    return tuple(one.plain for one in cells)


def run(namespace: str) -> None:
    """Show the screen until it is left."""
    Screen(namespace).run()
