"""What it costs to have 250 forwards open that nobody uses."""

import time

from tests.bench import measure
from tests.bench.lab import Lab, kubectl_forward
from tests.bench.table import fact
from tests.cluster.using import until

CLUSTERS = 10
FORWARDS = 250
WATCHED = 100.0  # seconds over which CPU is counted
SETTLE = 105.0  # after a minute without a change the daemon looks at its folder less often, and asks pods hardly at all


def idle(lab: Lab, _rounds: int) -> None:
    """Ten clusters with 25 forwards each, in one daemon."""
    names = [f"idle-{number}" for number in range(CLUSTERS)]
    for name in names:
        lab.krayne("create", name, "-n", "default")
    for name in names:
        lab.krayne("wait", name, "--timeout", "120s")
        opened = len(lab.krayne.cluster(name)["services"])
        wanted = [str(20000 + number) for number in range(FORWARDS // CLUSTERS - opened)]
        lab.krayne("tun-open", name, *wanted)

    def all_open() -> bool:
        rows = [one for one in lab.krayne.clusters("-A") if one["name"] in names]
        ready = [one for row in rows for one in row["services"] if one["state"] == "ready"]
        return len(ready) >= FORWARDS

    until("all forwards", all_open)
    time.sleep(SETTLE)
    pid = lab.krayne("status", "-o", "json").json()["pid"]
    before = measure.cpu_seconds(pid)
    time.sleep(WATCHED)
    share = (measure.cpu_seconds(pid) - before) / WATCHED * 100
    with kubectl_forward(lab) as kubectl:
        each = measure.resident(kubectl.pid)
    fact(
        f"memory with {FORWARDS} idle forwards (kubectl: {CLUSTERS} pods)",
        measure.resident(pid),
        CLUSTERS * each,
        "MiB",
        110,
    )
    fact(f"CPU with {FORWARDS} idle forwards", share, None, "%", 0.2)
    for name in names:
        lab.krayne("delete", name, "--yes", code=None)
