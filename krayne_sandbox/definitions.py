"""The files the sandbox ships: KubeRay's RayCluster definition, read once when first asked for."""

import json
from functools import lru_cache
from importlib import resources

from krayne_sandbox.core.meta import Json


@lru_cache(maxsize=1)
def ray_definition() -> Json:
    """The CustomResourceDefinition. Not to be changed."""
    found: Json = json.loads(resources.files("krayne_sandbox").joinpath("crds/rayclusters.json").read_bytes())
    return found
