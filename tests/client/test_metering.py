"""`krayne metrics` as a process, over the socket."""

import json

import pytest

from tests.client.test_cli import Shell

pytestmark = pytest.mark.anyio
TEXT = "# HELP krayne_clusters Clusters known.\n# TYPE krayne_clusters gauge\nkrayne_clusters 1\n"


async def test_metrics_are_printed_as_they_are(shell: Shell) -> None:
    assert await shell.run("metrics") == (0, TEXT, "")
    assert json.loads((await shell.run("metrics -o json"))[1]) == {"text": TEXT}


async def test_without_a_daemon(alone: Shell) -> None:
    assert (await alone.run("metrics --no-start"))[0] == 3
