"""`python -m kraynd.doctor`: looks at Kubernetes as the daemon would, without one, and prints each check as JSON.

Reads only; what it asks are questions about rights and versions. Nothing secret is in a check's words.
"""

import sys
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

import anyio
import msgspec

from kraynd.core.text import duration
from kraynd.kube.auth import ApiEndpoint, load_endpoint
from kraynd.kube.client import AbsentError, KubeClient
from krayne.config import load_krayne_settings
from krayne.errors import KrayneError

OK, WARN, FAIL = "ok", "warn", "fail"
SLOW = 2.0  # seconds for an answer; more is felt in every command
SKEWED = 30.0  # seconds between the clocks; tokens and leases bear a minute
ASKED_AT_ONCE = 4  # questions about rights
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
# Group, resource, subresource, verb, and whether krayne cannot do without.
RIGHTS = (
    *(("ray.io", "rayclusters", "", verb, True) for verb in ("get", "list", "watch", "create", "patch", "delete")),
    *(("", "pods", "", verb, True) for verb in ("get", "list", "watch")),
    ("", "pods", "portforward", "create", True),
    ("", "events", "", "list", False),
)


class Check(msgspec.Struct, frozen=True):
    """One finding. `state`: ok, warn or fail; `mend`: what to do about it."""

    name: str
    state: str
    detail: str
    mend: str = ""


async def checks() -> AsyncIterator[Check]:
    """Every check that can be made; what rests on a failed one is left out."""
    try:
        endpoint = load_endpoint(load_krayne_settings())
    except KrayneError as error:
        yield Check("kubeconfig", FAIL, error.message, error.hint or "krayne init")
        return
    access = endpoint.access
    yield Check("kubeconfig", OK, f"context {access.context}, namespace {access.namespace}")
    client = KubeClient(endpoint)
    try:
        async for check in _reached(client, endpoint):
            yield check
    finally:
        await client.close()


async def _reached(client: KubeClient, endpoint: ApiEndpoint) -> AsyncIterator[Check]:
    try:
        await client.get("/version")  # TLS and a credential plugin's start are not the latency
        began = time.monotonic()
        async with client.stream("GET", "/version") as reply:
            date = reply.headers.get("Date", "")
            await client.read(reply)
        took = time.monotonic() - began
    except KrayneError as error:
        yield Check("API server", FAIL, error.message, error.hint or "check the network and the VPN")
        return
    slow = took > SLOW
    yield Check(
        "API server",
        WARN if slow else OK,
        f"{endpoint.server} answers in {took * 1000:.0f} ms",
        "check the network" if slow else "",
    )
    yield clock_check(date, time.time())
    yield await _kuberay(client, endpoint)
    for check in await _rights(client, endpoint.access.namespace):
        yield check


def clock_check(date: str, wall: float) -> Check:
    """This clock beside the server's `Date` header."""
    try:
        skew = wall - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return Check("clock", WARN, "the API server does not say what time it is")
    if abs(skew) <= SKEWED:
        return Check("clock", OK, f"within {SKEWED:.0f} s of the API server's")
    word = "ahead of" if skew > 0 else "behind"
    return Check("clock", FAIL, f"{duration(abs(skew))} {word} the API server's", "set this machine's clock (NTP)")


async def _kuberay(client: KubeClient, endpoint: ApiEndpoint) -> Check:
    mend = "install the KubeRay operator (helm install kuberay-operator kuberay/kuberay-operator)"
    try:
        served = await client.get("/apis/ray.io/v1")
    except AbsentError:
        return Check("KubeRay", FAIL, f"{endpoint.server} serves no RayClusters", mend)
    except KrayneError as error:
        return Check("KubeRay", FAIL, error.message, error.hint)
    if not any(one.get("name") == "rayclusters" for one in served.get("resources") or ()):
        return Check("KubeRay", FAIL, f"{endpoint.server} serves ray.io/v1 without RayClusters", mend)
    return Check("KubeRay", OK, "RayClusters of ray.io/v1 are served")


async def _rights(client: KubeClient, namespace: str) -> list[Check]:
    """Verb by verb, as the API server judges them itself."""
    found: dict[int, Check] = {}
    limit = anyio.CapacityLimiter(ASKED_AT_ONCE)

    async def ask(number: int) -> None:
        async with limit:
            found[number] = await _right(client, namespace, RIGHTS[number])

    async with anyio.create_task_group() as tasks:
        for number in range(len(RIGHTS)):
            tasks.start_soon(ask, number)
    return [found[number] for number in sorted(found)]


async def _right(client: KubeClient, namespace: str, right: tuple[str, str, str, str, bool]) -> Check:
    group, resource, part, verb, needed = right
    name = f"may {verb} {resource}{f'/{part}' if part else ''}"
    attributes = {"namespace": namespace, "group": group, "resource": resource, "subresource": part, "verb": verb}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    try:
        answer = await client.request("POST", REVIEWS, body=body)
    except KrayneError as error:
        return Check(name, WARN, f"not known: {error.message}", error.hint)
    if (answer.get("status") or {}).get("allowed"):
        return Check(name, OK, f"in namespace {namespace}")
    bad = FAIL if needed else WARN
    loss = "" if needed else "; reasons are the poorer"
    return Check(name, bad, f"not in namespace {namespace}{loss}", "ask your administrator for this right")


async def report() -> list[Check]:
    """All checks."""
    return [check async for check in checks()]


def main() -> int:
    """Print them as a JSON array."""
    sys.stdout.write(msgspec.json.encode(anyio.run(report)).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
