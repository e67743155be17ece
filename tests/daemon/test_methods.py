"""The methods as a client meets them: what they answer, when waiting ends, what is rendered."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import yaml

from kraynd.core.model import ClusterKey
from krayne.messages import (
    FAILED,
    HOLDING,
    PORT_TAKEN,
    READY,
    FileProblemView,
    ForwardView,
    ServiceView,
    WorldView,
)
from krayne.openrpc import METHODS, document
from tests.daemon.backend import Client, MemoryBackend, client, methods, serving, some_cluster, some_services

pytestmark = pytest.mark.anyio

DEMO = ClusterKey("default", "demo")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def backend() -> MemoryBackend:
    return MemoryBackend(some_cluster())


@pytest.fixture
async def path(tmp_path: Path, backend: MemoryBackend) -> AsyncIterator[Path]:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    async with serving(backend, folder / "s"):
        yield folder / "s"


@pytest.fixture
async def daemon(path: Path) -> AsyncIterator[Client]:
    async with client(path) as one:
        yield one


async def rendered(path: Path, **params: Any) -> tuple[dict[str, Any], str, str]:
    async with client(path) as one:
        head = await one.call("view.render", params)
        if "exit" not in head:
            return head, "", ""
        data = one.data
        while len(data) < head["stdout"] + head["stderr"]:
            data += await one.stream.receive()
        with pytest.raises(anyio.EndOfStream):
            await one.stream.receive()
        return head, data[: head["stdout"]].decode(), data[head["stdout"] :].decode()


def test_every_method_of_the_table_is_served() -> None:
    table = methods(MemoryBackend()).table()
    assert set(table) == {spec.name for spec in METHODS}


async def test_discover_is_the_document(daemon: Client) -> None:
    assert await daemon.call("rpc.discover") == msgspec.json.decode(msgspec.json.encode(document()))


async def test_hello_and_status(daemon: Client) -> None:
    hello = await daemon.call("daemon.hello")
    assert (hello["pid"], hello["api"], hello["api_oldest"]) == (os.getpid(), 1, 1)
    status = await daemon.call("daemon.status")
    assert status["world"]["condition"] == "ready"


async def test_list_shows_declared_ones_and_the_own_namespace(daemon: Client, backend: MemoryBackend) -> None:
    backend.put(some_cluster("mine", "team"))
    backend.put(some_cluster("theirs", "team", declared=False))
    backend.put(some_cluster("near", "default", declared=False))

    async def names(**params: Any) -> list[str]:
        return [one["name"] for one in (await daemon.call("cluster.list", params))["clusters"]]

    assert await names() == ["demo", "near", "mine"]
    assert await names(namespace="team") == ["mine", "theirs"]
    assert await names(all_namespaces=True) == ["demo", "near", "mine", "theirs"]
    assert await names(name="theirs") == ["theirs"]


async def test_promised_keys(daemon: Client) -> None:
    (view,) = (await daemon.call("cluster.list"))["clusters"]
    assert {"name", "namespace", "phase", "reason", "declared", "workers", "services"} <= set(view)
    assert set(view["workers"]) == {"ready", "desired", "min", "max"}
    assert {"name", "remote_port", "local_port", "url", "state"} <= set(view["services"][0])


async def test_unknown_cluster(daemon: Client) -> None:
    fault = await daemon.call("cluster.get", {"name": "nope"})
    assert (fault["code"], fault["data"]["kind"], fault["data"]["hint"]) == (4, "cluster-not-found", "krayne ls -A")


async def test_create_reads_text_overrides_and_client(daemon: Client, backend: MemoryBackend) -> None:
    params = {
        "name": "new",
        "text": "name: other\nhead: {cpus: '2'}\n",
        "set": {"worker_groups.0.replicas": 3, "head.memory": "8Gi"},
        "client": {"ray": "2.52.0", "python": "3.11.7", "client": "0.1.0"},
    }
    created = await daemon.call("cluster.create", params)
    assert created["cluster"]["phase"] == "pending"
    ((_, key, config, versions),) = backend.log
    assert (key, config.head.cpus, config.head.memory) == ("default/new", "2", "8Gi")
    assert config.worker_groups[0].replicas == 3
    assert versions.ray == "2.52.0"


async def test_create_says_what_is_wrong_and_where(daemon: Client, backend: MemoryBackend) -> None:
    fault = await daemon.call("cluster.create", {"name": "x", "text": "name: x\nheda: {}\n", "source": "x.yaml"})
    assert fault["data"]["kind"] == "config-invalid"
    assert "x.yaml" in fault["message"]
    assert backend.log == []


async def test_dry_run_changes_nothing(daemon: Client, backend: MemoryBackend) -> None:
    created = await daemon.call("cluster.create", {"name": "x", "dry_run": True})
    assert yaml.safe_load(created["text"]) == created["manifest"]
    assert created["manifest"]["metadata"]["name"] == "x"
    assert backend.log == []


async def test_a_repeated_token_does_it_once(path: Path, backend: MemoryBackend) -> None:
    gate = backend.hold("create")
    params = {"name": "once", "token": "t1"}
    async with client(path) as first, client(path) as second:
        await first.send({"jsonrpc": "2.0", "id": 1, "method": "cluster.create", "params": params})
        await backend.entered["create"].wait()
        await second.send({"jsonrpc": "2.0", "id": 1, "method": "cluster.create", "params": params})
        gate.set()
        answers = [await first.line(), await second.line()]
        third = await second.call("cluster.create", params, call_id=2)
        other = await second.call("cluster.create", {"name": "twice", "token": "t1"}, call_id=3)
    assert answers[0]["result"] == answers[1]["result"] == third
    assert len(backend.log) == 1
    assert other["data"]["kind"] == "usage"


async def test_a_failed_call_may_be_repeated_with_its_token(daemon: Client, backend: MemoryBackend) -> None:
    params = {"name": "demo", "token": "t2"}
    assert (await daemon.call("cluster.create", params))["data"]["kind"] == "cluster-exists"
    backend.remove(DEMO)
    assert (await daemon.call("cluster.create", params))["cluster"]["name"] == "demo"


async def test_apply_is_all_or_nothing(daemon: Client, backend: MemoryBackend) -> None:
    good = {"source": "a.yaml", "text": "name: a\n"}
    fault = await daemon.call("cluster.apply", {"files": [good, {"source": "b.yaml", "text": "nam: b\n"}]})
    assert "b.yaml" in fault["message"]
    twice = await daemon.call("cluster.apply", {"files": [good, {"source": "c.yaml", "text": "name: a\n"}]})
    assert "both declare" in twice["message"]
    assert backend.log == []
    demo = {"source": "d.yaml", "text": "name: demo\n"}
    dry = await daemon.call("cluster.apply", {"files": [good, demo], "dry_run": True})
    assert [one["action"] for one in dry["results"]] == ["would-declare", "would-update"]
    assert backend.log == []
    done = await daemon.call("cluster.apply", {"files": [good, demo]})
    assert [one["action"] for one in done["results"]] == ["declared", "updated"]


async def test_scale_delete_and_ports_reach_the_backend(daemon: Client, backend: MemoryBackend) -> None:
    await daemon.call("cluster.scale", {"name": "demo", "replicas": 3, "minimum": 1})
    await daemon.call("forward.open", {"name": "demo", "ports": [{"remote": 9000, "local": 19000}]})
    closed = await daemon.call("forward.close", {"name": "demo", "ports": [22]})
    await daemon.call("cluster.delete", {"name": "demo", "force": True})
    assert backend.log == [
        ("scale", "default/demo", None, 3, 1, None),
        ("open", "default/demo", ((9000, 19000),)),
        ("close", "default/demo", (22,)),
        ("delete", "default/demo", True),
    ]
    assert {one["name"]: one["state"] for one in closed["services"]}["ssh"] == "off"
    bad = await daemon.call("forward.open", {"name": "demo", "ports": [{"remote": 70000}]})
    assert bad["data"]["kind"] == "usage"


# Waiting.


async def waiting(one: Client, **params: Any) -> dict[str, Any]:
    """Send the wait; the first progress says that it waits."""
    await one.send({"jsonrpc": "2.0", "id": "w", "method": "cluster.wait", "params": {"name": "demo", **params}})
    progress = await one.line()
    assert progress["method"] == "call.progress"
    assert progress["params"]["id"] == "w"
    return progress["params"]["cluster"]  # type: ignore[no-any-return]


async def test_wait_ready_tells_the_phases(daemon: Client, backend: MemoryBackend) -> None:
    backend.put(some_cluster(phase="pending"))
    assert (await waiting(daemon))["phase"] == "pending"
    backend.put(some_cluster(phase="starting", reason="image pull"))
    assert (await daemon.line())["params"]["cluster"]["reason"] == "image pull"
    backend.put(some_cluster("other"))
    backend.put(some_cluster())
    answer = await daemon.line()
    assert answer["id"] == "w"
    assert answer["result"]["met"]
    assert backend.changes.listeners == 0


async def test_ready_means_that_its_ports_are_open(daemon: Client, backend: MemoryBackend) -> None:
    backend.put(some_cluster(services=some_services(HOLDING)))
    assert (await waiting(daemon))["phase"] == "ready"
    backend.put(some_cluster())
    assert (await daemon.line())["result"]["met"]
    backend.put(some_cluster(services=some_services(HOLDING)))
    await waiting(daemon, timeout_ms=500)
    assert "dashboard is holding" in (await daemon.line())["error"]["message"]


async def test_wait_for_a_service(daemon: Client, backend: MemoryBackend) -> None:
    backend.put(some_cluster(services=some_services("installing")))
    await waiting(daemon, condition="service=ssh")
    backend.put(some_cluster())
    assert (await daemon.line())["result"]["met"]
    fault = await daemon.call("cluster.wait", {"name": "demo", "condition": "service=sssh"})
    assert "it has dashboard, client, ssh" in fault["data"]["hint"]


async def test_wait_deleted(daemon: Client, backend: MemoryBackend) -> None:
    await waiting(daemon, condition="deleted")
    backend.remove(DEMO)
    assert (await daemon.line())["result"] == {"met": True, "cluster": None}
    assert (await daemon.call("cluster.wait", {"name": "demo", "condition": "deleted"}))["met"]


async def test_wait_ends_early_when_it_cannot_come_true(daemon: Client, backend: MemoryBackend) -> None:
    backend.put(some_cluster(phase="pending"))
    await waiting(daemon)
    backend.put(some_cluster(phase="invalid", reason="no such field"))
    assert (await daemon.line())["error"]["data"]["kind"] == "config-invalid"
    backend.put(some_cluster(phase="pending"))
    await waiting(daemon)
    backend.remove(DEMO)
    assert (await daemon.line())["error"]["data"]["kind"] == "cluster-not-found"
    unknown = await daemon.call("cluster.wait", {"name": "demo", "condition": "happy"})
    assert unknown["data"]["kind"] in ("usage", "cluster-not-found")


async def test_wait_times_out_with_the_reason(daemon: Client, backend: MemoryBackend) -> None:
    backend.put(some_cluster(phase="starting", reason="0/3 nodes have nvidia.com/gpu"))
    error = await daemon.call("cluster.wait", {"name": "demo", "timeout_ms": 0})
    assert (error["code"], error["data"]["kind"]) == (124, "timed-out")
    assert "0/3 nodes have nvidia.com/gpu" in error["message"]


# Watching.


async def test_watch_snapshot_then_numbered_events(daemon: Client, backend: MemoryBackend) -> None:
    started = await daemon.call("cluster.watch")
    assert [one["name"] for one in started["clusters"]] == ["demo"]
    backend.put(some_cluster(phase="degraded"))
    event = (await daemon.line())["params"]
    assert (event["kind"], event["cluster"]["phase"]) == ("changed", "degraded")
    assert event["revision"] > started["revision"]
    backend.remove(DEMO)
    gone = (await daemon.line())["params"]
    assert (gone["kind"], gone["name"], gone["cluster"]) == ("removed", "demo", None)
    assert (await daemon.call("cluster.unwatch", {"watch": started["watch"]}))["cancelled"]
    assert backend.changes.listeners == 0


async def test_changes_are_coalesced_per_cluster(daemon: Client, backend: MemoryBackend) -> None:
    started = await daemon.call("cluster.watch")
    for number in range(500):
        last = backend.put(some_cluster(reason=str(number)))
    event = (await daemon.line())["params"]
    assert event["cluster"]["reason"] == last.reason
    assert event["revision"] == started["revision"] + 500
    assert "pid" in await daemon.call("daemon.hello")


async def test_since_resumes_or_starts_again(path: Path, backend: MemoryBackend) -> None:
    async with client(path) as one:
        seen = (await one.call("cluster.watch"))["revision"]
    backend.put(some_cluster("late"))
    async with client(path) as one:
        again = await one.call("cluster.watch", {"since": seen})
        assert again["clusters"] is None
        assert (await one.line())["params"]["name"] == "late"
    async with client(path) as one:
        old = await one.call("cluster.watch", {"since": 5})
        assert [view["name"] for view in old["clusters"]] == ["demo", "late"]


async def test_watch_of_one_namespace(daemon: Client, backend: MemoryBackend) -> None:
    assert (await daemon.call("cluster.watch", {"namespace": "team"}))["clusters"] == []
    backend.put(some_cluster(phase="degraded"))
    backend.put(some_cluster("a", "team"))
    assert (await daemon.line())["params"]["name"] == "a"


# Text.


async def test_table_is_aligned_and_truthful(path: Path, backend: MemoryBackend) -> None:
    broken = (
        ServiceView("ssh", 22, 15010, "", PORT_TAKEN, "held by python3 (pid 77)"),
        ServiceView("notebook", 8888, 15011, "", HOLDING),
        ServiceView("client", 10001, 15012, "", FAILED, "no space left"),
    )
    backend.put(some_cluster("second", phase="starting", reason="image pull back-off: ray:9.9", services=broken))
    _, text, remarks = await rendered(path, width=100)
    head, demo, second = text.splitlines()
    assert head.split() == ["NAME", "PHASE", "WORKERS", "SSH", "NOTEBOOK", "DASHBOARD", "CLIENT", "REASON"]
    assert demo.split() == ["demo", "ready", "2/2", "15003", "-", "15001", "15002"]
    assert second.split()[:7] == ["second", "starting", "2/2", "15010!", "15011~", "-", "15012!"]
    assert second.index("starting") == head.index("PHASE")
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "! second ssh: port-taken, held by python3 (pid 77)" in remarks
    assert "~ the port listens already" in remarks


async def test_pipe_is_plain_and_whole(path: Path, backend: MemoryBackend) -> None:
    long = "x" * 300
    backend.put(some_cluster(phase="degraded", reason=long))
    _, piped, remarks = await rendered(path, width=0)
    assert long in piped
    assert "\x1b" not in piped
    assert remarks == ""
    _, narrow, _ = await rendered(path, width=80, color=True)
    assert long not in narrow
    assert "…" in narrow
    assert "\x1b[33mdegraded\x1b[0m" in narrow


async def test_what_kubernetes_says_cannot_drive_the_terminal(path: Path, backend: MemoryBackend) -> None:
    backend.put(some_cluster(phase="degraded", reason="a\x1b]0;owned\x07b\nc"))
    _, text, _ = await rendered(path, width=0)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert len(text.splitlines()) == 2


async def test_namespaces_show_when_there_are_several(path: Path, backend: MemoryBackend) -> None:
    backend.put(some_cluster("mine", "team"))
    _, text, _ = await rendered(path)
    assert "NAMESPACE" in text.splitlines()[0]


async def test_reason_names_owner_restart_and_missing_declaration(path: Path, backend: MemoryBackend) -> None:
    backend.put(some_cluster("a", declared=False))
    backend.put(some_cluster("b", declared=False, owner="ann@box"))
    backend.put(some_cluster("c", restart_needed=("head.image",), notes=("replicas are the autoscaler's",)))
    _, text, _ = await rendered(path)
    assert "not declared" in text
    assert "belongs to ann@box" in text
    assert "restart needed for head.image; replicas are the autoscaler's" in text


@pytest.mark.parametrize("form", ["json", "yaml"])
async def test_data_forms_have_the_api_s_keys(path: Path, daemon: Client, form: str) -> None:
    listed = (await daemon.call("cluster.list"))["clusters"]
    head, text, remarks = await rendered(path, format=form)
    read = msgspec.json.decode if form == "json" else yaml.safe_load
    assert read(text) == listed
    assert (head["exit"], remarks) == (0, "")
    _, one, _ = await rendered(path, view="cluster", name="demo", format=form)
    assert read(one)["groups"][0]["name"] == "worker"
    _, status, _ = await rendered(path, view="status", format=form)
    assert read(status)["running"] is True


async def test_names(path: Path, backend: MemoryBackend) -> None:
    backend.put(some_cluster("mine", "team"))
    assert (await rendered(path, format="name"))[1] == "demo\nmine\n"
    assert (await rendered(path, format="name", all_namespaces=True))[1] == "default/demo\nteam/mine\n"


async def test_nothing_to_show_says_what_to_do(path: Path, backend: MemoryBackend) -> None:
    backend.remove(DEMO)
    head, text, remarks = await rendered(path)
    assert (head["exit"], text) == (0, "")
    assert remarks == "no clusters in namespace default\ntry: krayne create demo\n"
    assert (await rendered(path, format="json"))[1] == "[]\n"


async def test_trouble_with_kubernetes_is_said(path: Path, backend: MemoryBackend) -> None:
    backend.world = WorldView(condition="login-needed", reason="the token has expired", hint="aws sso login")
    _, text, remarks = await rendered(path)
    assert "demo" in text
    assert remarks.splitlines()[0] == "Kubernetes is login-needed: the token has expired; what is shown may be old"
    assert "try: aws sso login" in remarks


async def test_describe_and_status_read_well(path: Path) -> None:
    _, text, _ = await rendered(path, view="cluster", name="demo")
    assert text.startswith("demo in namespace default\nPhase     ready for 3m20s\n")
    assert "ssh -p 15003 ray@localhost" in text
    assert "Worker groups" in text
    _, status, _ = await rendered(path, view="status")
    assert "Kubernetes" in status
    assert "ready: context kind at https://127.0.0.1:6443" in status


async def test_ports_show_counters(path: Path, backend: MemoryBackend) -> None:
    backend.listed_forwards = (
        ForwardView(
            namespace="default", cluster="demo", service="ssh", remote_port=22, local_port=15003, state="connected",
            connections=2, total=7, bytes_in=812, bytes_out=5_000_000,
        ),
    )  # fmt: skip
    _, text, _ = await rendered(path, view="ports")
    assert text.splitlines()[1].split() == [
        "default/demo",
        "ssh",
        "15003",
        "22",
        "connected",
        "2",
        "0",
        "7",
        "812",
        "4.8M",
    ]
    assert (await rendered(path, view="ports", namespace="team"))[1] == ""


@pytest.mark.parametrize(
    "params",
    [{"view": "stars"}, {"format": "xml"}, {"view": "cluster"}, {"view": "cluster", "name": "nope"}],
)
async def test_bad_render_is_an_error_line(path: Path, params: dict[str, str]) -> None:
    head, _, _ = await rendered(path, **params)
    assert head["data"]["kind"] in ("usage", "cluster-not-found")


async def test_render_needs_its_own_connection(daemon: Client, backend: MemoryBackend) -> None:
    await daemon.call("cluster.watch")
    assert (await daemon.call("view.render"))["data"]["kind"] == "protocol"


async def test_large_render_arrives_whole(path: Path, backend: MemoryBackend) -> None:
    for number in range(1000):
        backend.put(some_cluster(f"c{number}"))
    _, text, _ = await rendered(path, format="json")
    assert len(msgspec.json.decode(text)) == 1001


async def test_every_problem_file_is_named(path: Path, backend: MemoryBackend) -> None:
    status = backend.status()
    problem = FileProblemView(source="bad.yaml", message="line 3: not YAML", hint="mend it")
    backend.status = lambda: msgspec.structs.replace(status, problems=(problem,))  # type: ignore[method-assign]
    assert "bad.yaml: line 3: not YAML" in (await rendered(path))[2]
    assert "bad.yaml: line 3: not YAML" in (await rendered(path, view="status"))[1]


def test_ready_is_the_only_good_state() -> None:
    assert {one.state for one in some_services()} == {READY}
