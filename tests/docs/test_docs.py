"""The documentation is true of the code where a machine can tell: pages, commands, links, error kinds, shown output."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from krayne import config, errors
from krayne.openrpc import ERROR_KINDS
from krayne_client import cli
from krayne_client.grammar import before_dashes
from tests.docs.generate import FOLDER, ROOT, pages

SITE = ROOT / "docs"
PAGES = sorted(SITE.rglob("*.md"))
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in (ROOT / "README.md", *PAGES)}
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(krayne [^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(kind: str) -> list[tuple[str, str]]:
    """The fenced blocks of one language, each with its page."""
    return [(page, text) for page, body in TEXTS.items() for language, text in FENCED.findall(body) if language == kind]


def typed() -> list[tuple[str, str]]:
    """Every krayne command that a reader may type, with its page."""
    shown = [
        (page, line) for page, text in blocks("sh") for line in text.splitlines() if re.match(r"krayne\b(?!-)", line)
    ]
    shown += [(page, line[2:]) for page, text in blocks("console") for line in text.splitlines() if line[:2] == "$ "]
    return [(page, line.partition(" #")[0]) for page, line in shown if line.startswith("krayne ")]


@pytest.mark.parametrize("name", pages())
def test_a_generated_page_is_fresh(name: str) -> None:
    assert (FOLDER / name).read_text() == pages()[name], "make it again: python -m tests.docs.generate"


def test_commands_are_shown_at_all() -> None:
    assert len(typed()) > 50


@pytest.mark.parametrize(("page", "line"), typed())
def test_a_shown_command_can_be_typed(page: str, line: str) -> None:
    before, behind = before_dashes(shlex.split(line)[1:])
    options = cli.parser().parse_args(before)
    assert behind is None or hasattr(options, "command")


def test_a_command_in_a_sentence_begins_with_a_verb_of_ours() -> None:
    actions = cli.parser()._subparsers
    assert actions is not None
    verbs = next(one for one in actions._group_actions if isinstance(one, argparse._SubParsersAction)).choices
    named = {text.split()[1] for body in TEXTS.values() for text in INLINE.findall(body)} - {"COMMAND"}
    assert {one for one in named if one[0] not in "-."} <= set(verbs)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as both mkdocs and GitHub make the simple ones."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", one).strip().lower()) for one in heads}


@pytest.mark.parametrize("page", TEXTS)
def test_relative_links_resolve(page: str) -> None:
    for link in LINK.findall(TEXTS[page]):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {page.relative_to(SITE).as_posix() for page in PAGES}


def test_each_error_kind_has_its_mend_and_its_exit_code() -> None:
    text = TEXTS["docs/troubles.md"]
    sections = dict(re.findall(r"^### `([a-z-]+)`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert sorted(sections) == sorted(ERROR_KINDS)
    ours = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.KrayneError)]
    codes = {one.kind: one.exit_code for one in ours}
    assert set(codes) <= set(ERROR_KINDS)
    for kind, says in sections.items():
        assert f"Exit code {codes.get(kind, errors.KrayneError.exit_code)}." in says, kind
        assert len(says.partition("\nMend: ")[2].strip()) > 10, kind


def test_the_cluster_files_shown_are_valid(tmp_path: Path) -> None:
    files = [text for _, text in blocks("yaml") if text.startswith("name: ")]
    assert len(files) >= 3
    for text in files:
        (tmp_path / "shown.yaml").write_text(text)
        config.load_config_from_yaml(tmp_path / "shown.yaml")


def test_the_services_shown_alone_are_valid(tmp_path: Path) -> None:
    for _, text in blocks("yaml"):
        if text.startswith("services:"):
            (tmp_path / "shown.yaml").write_text("name: demo\n" + text)
            config.load_config_from_yaml(tmp_path / "shown.yaml")
