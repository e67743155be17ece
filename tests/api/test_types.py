"""A user's script passes strict type checking with the packages installed as pip installs them, and misuse does not."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("krayne", "krayne_client", "kraynd")
SCRIPT = """
import anyio
from krayne.api import ClusterInfo, TunnelSession, aio, create_cluster, list_clusters, open_tunnel
from krayne.config import ClusterConfig, WorkerGroupConfig
from krayne.errors import ClusterTimeoutError, KrayneError


def main() -> str | None:
    config = ClusterConfig(name="demo", worker_groups=[WorkerGroupConfig(replicas=2)])
    try:
        info: ClusterInfo = create_cluster(config, wait=True, timeout=60.0)
    except ClusterTimeoutError as error:
        return f"{error.name} {error.timeout + 1.0} {error.hint}"
    except KrayneError as error:
        return error.kind
    names: list[str] = [one.name for one in list_clusters(info.namespace)]
    with open_tunnel(names[0], ports=["client", 9000]) as tunnel:
        session: TunnelSession = tunnel
        return session.client_url


async def follow() -> None:
    async with aio.open_tunnel("demo") as tunnel:
        print(tunnel.dashboard_url)
    async for event in aio.watch(since=3):
        if event.cluster is not None:
            print(event.kind, event.cluster.status, event.revision + 1)


if __name__ == "__main__":
    main()
    anyio.run(follow)
"""
MISUSE = """
from krayne.api import get_cluster

number: int = get_cluster("demo").status
get_cluster(3)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with our packages in its site-packages, and what they need beside them."""
    folder = tmp_path_factory.mktemp("user")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for package in PACKAGES:
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    (site / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def checked(command: list[str], text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text)
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "include": ["script.py"]}')
    return subprocess.run([*command], cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_a_users_script(python: Path, tmp_path: Path, checker: str) -> None:
    commands = {
        "mypy": [
            sys.executable, "-m", "mypy", "--strict", "--no-incremental", f"--python-executable={python}", "script.py",
        ],
        "basedpyright": [str(Path(sys.executable).with_name("basedpyright")), f"--pythonpath={python}"],
    }  # fmt: skip
    if checker == "basedpyright":
        pytest.importorskip("basedpyright", reason="of the lint extra")
    good = checked(commands[checker], SCRIPT, tmp_path)
    assert good.returncode == 0, good.stdout + good.stderr
    bad = checked(commands[checker], MISUSE, tmp_path)
    assert bad.returncode == 1
    assert bad.stdout.count("error") >= 2, bad.stdout
