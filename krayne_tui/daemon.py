"""What the screen asks the daemon beyond the SDK's functions. Each call has a connection of its own."""

import sys
from typing import Any

from krayne.api.aio.calling import carry_out
from krayne.api.asking import Ask, Plan
from krayne_client.connection import new_token
from krayne_tui.view import Key

Json = dict[str, Any]


def _asked(ask: Ask) -> Plan[Json]:
    answer: Json = yield ask
    return answer


async def details(key: Key) -> Json:
    """Everything known of a cluster, its forwards' counters and its services' reports among it."""
    return await carry_out(_asked(Ask("cluster.get", {"namespace": key[0], "name": key[1]}, again=True)))


async def set_running(key: Key, running: bool) -> None:
    """Resume or suspend a cluster."""
    method = "cluster.resume" if running else "cluster.suspend"
    await carry_out(_asked(Ask(method, {"namespace": key[0], "name": key[1], "token": new_token()})))


def command(verb: str, key: Key, *options: str) -> list[str]:
    """`krayne VERB NAME` of this very installation, to be run as a process."""
    code = "import sys; from krayne_client.main import main; sys.exit(main())"
    return [sys.executable, "-c", code, verb, key[1], "-n", key[0], *options]
