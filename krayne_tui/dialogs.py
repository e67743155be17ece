"""What is asked over the clusters: a choice, a few values, a new cluster, a typed confirmation, the help, a log.

Each is a modal screen that ends with its answer, or with None when Escape is pressed. None of them talks to the daemon.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList, RichLog, Static

from krayne.config import ClusterConfig, ConfigValidationError
from krayne_tui import view

LOG_LINES = 2000  # kept of a log that is followed
END_SECONDS = 5.0  # for `krayne logs` to end when its screen is left
ESCAPE = Binding("escape", "dismiss(None)", "back")


class Choice(ModalScreen[str | None]):
    """One of several."""

    BINDINGS: ClassVar[list[BindingType]] = [ESCAPE]

    def __init__(self, title: str, options: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._title, self._options = title, options

    def compose(self) -> ComposeResult:
        """The list."""
        with Vertical(classes="dialog"):
            yield Label(self._title, classes="title")
            yield OptionList(*(shown for _, shown in self._options), markup=False)
            yield Label("Enter: choose   Esc: back", classes="keys")

    @on(OptionList.OptionSelected)
    def chosen(self, event: OptionList.OptionSelected) -> None:
        """End with it."""
        self.dismiss(self._options[event.option_index][0])


class Values(ModalScreen[dict[str, str] | None]):
    """A few values to type. `wrong` says what is wrong with them; they are not given back before it is silent."""

    BINDINGS: ClassVar[list[BindingType]] = [ESCAPE]

    def __init__(
        self, title: str, fields: Mapping[str, str], wrong: Callable[[Mapping[str, str]], str], remark: str = ""
    ) -> None:
        super().__init__()
        self._title, self._fields, self._wrong, self._remark = title, fields, wrong, remark

    def compose(self) -> ComposeResult:
        """A line for each."""
        with Vertical(classes="dialog"):
            yield Label(self._title, classes="title", markup=False)
            if self._remark:
                yield Label(self._remark, markup=False)
            for name, value in self._fields.items():
                with Horizontal(classes="field"):
                    yield Label(name)
                    yield Input(value, name=name, compact=True)
            yield Label("", classes="wrong", markup=False)
            yield Label("Enter: do it   Tab: next   Esc: back", classes="keys")

    @on(Input.Submitted)
    def submitted(self) -> None:
        """End, when nothing is wrong."""
        values = {one.name or "": one.value for one in self.query(Input)}
        wrong = self._wrong(values)
        self.query_one(".wrong", Label).update(wrong)
        if not wrong:
            self.dismiss(values)


class NewCluster(ModalScreen[ClusterConfig | None]):
    """A cluster to declare: its values on the left, the file they make or what is wrong with them on the right."""

    BINDINGS: ClassVar[list[BindingType]] = [ESCAPE]

    def compose(self) -> ComposeResult:
        """The form."""
        values = view.defaults()
        with Vertical(classes="dialog wide"):
            yield Label("a new cluster", classes="title")
            with Horizontal(id="form"):
                with Vertical(id="fields"):
                    for field, label in view.FIELDS:
                        with Horizontal(classes="field"):
                            yield Label(label)
                            yield Input(values[field], name=field, compact=True)
                with VerticalScroll(can_focus=False):
                    yield Static(id="yaml", markup=False)
            yield Label("Enter: create   Tab: next   Esc: back", classes="keys")

    def on_mount(self) -> None:
        """Show what the defaults make."""
        self._show()

    @on(Input.Changed)
    def changed(self) -> None:
        """Show what the values make."""
        self._show()

    @on(Input.Submitted)
    def submitted(self) -> None:
        """End, when nothing is wrong."""
        try:
            self.dismiss(view.declared(self._values()))
        except ConfigValidationError:
            self._show()

    def _values(self) -> dict[str, str]:
        return {one.name or "": one.value for one in self.query(Input)}

    def _show(self) -> None:
        text, wrong = view.preview(self._values())
        shown = self.query_one("#yaml", Static)
        shown.update(wrong or text)
        shown.set_class(bool(wrong), "wrong")


class Words(ModalScreen[None]):
    """Text to read."""

    BINDINGS: ClassVar[list[BindingType]] = [ESCAPE]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        """The text."""
        with VerticalScroll(classes="dialog"):
            yield Label(self._title, classes="title")
            yield Static(self._text, markup=False)
            yield Label("Esc: back", classes="keys")


class Log(ModalScreen[None]):
    """What a command goes on saying, until the screen is left: then the command is ended."""

    BINDINGS: ClassVar[list[BindingType]] = [ESCAPE]

    def __init__(self, title: str, command: Sequence[str]) -> None:
        super().__init__()
        self._title, self._command = title, command

    def compose(self) -> ComposeResult:
        """The log."""
        with Vertical(classes="dialog wide"):
            yield Label(self._title, classes="title", markup=False)
            yield RichLog(max_lines=LOG_LINES, wrap=True)
            yield Label("Esc: back", classes="keys")

    def on_mount(self) -> None:
        """Begin."""
        self.follow()

    @work
    async def follow(self) -> None:
        """Show its lines as they come."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        assert process.stdout is not None
        log = self.query_one(RichLog)
        try:
            while data := await process.stdout.read(65_536):
                log.write(data.decode(errors="replace").rstrip("\n"))
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
