"""Discovery: which groups, versions and kinds there are, in the old form and in the aggregated one."""

from typing import Final

from aiohttp import web

from krayne_sandbox.api.answers import reply
from krayne_sandbox.api.paths import NEW_EVENTS, subresources
from krayne_sandbox.core.meta import Json
from krayne_sandbox.kinds import CATEGORIES, KINDS, NAMESPACES, SHORT_NAMES, Kind

KUBERNETES: Final = "v1.36.3"  # whose behaviour is followed
READ: Final = ("get", "list", "watch")
ALL: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
AGGREGATED: Final = ("as=APIGroupDiscoveryList", "g=apidiscovery.k8s.io", "v=v2")
AGGREGATED_TYPE: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
# What is asked and answered, never stored.
REVIEWS: Final = (
    Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
    Kind("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
    Kind("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", False),
)
SERVED: Final = (*KINDS, NEW_EVENTS, *REVIEWS)
_SUBRESOURCE_VERBS: Final = {
    "status": ("get", "patch", "update"), "log": ("get",), "exec": ("create", "get"),
    "portforward": ("create", "get"), "eviction": ("create",), "finalize": ("update",),
}  # fmt: skip


def verbs_of(kind: Kind) -> tuple[str, ...]:
    """What may be done with a kind."""
    if kind in REVIEWS:
        return ("create",)
    if kind == NEW_EVENTS:
        return READ
    return tuple(one for one in ALL if one != "deletecollection") if kind == NAMESPACES else ALL


def groups() -> list[str]:
    """Those with a name."""
    return sorted({one.group for one in SERVED if one.group})


def discover(request: web.Request) -> web.Response | None:
    """The answer to a discovery path, None for any other."""
    parts = request.path.strip("/").split("/")
    if parts in (["api"], ["apis"]) and _wants_aggregated(request):
        made = [_aggregated(one) for one in ([""] if parts == ["api"] else groups())]
        body = {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": made}
        answer = reply(body)
        answer.headers["Content-Type"] = AGGREGATED_TYPE
        return answer
    if parts == ["api"]:
        address = [{"clientCIDR": "0.0.0.0/0", "serverAddress": request.host}]
        return reply({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": address})
    if parts == ["apis"]:
        return reply({"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(one) for one in groups()]})
    if parts == ["version"]:
        return reply(_version())
    if len(parts) == 2 and parts[0] == "apis" and parts[1] in groups():
        return reply({"kind": "APIGroup", "apiVersion": "v1", **_group(parts[1])})
    if parts == ["api", "v1"]:
        return reply(_resources("", "v1"))
    if len(parts) == 3 and parts[0] == "apis" and any((one.group, one.version) == (*parts[1:],) for one in SERVED):
        return reply(_resources(parts[1], parts[2]))
    return None


def _wants_aggregated(request: web.Request) -> bool:
    return any(
        all(part in one.replace(" ", "").split(";") for part in AGGREGATED)
        for one in request.headers.get("Accept", "").split(",")
    )


def _version() -> Json:
    major, minor, _ = KUBERNETES[1:].split(".")
    return {
        "major": major, "minor": minor, "gitVersion": f"{KUBERNETES}+krayne.sandbox", "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "",
    }  # fmt: skip


def _group(name: str) -> Json:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(group: str, version: str) -> Json:
    found: list[Json] = []
    for kind in SERVED:
        if (kind.group, kind.version) == (group, version):
            found += _rows(kind)
    api_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": found}


def _rows(kind: Kind) -> list[Json]:
    row: Json = {
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": list(verbs_of(kind)),
    }  # fmt: skip
    if kind in SHORT_NAMES:
        row["shortNames"] = list(SHORT_NAMES[kind])
    if kind in CATEGORIES:
        row["categories"] = list(CATEGORIES[kind])
    below = sorted(subresources(kind)) if kind in KINDS else []
    return [row, *(_subresource_row(kind, one) for one in below)]


def _subresource_row(kind: Kind, subresource: str) -> Json:
    return {
        "name": f"{kind.plural}/{subresource}", "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": list(_SUBRESOURCE_VERBS[subresource]),
    }  # fmt: skip


def _aggregated(group: str) -> Json:
    made = [_aggregated_row(kind) for kind in SERVED if kind.group == group]
    version = {"version": "v1", "resources": made, "freshness": "Current"}
    return {"metadata": {"name": group} if group else {}, "versions": [version]}


def _aggregated_row(kind: Kind) -> Json:
    seen = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    row: Json = {
        "resource": kind.plural, "responseKind": seen, "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular, "verbs": list(verbs_of(kind)),
    }  # fmt: skip
    if kind in SHORT_NAMES:
        row["shortNames"] = list(SHORT_NAMES[kind])
    if kind in CATEGORIES:
        row["categories"] = list(CATEGORIES[kind])
    below = sorted(subresources(kind)) if kind in KINDS else []
    if below:
        row["subresources"] = [
            {"subresource": one, "responseKind": seen, "verbs": list(_SUBRESOURCE_VERBS[one])} for one in below
        ]
    return row
