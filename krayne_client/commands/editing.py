"""`krayne edit`: a cluster's file in the user's editor, checked before it is saved. Never loses what was typed."""

import argparse
import os
import sys

from krayne.errors import KrayneError, UsageError
from krayne_client import words
from krayne_client.asking import change, reach, show
from krayne_client.grammar import Grammar

SAYS = "#! "  # lines of ours in the editor; taken out again
AGAIN = ("config-invalid", "usage")  # mistakes to be mended in the editor


def add(grammar: Grammar) -> None:
    """What can be typed."""
    grammar.on_cluster(
        "edit", edit, "change a cluster's file in your editor", "edit demo", "EDITOR='code --wait' krayne edit demo"
    ).epilog = (
        "examples:\n  krayne edit demo\n  EDITOR='code --wait' krayne edit demo\n\n"
        "A file with a mistake is not saved: the editor opens again with the mistake on top."
    )


def edit(options: argparse.Namespace) -> int:
    """`krayne edit`."""
    import shlex
    import tempfile

    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with reach(options) as daemon:
        found = daemon.call("cluster.source", {"name": options.name, "namespace": options.namespace})
    options.namespace = found["namespace"]
    descriptor, path = tempfile.mkstemp(prefix=f"krayne-{options.name}-", suffix=".yaml")
    with os.fdopen(descriptor, "wb") as file:
        file.write(found["text"].encode())
    return _until_right(options, editor, path, found["text"])


def _until_right(options: argparse.Namespace, editor: list[str], path: str, was: str) -> int:
    refused = ""
    while True:
        text = _edited(editor, path)
        if text in (was, refused):
            if refused:
                raise KrayneError(f"nothing is saved; your text is in {path}", hint=f"krayne edit {options.name}")
            os.unlink(path)
            words.aside(f"{options.name} is unchanged")
            return 0
        try:
            view = change(options, "cluster.edit", text=text, was=was)
        except KrayneError as error:
            people = sys.stdin.isatty() and sys.stdout.isatty()
            if not (people and error.kind in AGAIN):
                kept = f"{error.message}\nnothing is saved; your text is in {path}"
                raise type(error)(kept, hint=error.hint, kind=error.kind) from error
            refused = text
            _write(path, "".join(f"{SAYS}{line}\n" for line in error.message.splitlines()) + text)
            continue
        os.unlink(path)
        return show(options, view, "is changed")


def _edited(editor: list[str], path: str) -> str:
    """The text after the editor has ended, without our lines. Raises UsageError, KrayneError."""
    import subprocess

    try:
        ended = subprocess.run([*editor, path], check=False)  # noqa: S603 - the user's own editor
    except OSError as error:
        os.unlink(path)
        raise UsageError(f"the editor {editor[0]} cannot be run: {error.strerror}", hint="set EDITOR") from error
    if ended.returncode:
        raise KrayneError(f"the editor ended with {ended.returncode}; nothing is saved, your text is in {path}")
    text = words.read_text(path)
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(SAYS))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
