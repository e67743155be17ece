"""Which image a cluster runs: the installed versions decide, unreleased ones never do."""

import pytest

from kraynd.core.images import DEFAULT_IMAGE, choose_image, explain_versions, ray_version_of, warnings
from krayne.config import ClusterConfig, WorkerGroupConfig


@pytest.mark.parametrize(
    ("ray", "python", "image"),
    [
        ("2.60.0", "3.11.7", "rayproject/ray:2.60.0-py311"),
        ("2.55.1", "3.12", "rayproject/ray:2.55.1-py312"),
        ("2.9.3", "3.9.18", "rayproject/ray:2.9.3-py39"),
        ("2.60.0", "3.13.1", "rayproject/ray:2.60.0-py313"),
    ],
)
def test_installed_releases_name_their_published_image(ray: str, python: str, image: str) -> None:
    choice = choose_image(ray=ray, python=python)
    assert choice is not None
    assert (choice.image, choice.ray_version, choice.origin) == (image, ray, "client")
    assert explain_versions(ray=ray, python=python) == ""


@pytest.mark.parametrize(
    "ray", ["3.0.0.dev0", "2.60.0rc1", "2.60.0+cu128", "2.60.0.post1", "2.60", "v2.60.0", "latest", "2.60.0\n"]
)
def test_a_ray_that_is_no_release_names_no_image_and_says_so(ray: str) -> None:
    assert choose_image(ray=ray, python="3.11.7") is None
    assert ray in explain_versions(ray=ray, python="3.11.7")
    assert "set image" in explain_versions(ray=ray, python="3.11.7")


@pytest.mark.parametrize("python", ["3.14.0", "3.8.18", "2.7", "4.11", "pypy", "3", "", None])
def test_a_python_without_published_images_names_none_and_says_so(python: str | None) -> None:
    assert choose_image(ray="2.60.0", python=python) is None
    assert (python or "unknown") in explain_versions(ray="2.60.0", python=python)


def test_without_ray_the_pinned_default_is_named() -> None:
    assert choose_image(ray=None, python="3.11.7") is None
    assert DEFAULT_IMAGE.image in explain_versions(ray=None, python="3.11.7")
    assert ray_version_of(DEFAULT_IMAGE.image) == DEFAULT_IMAGE.ray_version


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("rayproject/ray:2.55.1-py312-gpu", "2.55.1"),
        ("registry.example:5000/team/ray:torch-2.60.0", "2.60.0"),
        ("rayproject/ray:2.60.0@sha256:0123", "2.60.0"),
        ("rayproject/ray", ""),
        ("registry.example:5000/ray", ""),
        ("rayproject/ray:nightly-py311", ""),
        ("rayproject/ray:2.60.0rc1", ""),
        ("mine:1.2.3.4", ""),
        ("mine@sha256:2.60.0", ""),
    ],
)
def test_an_images_tag_tells_its_ray_release_or_nothing(image: str, version: str) -> None:
    assert ray_version_of(image) == version


def test_gpu_groups_on_the_default_image_are_warned_of_by_name() -> None:
    groups = [
        WorkerGroupConfig(name="plain"),
        WorkerGroupConfig(name="bare-gpu", gpus=1),
        WorkerGroupConfig(name="own-gpu", gpus=1, image="mine:1"),
    ]
    (warning,) = warnings(ClusterConfig(name="demo", worker_groups=groups))
    assert "bare-gpu" in warning
    assert "CUDA" in warning
