"""When KubeRay is made to look at a cluster again: it can overlook that a head is gone, for 300 s. Pure.

KubeRay waits up to 30 s for a pod it made to show in its cache (expectations/scale_expectations.go) and notices that
this wait is over only when it next looks at the cluster. A changed annotation makes it look (its watch's predicates).
"""

from collections.abc import Iterable

from kraynd.core.model import Json
from kraynd.core.pods import is_head, is_terminating
from kraynd.core.times import stamp

KUBERAY = "ray.io/kuberay-operator"  # the default of spec.managedBy
NUDGE_ANNOTATION = "krayne.dev/nudge"
AFTER = (32.0, 64.0, 128.0, 256.0)  # seconds without a head: just past KubeRay's 30 s, then ever less often, then never


def lacks_head(live: Json | None, pods: Iterable[Json]) -> bool:
    """Whether the operator ought to make a head pod now. One that is still stopping counts as a head."""
    if live is None or is_terminating(live):
        return False
    spec = live.get("spec") or {}
    theirs = spec.get("managedBy") in {None, "", KUBERAY}
    return theirs and not spec.get("suspend") and not any(is_head(pod) for pod in pods)


def nudge(since: float, wall: float) -> tuple[str, float | None]:
    """What the annotation is to say of a head missing `since` ("": nothing yet), and the seconds to the next word."""
    gone = wall - since
    reached = [after for after in AFTER if after <= gone]
    ahead = [after for after in AFTER if after > gone]
    says = f"no head pod for {reached[-1]:.0f} s since {stamp(since)}" if reached else ""
    return says, ahead[0] - gone if ahead else None
