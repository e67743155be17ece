"""What KubeRay refuses only after the API server took it: told by an event, status and pods left alone. Pure.

The rules of ray-operator 1.6 (controllers/ray/utils/validation.go), as far as they concern what a sandbox runs.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from krayne_sandbox.core.meta import Json, name_of
from krayne_sandbox.core.rayplan import group_of, groups_of, is_autoscaled, pod_spec_of, spec_of

NAME_LIMIT: Final = 53  # characters
LABEL: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS-1035
V2: Final = "RAY_enable_autoscaler_v2"


class Fault(NamedTuple):
    """Why a cluster is not kept: the reason of its event, and the text."""

    reason: str
    text: str


def fault_of(cluster: Json) -> Fault | None:
    """The first thing wrong with it."""
    for said in _metadata_faults(name_of(cluster)):
        return Fault("InvalidRayClusterMetadata", said)
    for said in _spec_faults(cluster):
        return Fault("InvalidRayClusterSpec", said)
    return None


def _metadata_faults(name: str) -> Iterator[str]:
    if len(name) > NAME_LIMIT:
        yield f"the name has {len(name)} characters; a RayCluster's may have {NAME_LIMIT}"
    if not LABEL.fullmatch(name):
        yield "the name must be a DNS-1035 label: lower case letters, digits and '-', with a letter first"


def _spec_faults(cluster: Json) -> Iterator[str]:
    containers = pod_spec_of(spec_of(cluster).get("headGroupSpec") or {}).get("containers")
    if not containers:
        yield "headGroupSpec has no container"
        return
    for group in groups_of(cluster):
        for said in _group_faults(group, autoscaled=is_autoscaled(cluster)):
            yield f"worker group {group_of(group)}: {said}"
    env = {one.get("name"): one.get("value") for one in containers[0].get("env") or ()}
    if not is_autoscaled(cluster) and env.get(V2) in {"1", "true"}:
        yield f"{V2}={env[V2]} in the head needs enableInTreeAutoscaling: true"


def _group_faults(group: Json, *, autoscaled: bool) -> Iterator[str]:
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    if not pod_spec_of(group).get("containers"):
        yield "it has no container"
    if (least or 0) < 0:
        yield f"minReplicas is negative: {least}"
    if (most or 0) < 0:
        yield f"maxReplicas is negative: {most}"
    if least is not None and most is not None and least > most:
        yield f"minReplicas {least} is more than maxReplicas {most}"
    if autoscaled and group.get("suspend"):
        yield "it cannot be suspended with autoscaling"
