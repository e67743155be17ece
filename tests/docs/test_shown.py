"""What README and the pictures show is what the program writes; the daemon's settings shown are valid."""

import html
import re
from pathlib import Path

import pytest

from krayne import paths
from krayne.config.daemon import load_daemon_settings
from tests.docs import pictures
from tests.docs.generate import ROOT
from tests.docs.test_docs import TEXTS, blocks

SCREEN = ROOT / "tests" / "tui" / "snapshots" / "list.txt"


def text_of(name: str) -> str:
    """What a picture says, without its blanks."""
    svg = (pictures.FOLDER / name).read_text()
    assert "@font-face" not in svg
    assert "url(http" not in svg
    said = "".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    return "".join(html.unescape(said).split())


def blankless(text: str) -> str:
    return "".join(text.split())


def test_the_list_in_readme_is_the_renderers() -> None:
    assert f"{pictures.ls()}$ ssh -p 22503 " in TEXTS["README.md"]


def test_the_recorded_demo_tells_of_one_port_before_and_after() -> None:
    told = pictures.RECORDED.read_text()
    before, _, after = told.partition("killing the head's process")
    asked = re.findall(r"ray://127\.0\.0\.1:(\d+)", before), re.findall(r"ray://127\.0\.0\.1:(\d+)", after)
    assert asked[0] == asked[1] != []


@pytest.mark.parametrize(
    ("name", "shown"),
    [("ls.svg", pictures.ls()), ("healing.svg", pictures.RECORDED.read_text()), ("tui.svg", SCREEN.read_text())],
)
def test_a_picture_shows_its_text(name: str, shown: str) -> None:
    assert blankless(shown) in text_of(name), "draw it again: tests/docs/pictures.py says how"


@pytest.mark.parametrize(
    "text", [text for _, text in blocks("yaml") if re.match(r"(default_image|namespaces|prune):", text)]
)
def test_the_daemons_settings_shown_are_valid(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRAYNE_HOME", str(tmp_path))
    (Path(paths.home()) / "kraynd.yaml").write_text(text)
    assert load_daemon_settings() is not None
