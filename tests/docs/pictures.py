"""Draws the pictures of docs/pictures: `python -m tests.docs.pictures` (the screen: see tests/tui/test_app.py).

`ls` is what the renderer writes; the healing forward is what one run of `make demo` printed (recorded/). No picture
asks the net for a font.
"""

import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from kraynd.core.render import Context, clusters
from kraynd.core.text import Ink
from krayne.messages import READY, ClusterView, ServiceView, Workers

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "docs" / "pictures"
RECORDED = HERE / "recorded" / "healing.txt"
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
PORTS = {
    "ssh": (22, 22503),
    "notebook": (8888, 17188),
    "code-server": (8443, 22389),
    "dashboard": (8265, 24451),
    "client": (10001, 15952),
}
# The cluster that README shows.
SHOWN = ClusterView(
    name="demo",
    namespace="default",
    phase="ready",
    reason="head ready, no workers wanted",
    declared=True,
    workers=Workers(),
    services=tuple(
        ServiceView(name=name, remote_port=remote, local_port=local, url="", state=READY)
        for name, (remote, local) in PORTS.items()
    ),
)


def main() -> None:
    """Draw both."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "ls.svg").write_text(drawn("ls", ls(color=True)))
    (FOLDER / "healing.svg").write_text(drawn("healing", RECORDED.read_text()))


def ls(*, color: bool = False) -> str:
    """The command and what it prints."""
    return "$ krayne ls\n" + clusters([SHOWN], "table", Context(Ink(color), 0.0, namespace="default")).out


def drawn(name: str, text: str) -> str:
    """A terminal that shows this text."""
    told = Text.from_ansi(text)
    wide = max(line.cell_len for line in told.split())
    console = Console(record=True, width=wide, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(told, soft_wrap=True)
    return without_fonts(console.export_svg(title="krayne", unique_id=name))


def without_fonts(svg: str) -> str:
    """The picture with the reader's own monospace font. No blanks at the ends of lines."""
    return "\n".join(line.rstrip() for line in FONTS.sub("", svg).splitlines()) + "\n"


if __name__ == "__main__":
    main()
