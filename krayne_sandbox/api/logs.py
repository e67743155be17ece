"""pods/log: a container's output as text, as it comes if it is followed."""

from aiohttp import web

from krayne_sandbox.api.bodies import is_true, number
from krayne_sandbox.api.paths import Target
from krayne_sandbox.core.meta import Json, seconds_of
from krayne_sandbox.core.statuses import bad_request
from krayne_sandbox.node.face import Node
from krayne_sandbox.store import Store


async def log(request: web.Request, target: Target, store: Store, node: Node) -> web.StreamResponse:
    """Stream one container's log."""
    query = request.query
    pod = store.get(target.kind, target.namespace, target.name)
    container = _container(pod, query.get("container", ""))
    if not (pod.get("spec") or {}).get("nodeName"):
        return web.Response(text="")  # nobody runs it yet
    if is_true(query, "previous"):  # a pod that ended is replaced here: no container runs twice
        raise bad_request(f'previous terminated container "{container}" in pod "{target.name}" not found')
    since = seconds_of(query.get("sinceTime"))
    if (ago := number(query, "sinceSeconds")) is not None:
        since = store.now - ago
    lines = node.logs(
        target.namespace, target.name, container,
        follow=is_true(query, "follow"), tail=number(query, "tailLines"), since=since,
        timestamps=is_true(query, "timestamps"), limit=number(query, "limitBytes"),
    )  # fmt: skip
    answer = web.StreamResponse(headers={"Content-Type": "text/plain"})
    opened = False
    async for data in lines:
        if not opened:
            await answer.prepare(request)
            opened = True
        await answer.write(data)
    if not opened:
        await answer.prepare(request)
    return answer


def _container(pod: Json, asked: str) -> str:
    """The container meant. Raises StatusError 400 when it is not there or must be said."""
    spec = pod.get("spec") or {}
    names = [str(one.get("name")) for one in spec.get("containers") or ()]
    known = names + [str(one.get("name")) for one in spec.get("initContainers") or ()]
    name = pod["metadata"]["name"]
    if asked:
        if asked not in known:
            raise bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    if len(names) > 1:
        choices = " ".join(names)
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{choices}]")
    return names[0] if names else ""
