"""Which container image a cluster runs when its file names none, and how sure that is.

The image follows the Ray and Python beside the client (Ray Client needs the same Ray and the same Python minor), and is
recorded with the cluster, so that an upgrade on this side never changes a running one. Pure: versions are arguments.
"""

import re

import msgspec

from krayne.config import ClusterConfig

REPOSITORY = "rayproject/ray"
# The Pythons that rayproject/ray images are published for (a 3.14 one is not confirmed).
PUBLISHED_PYTHONS = ((3, 9), (3, 10), (3, 11), (3, 12), (3, 13))

# A release as it stands in a tag. Dev, rc and post versions have no image; `+` is not even legal in a tag.
_RELEASE = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_PYTHON = re.compile(r"([0-9]+)\.([0-9]+)(?:\.[0-9]+)?")
# `2.60.0-py311-gpu`, `my-2.60.0`: the first release-like part of a tag, not inside a longer number.
_RELEASE_IN_TAG = re.compile(r"(?<![0-9.])([0-9]+\.[0-9]+\.[0-9]+)(?![0-9.]|[a-z])")


class ImageChoice(msgspec.Struct, frozen=True):
    """A cluster's image, its Ray version, and who chose it: config, client, daemon, live or default."""

    image: str
    ray_version: str
    origin: str


# Used when neither the file nor an installed Ray says more; raised with each of our releases, and shown to the user.
DEFAULT_IMAGE = ImageChoice(image=f"{REPOSITORY}:2.60.0-py311", ray_version="2.60.0", origin="default")


def choose_image(*, ray: str | None, python: str | None, origin: str = "client") -> ImageChoice | None:
    """The published image of these installed versions; None when they name none (see `explain_versions`)."""
    minor = _minor(python or "")
    if not ray or minor is None or explain_versions(ray=ray, python=python):
        return None
    return ImageChoice(image=f"{REPOSITORY}:{ray}-py{minor[0]}{minor[1]}", ray_version=ray, origin=origin)


def explain_versions(*, ray: str | None, python: str | None) -> str:
    """Why no published image matches these versions, as a sentence with the way out; "" when one does."""
    if not ray:
        return f"Ray is not installed beside the client, so clusters use {DEFAULT_IMAGE.image} unless image is set."
    if not _RELEASE.fullmatch(ray):
        return f"Ray {ray} is not a release, so no {REPOSITORY} image matches it: set image on the head and the groups."
    if not python or _minor(python) not in PUBLISHED_PYTHONS:
        known = ", ".join(f"{major}.{minor}" for major, minor in PUBLISHED_PYTHONS)
        return (
            f"Python {python or 'of an unknown version'} has no {REPOSITORY} image (known: {known}): "
            "set image on the head and the groups."
        )
    return ""


def ray_version_of(image: str) -> str:
    """The Ray release an image's tag names, or "" when it names none."""
    name = image.partition("@")[0].rpartition("/")[2]
    found = _RELEASE_IN_TAG.search(name.partition(":")[2])
    return found[1] if found else ""


def warnings(config: ClusterConfig) -> tuple[str, ...]:
    """What will probably not do what its author means, though Kubernetes takes it."""
    return tuple(
        f"worker group {group.name} has GPUs and no image: the default image has no CUDA toolkit; "
        f"set image, for example {REPOSITORY}:<version>-py311-gpu"
        for group in config.worker_groups
        if group.gpus > 0 and group.image is None
    )


def _minor(python: str) -> tuple[int, int] | None:
    found = _PYTHON.fullmatch(python)
    return (int(found[1]), int(found[2])) if found else None
