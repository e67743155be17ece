"""Cluster files: a file that vanishes, is half-written or no longer parses never removes or changes a cluster."""

import os
from pathlib import Path

import anyio
import pytest

from kraynd.core.model import ClusterKey
from kraynd.local.desired import Desired
from kraynd.local.home import MARKER, Home
from krayne.config import ClusterConfig, load_config_from_yaml
from krayne.errors import ClusterAlreadyExistsError, ClusterNotFoundError, ConfigValidationError

pytestmark = pytest.mark.anyio
DEMO = ClusterKey("default", "demo")
GOOD = "name: demo\nhead:\n  cpus: 2\n"


class Folder:
    """The clusters folder as a user's editor sees it."""

    def __init__(self, home: Home) -> None:
        self.path = Path(home.clusters)
        self.desired = Desired(home)

    def put(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(path)
        return path


@pytest.fixture
def folder(home: Home) -> Folder:
    return Folder(home)


async def test_files_anywhere_below_are_clusters(folder: Folder) -> None:
    folder.put("demo.yaml", GOOD)
    folder.put("team/a/deep.yml", "name: deep\nnamespace: team\n")
    folder.put("notes.txt", "name: no")
    folder.put(".hidden.yaml", "name: no")
    found = await folder.desired.refresh()
    assert set(found.clusters) == {DEMO, ClusterKey("team", "deep")}
    assert found.clusters[DEMO].source == "demo.yaml"
    assert found.clusters[DEMO].config.head.cpus == "2"
    assert found.healthy
    assert found.problems == ()


async def test_an_edit_is_seen(folder: Folder) -> None:
    folder.put("demo.yaml", GOOD)
    await folder.desired.refresh()
    folder.put("demo.yaml", GOOD.replace("2", "3"))
    found = await folder.desired.refresh()
    assert found.clusters[DEMO].config.head.cpus == "3"


async def test_an_unchanged_folder_gives_the_same_snapshot(folder: Folder) -> None:
    folder.put("demo.yaml", GOOD)
    assert await folder.desired.refresh() is await folder.desired.refresh()


async def test_a_file_cut_anywhere_keeps_the_last_good_spec(folder: Folder) -> None:
    path = folder.put("demo.yaml", GOOD)
    last_good = (await folder.desired.refresh()).clusters[DEMO].config
    for cut in range(len(GOOD)):
        path.write_text(GOOD[:cut])
        found = await folder.desired.refresh()
        if DEMO not in found.clusters:
            # Cut within the name: the file declares another cluster now, and demo's is missing, not deleted.
            assert DEMO in found.missing
            folder.put("demo.yaml", GOOD)
            last_good = (await folder.desired.refresh()).clusters[DEMO].config
        elif found.problems:
            assert found.clusters[DEMO].config == last_good
            assert found.clusters[DEMO].problem
        else:
            last_good = found.clusters[DEMO].config
    folder.put("demo.yaml", GOOD)
    assert (await folder.desired.refresh()).problems == ()


async def test_a_broken_file_is_reported_with_its_name_and_line(folder: Folder) -> None:
    folder.put("demo.yaml", "name: demo\nhaed: {}\n")
    found = await folder.desired.refresh()
    assert found.clusters == {}
    assert "demo.yaml" in found.problems[0].message
    assert "line 2" in found.problems[0].message or ":2" in found.problems[0].message
    assert "head" in found.problems[0].message + found.problems[0].hint


async def test_a_vanished_file_is_missing_since_it_was_first_missed(folder: Folder) -> None:
    path = folder.put("demo.yaml", GOOD)
    await folder.desired.refresh()
    before = anyio.current_time()
    path.unlink()
    found = await folder.desired.refresh()
    assert found.clusters == {}
    since = found.missing[DEMO]
    assert before <= since <= anyio.current_time()
    folder.put("unrelated.yaml", "name: unrelated\n")
    assert (await folder.desired.refresh()).missing == {DEMO: since}
    folder.put("other.yaml", GOOD)
    assert (await folder.desired.refresh()).missing == {}


async def test_a_file_that_was_gone_at_the_start_is_not_missing(folder: Folder) -> None:
    assert (await folder.desired.refresh()).missing == {}


async def test_two_files_for_one_cluster_use_the_first_and_say_so(folder: Folder) -> None:
    folder.put("a.yaml", GOOD)
    folder.put("b.yaml", GOOD.replace("2", "8"))
    found = await folder.desired.refresh()
    assert found.clusters[DEMO].config.head.cpus == "2"
    assert "declared twice, in a.yaml and in b.yaml" in found.problems[0].message


async def test_a_link_is_reported_and_not_followed(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("name: stolen")
    (folder.path / "link.yaml").symlink_to(tmp_path / "secret")
    os.mkfifo(folder.path / "pipe.yaml")
    found = await folder.desired.refresh()
    assert found.clusters == {}
    assert sorted(problem.source for problem in found.problems) == ["link.yaml", "pipe.yaml"]


async def test_a_folder_that_cannot_be_listed_is_unhealthy_and_keeps_everything(folder: Folder) -> None:
    folder.put("demo.yaml", GOOD)
    await folder.desired.refresh()
    folder.path.rename(folder.path.with_name("elsewhere"))
    found = await folder.desired.refresh()
    assert DEMO in found.clusters
    assert not found.healthy
    assert found.missing == {}


async def test_an_unmarked_folder_is_unhealthy(folder: Folder) -> None:
    folder.put("demo.yaml", GOOD)
    (folder.path / MARKER).unlink()
    assert not (await folder.desired.refresh()).healthy


async def test_write_declares_and_refuses_a_second_time(folder: Folder) -> None:
    config = ClusterConfig(name="demo")
    assert await folder.desired.write(config, replace=False) == "demo.yaml"
    assert folder.desired.snapshot.clusters[DEMO].config == config
    assert load_config_from_yaml(folder.path / "demo.yaml") == config
    with pytest.raises(ClusterAlreadyExistsError, match=r"already declared in clusters/demo.yaml"):
        await folder.desired.write(config, replace=False)


async def test_write_replaces_where_the_cluster_is_declared(folder: Folder) -> None:
    folder.put("team/mine.yaml", GOOD)
    await folder.desired.refresh()
    assert await folder.desired.write(ClusterConfig(name="demo"), replace=True) == "team/mine.yaml"


async def test_namespaces_keep_names_apart(folder: Folder) -> None:
    await folder.desired.write(ClusterConfig(name="demo"), replace=False)
    assert await folder.desired.write(ClusterConfig(name="demo", namespace="prod"), replace=False) == "prod/demo.yaml"


async def test_a_users_text_is_kept_to_the_letter(folder: Folder) -> None:
    text = "# mine\nname: demo\n"
    await folder.desired.write(ClusterConfig(name="demo"), replace=False, text=text)
    assert (folder.path / "demo.yaml").read_text() == text


async def test_remove_takes_the_file_and_leaves_nothing_missing(folder: Folder) -> None:
    folder.put("demo.yaml", GOOD)
    await folder.desired.refresh()
    await folder.desired.remove(DEMO)
    assert not (folder.path / "demo.yaml").exists()
    assert folder.desired.snapshot.missing == {}
    await folder.desired.remove(DEMO)


async def test_edit_keeps_comments(folder: Folder) -> None:
    path = folder.put("demo.yaml", "# mine\nname: demo\nworker_groups:\n- name: w  # one\n  max_replicas: 4\n")
    await folder.desired.refresh()
    await folder.desired.edit(DEMO, {("worker_groups", 0, "replicas"): 2})
    assert path.read_text().count("#") == 2
    assert folder.desired.snapshot.clusters[DEMO].config.worker_groups[0].replicas == 2


async def test_edit_writes_a_section_that_was_left_to_its_defaults(folder: Folder) -> None:
    folder.put("demo.yaml", GOOD)
    await folder.desired.refresh()
    await folder.desired.edit(DEMO, {("worker_groups", 0, "replicas"): 2})
    config = folder.desired.snapshot.clusters[DEMO].config
    assert config.worker_groups[0].replicas == 2
    assert config.head.cpus == "2"


async def test_an_edit_that_makes_no_sense_changes_nothing(folder: Folder) -> None:
    text = "name: demo\nworker_groups:\n- name: w\n  min_replicas: 0\n"
    path = folder.put("demo.yaml", text)
    await folder.desired.refresh()
    with pytest.raises(ConfigValidationError):
        await folder.desired.edit(DEMO, {("worker_groups", 0, "min_replicas"): 9})
    assert path.read_text() == text
    with pytest.raises(ClusterNotFoundError):
        await folder.desired.edit(ClusterKey("default", "none"), {})
