"""What each function returns, raises, and asks of the daemon; blocking and async are one plan, and both are run."""

import dataclasses
import doctest
import importlib
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import pytest
from anyio import to_thread

from krayne import api, errors
from krayne.api import aio
from krayne.config import ClusterConfig, WorkerGroupConfig
from krayne.messages import PORT_TAKEN
from tests.api.conftest import SERVER, House, outside
from tests.daemon.backend import some_services

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
DOCUMENTED = [
    f"krayne.api.{module}.{name}"
    for module, names in {
        "clusters": [
            "create_cluster", "get_cluster", "list_clusters", "describe_cluster", "scale_cluster", "delete_cluster",
            "wait_until_ready", "get_cluster_services",
        ],
        "tunnels": ["open_tunnel", "managed_cluster"],
    }.items()
    for name in names
]  # fmt: skip


@pytest.mark.parametrize(
    "name", [*DOCUMENTED, *(one.replace("api.", "api.aio.") for one in DOCUMENTED), "krayne.api.aio.watching.watch"]
)
async def test_the_example_in_each_help_runs(house: House, name: str) -> None:
    module, _, function = name.rpartition(".")
    found = getattr(importlib.import_module(module), function)
    (test,) = doctest.DocTestFinder(recurse=False).find(found, name, globs={})
    assert test.examples
    assert all(word in (found.__doc__ or "") for word in ("Raises:", "Example:"))
    said: list[str] = []
    result = await outside(lambda: doctest.DocTestRunner().run(test, out=said.append))
    assert result.failed == 0, "".join(said)


async def test_a_cluster_has_one_url_a_service(house: House) -> None:
    info = await outside(lambda: api.get_cluster("demo"))
    assert (info.name, info.namespace, info.status) == ("demo", "default", "ready")
    assert info.dashboard_url == "http://dashboard.demo.localhost:15001"
    assert info.client_url == "ray://127.0.0.1:15002"
    assert info.ssh_url == "ssh://ray@127.0.0.1:15003"
    assert info.notebook_url is None
    assert info.created_at == "2027-01-14T07:00:00Z"
    assert info == await aio.get_cluster("demo")
    assert dataclasses.asdict(info)["num_workers"] == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.name = "other"


async def test_create_sends_the_config_and_waits_with_progress(house: House) -> None:
    config = ClusterConfig(name="train", namespace="ml", worker_groups=[WorkerGroupConfig(replicas=3, gpus=1)])
    seen: list[str] = []
    info = await aio.create_cluster(config, wait=True, progress=lambda one: seen.append(one.status))
    assert info.status == "ready"
    assert seen[-1] == "ready"
    made = next(one for one in house.backend.log if one[0] == "create")
    assert made[2] == config
    with pytest.raises(errors.ClusterAlreadyExistsError) as twice:
        await aio.create_cluster(config)
    assert (twice.value.name, twice.value.namespace, twice.value.kind) == ("train", "ml", "cluster-exists")
    assert twice.value.hint
    again = await aio.create_cluster(config, exist_ok=True)
    assert again.name == "train"


async def test_a_timeout_says_what_is_missing_and_how_long_was_waited(house: House) -> None:
    house.operates = False
    with pytest.raises(errors.ClusterTimeoutError) as late:
        await outside(lambda: api.create_cluster(ClusterConfig(name="slow"), wait=True, timeout=0.05))
    assert (late.value.name, late.value.timeout) == ("slow", 0.05)
    assert "not ready" in late.value.message
    with pytest.raises(errors.UsageError):
        await aio.wait_until_ready("slow", timeout=-1)


@pytest.mark.parametrize("created", [None, 1.0])
async def test_a_create_that_kubernetes_refuses_raises_and_leaves_only_what_was_there(
    house: House, monkeypatch: pytest.MonkeyPatch, created: float | None
) -> None:
    house.operates = False
    create = house.backend.create

    async def refused(*args: Any, **more: Any) -> None:
        view = await create(*args, **more)
        house.backend.put(msgspec.structs.replace(view, phase="absent", created=created))
        raise errors.NamespaceNotFoundError("no namespace ml")

    monkeypatch.setattr(house.backend, "create", refused)
    with pytest.raises(errors.NamespaceNotFoundError) as fault:
        await aio.create_cluster(ClusterConfig(name="train", namespace="ml"))
    assert (fault.value.namespace, fault.value.message) == ("ml", "no namespace ml")
    assert (("delete", "ml/train", False) in house.backend.log) == (created is None)


@pytest.mark.parametrize(
    ("condition", "error"),
    [("kuberay-missing", errors.KubeRayNotInstalledError), ("unreachable", errors.KubeConnectionError)],
)
async def test_without_a_connection_nothing_is_declared_and_absence_is_not_claimed(
    house: House, condition: str, error: type[errors.KrayneError]
) -> None:
    house.disconnect(condition, "it is away")
    with pytest.raises(error, match="it is away") as fault:
        await aio.create_cluster(ClusterConfig(name="train"))
    assert fault.value.hint == "look there"
    with pytest.raises(error):
        await outside(lambda: api.get_cluster("nope"))
    with pytest.raises(error):
        await outside(lambda: api.list_clusters("nowhere"))
    assert not [one for one in house.backend.log if one[0] == "create"]
    assert (await aio.get_cluster("demo")).status == "ready"  # what is known is told


async def test_what_is_not_there_is_said_with_its_name(house: House) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: api.get_cluster("nope"),
        lambda: api.describe_cluster("nope", "ml"),
        lambda: api.scale_cluster("nope", "ml", "worker", 1),
        lambda: api.delete_cluster("nope"),
        lambda: api.wait_until_ready("nope"),
        lambda: api.open_tunnel("nope").__enter__(),
    ]
    for call in calls:
        with pytest.raises(errors.ClusterNotFoundError) as fault:
            await outside(call)
        assert fault.value.name == "nope"
        assert fault.value.namespace in ("ml", "default")
        assert fault.value.kind == "cluster-not-found"


async def test_namespaces(house: House) -> None:
    house.put("other", "ml")
    assert [one.name for one in await aio.list_clusters()] == ["demo"]
    assert [one.name for one in await aio.list_clusters("ml")] == ["other"]
    assert [one.name for one in await aio.list_clusters(all_namespaces=True)] == ["demo", "other"]
    assert (await aio.get_cluster("other", None)).namespace == "ml"
    with pytest.raises(errors.ClusterNotFoundError):
        await aio.get_cluster("other")


async def test_details_scale_and_delete(house: House) -> None:
    details = await aio.describe_cluster("demo")
    assert [(one.name, one.ready, one.max_replicas) for one in details.worker_groups] == [("worker", 2, 4)]
    assert details.python_version == "3.11"
    await aio.scale_cluster("demo", "default", "worker", 5, min_replicas=1, max_replicas=8)
    assert ("scale", "default/demo", "worker", 5, 1, 8) in house.backend.log
    await aio.delete_cluster("demo", wait=True, timeout=30.0)
    with pytest.raises(errors.ClusterNotFoundError):
        await aio.get_cluster("demo")


async def test_a_tunnel_closes_only_what_it_opened(house: House) -> None:
    def blocking() -> None:
        with api.open_tunnel("demo") as tunnel:
            assert tunnel.client_url == "ray://127.0.0.1:15002"
            assert tunnel.code_server_url is None
        assert not [one for one in house.backend.log if one[0] in ("open", "close")]
        with api.open_tunnel("demo", ports=["client", 9000]) as tunnel:
            assert [one.service for one in tunnel.tunnels] == ["client", "port-9000"]
            assert tunnel.url("port-9000") == "tcp://127.0.0.1:15009"

    await outside(blocking)
    assert house.backend.log[-1] == ("close", "default/demo", (9000,))
    async with aio.open_tunnel("demo", ports=["ssh"]) as session:
        assert session.ssh_url
    with pytest.raises(errors.UsageError, match="no service nope"):
        async with aio.open_tunnel("demo", ports=["nope"]):
            pass


async def test_a_taken_port_is_said_where_its_url_is_read(house: House) -> None:
    first, *rest = some_services()
    taken = msgspec.structs.replace(first, state=PORT_TAKEN, reason="held by nginx", listening=False)
    house.put("demo", services=(taken, *rest))
    async with aio.open_tunnel("demo") as tunnel:
        assert tunnel.client_url
        with pytest.raises(errors.PortTakenError, match="nginx"):
            assert tunnel.dashboard_url


async def test_a_tunnel_waits_for_its_listeners(house: House) -> None:
    away = tuple(msgspec.structs.replace(one, listening=False) for one in some_services())
    house.put("demo", services=away)
    with pytest.raises(errors.ClusterTimeoutError):
        async with aio.open_tunnel("demo", timeout=0.05):
            pass
    async with anyio.create_task_group() as tasks:

        async def enter() -> None:
            async with aio.open_tunnel("demo") as tunnel:
                assert tunnel.client_url

        tasks.start_soon(enter)
        house.put("demo")


async def test_a_managed_cluster_goes_also_when_its_block_fails_but_never_one_that_was_there(house: House) -> None:
    async def failing() -> None:
        async with aio.managed_cluster(ClusterConfig(name="brief")) as managed:
            assert managed.tunnel is not None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing()
    assert ("delete", "default/brief", False) in house.backend.log
    with pytest.raises(errors.ClusterAlreadyExistsError):
        async with aio.managed_cluster(ClusterConfig(name="demo")):
            pass
    assert ("delete", "default/demo", False) not in house.backend.log


async def test_a_client_is_refused_and_a_kubeconfig_must_lead_to_the_same_place(house: House, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="client="):
        await outside(lambda: api.get_cluster("demo", client=cast("None", object())))
    config = tmp_path / "kubeconfig"
    text = "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\n"
    text += "clusters: [{name: c, cluster: {server: %s}}]\n"
    config.write_text(text % SERVER)
    assert (await aio.get_cluster("demo", kubeconfig=str(config))).name == "demo"
    config.write_text(text % "https://elsewhere:6443")
    with pytest.raises(errors.UsageError, match="elsewhere"):
        await aio.list_clusters(kubeconfig=str(config))
    config.write_text("users: [{name: me, user: {token: hush}}]")
    with pytest.raises(errors.KubeConfigError) as fault:
        await aio.delete_cluster("demo", kubeconfig=str(config))
    assert "hush" not in str(fault.value)
    assert fault.value.__cause__ is None


async def test_results_are_escaped_tables_in_a_notebook(house: House) -> None:
    house.put("demo", reason="<script>alert(1)</script>")
    shown = await aio.list_clusters()
    details = await aio.describe_cluster("demo")
    async with aio.open_tunnel("demo") as tunnel:
        pages = [one._repr_html_() for one in (shown, shown[0], details, tunnel)]
    assert all(page.startswith("<table") and page.count("<table") == page.count("</table>") for page in pages)
    assert all("<script" not in page for page in pages)
    assert '<a href="http://dashboard.demo.localhost:15001"' in pages[1]


async def test_threads_and_forked_processes_call_at_once(house: House) -> None:
    seen: list[str] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(to_thread.run_sync, lambda: seen.append(api.get_cluster("demo").name))
    assert seen == ["demo"] * 20
    code = (
        "import multiprocessing\n"
        "from krayne.api import get_cluster\n"
        "def one(_): return get_cluster('demo').status\n"
        "get_cluster('demo')\n"
        "with multiprocessing.get_context('fork').Pool(3) as pool: print(pool.map(one, range(6)))\n"
    )
    done = await anyio.run_process(["python3", "-c", code], env=_env(), check=False, stderr=subprocess.PIPE)
    assert done.stdout.decode() == f"{['ready'] * 6}\n", done.stderr.decode()


async def test_importing_costs_nothing_and_a_terminal_sees_progress(house: House) -> None:
    done = await anyio.run_process(
        ["python3", "-c", "import sys, krayne; print(sorted(one for one in sys.modules if 'krayne' in one))"],
        env=_env(),
    )
    assert done.stdout.decode() == "['krayne']\n"
    done = await anyio.run_process(
        ["python3", "-c", "import sys, krayne.api; print({'pydantic', 'msgspec', 'anyio', 'yaml'} & set(sys.modules))"],
        env=_env(),
    )
    assert done.stdout.decode() == "set()\n"
    code = "from krayne.api import wait_until_ready; wait_until_ready('demo')"
    silent = await anyio.run_process(["python3", "-c", code], env=_env(), stderr=subprocess.PIPE)
    assert (silent.stdout, silent.stderr) == (b"", b"")
    here, there = pty.openpty()
    await anyio.run_process(["python3", "-c", code], env=_env(), stderr=there)
    os.close(there)
    assert os.read(here, 1000) == b"demo: ready, workers 2/2\r\n"
    os.close(here)


def _env() -> dict[str, str]:
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
