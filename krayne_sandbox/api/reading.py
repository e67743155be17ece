"""get, list and watch."""

import base64
import json
import random
from collections.abc import Callable
from typing import Final

import anyio
from aiohttp import web

from krayne_sandbox.api.answers import Form, dumped, form_of, formed, formed_list, reply
from krayne_sandbox.api.bodies import is_true, number
from krayne_sandbox.api.paths import NEW_EVENTS, Target
from krayne_sandbox.core.meta import Json, copied
from krayne_sandbox.core.newevents import as_new_event
from krayne_sandbox.core.rules import Rules
from krayne_sandbox.core.selectors import field_test, label_test
from krayne_sandbox.core.statuses import StatusError, bad_request
from krayne_sandbox.journal import ADDED, DELETED, MODIFIED, Change
from krayne_sandbox.kinds import Kind
from krayne_sandbox.store import FellBehindError, Store, Subscription

BOOKMARK: Final = "BOOKMARK"
BOOKMARK_SECONDS: Final = 60.0  # as the API server's, about
SHORTEST_WATCH: Final = 1800.0  # seconds, when the client does not say; up to twice that
INITIAL_END: Final = "k8s.io/initial-events-end"


class Reader:
    """The reading verbs of one store."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store = store
        self._rules = rules

    def get(self, request: web.Request, target: Target) -> web.Response:
        """One object."""
        found = _seen(target.kind, self._store.get(target.stored, target.namespace, target.name))
        return reply(formed(form_of(request), self._rules, target.kind, found, self._store.now))

    def list(self, request: web.Request, target: Target) -> web.Response:
        """A list, or a page of it."""
        query = request.query
        found = self._store.list(
            target.stored, target.namespace or None,
            labels=query.get("labelSelector", ""), fields=query.get("fieldSelector", ""),
        )  # fmt: skip
        version = self._version(request)
        limit = number(query, "limit") or 0
        after = None
        if token := query.get("continue"):
            version, after = self._continued(token)
            found = [one for one in found if _place(one) > after]
        meta: Json = {"resourceVersion": str(version)}
        if 0 < limit < len(found):
            meta["continue"] = _token(version, _place(found[limit - 1]))
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                meta["remainingItemCount"] = len(found) - limit
            found = found[:limit]
        items = [_seen(target.kind, one) for one in found]
        return reply(formed_list(form_of(request), self._rules, target.kind, items, meta, self._store.now))

    def _version(self, request: web.Request) -> int:
        """Now, checked against the version the client has seen already."""
        asked = _revision(request.query.get("resourceVersion", ""))
        now = self._store.revision
        if asked > now:
            details = {
                "retryAfterSeconds": 1,
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            }
            text = f"Timeout: Too large resource version: {asked}, current: {now}"
            raise StatusError(504, "Timeout", text, details)
        if request.query.get("resourceVersionMatch") == "Exact":
            self._store.check_kept(asked)
        return now

    def _continued(self, token: str) -> tuple[int, tuple[str, str]]:
        try:
            said = json.loads(base64.urlsafe_b64decode(token.encode() + b"=="))
            version, place = int(said["rv"]), (str(said["ns"]), str(said["name"]))
        except (ValueError, KeyError, TypeError):
            raise bad_request("continue key is not valid: it was not made by this server") from None
        try:
            self._store.check_kept(version)
        except StatusError:
            text = (
                "The provided continue parameter is too old to display a consistent list result. You can start a new "
                "list without the continue parameter."
            )
            raise StatusError(410, "Expired", text, {}) from None
        return version, place

    # Watch.

    async def watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Changes as they come, until the client or its deadline ends it."""
        query = request.query
        wanted = label_test(query.get("labelSelector", ""))
        fits = field_test(target.stored, query.get("fieldSelector", ""))

        def suits(thing: Json) -> bool:
            home = thing["metadata"].get("namespace", "")
            return (not target.namespace or home == target.namespace) and wanted(thing) and fits(thing)

        initial = is_true(query, "sendInitialEvents")
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            raise bad_request("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        asked = _revision(query.get("resourceVersion", ""))
        seconds = number(query, "timeoutSeconds") or SHORTEST_WATCH * (1 + random.random())  # noqa: S311
        stream = _Stream(request, target.kind, self._rules, self._store)
        try:
            if initial or not asked:
                subscription = self._store.subscribe(target.stored)
            else:
                subscription = self._store.follow(target.stored, asked)
        except StatusError as error:
            await stream.open()
            await stream.send([{"type": "ERROR", "object": error.body}])
            return stream.response
        with subscription:
            await stream.open()
            with anyio.move_on_after(seconds):
                await self._tell(stream, subscription, suits, initial)
            if is_true(query, "allowWatchBookmarks"):
                await stream.bookmark()
        return stream.response

    async def _tell(
        self, stream: "_Stream", subscription: Subscription, suits: Callable[[Json], bool], initial: bool
    ) -> None:
        marks = is_true(stream.request.query, "allowWatchBookmarks")
        if initial:
            subscription.put_nothing()
            await stream.changes(await subscription.changes(), suits)
            if marks:
                await stream.bookmark({INITIAL_END: "true"})
        while True:
            news: list[Change] | None = None
            try:
                with anyio.move_on_after(BOOKMARK_SECONDS if marks else None):
                    news = await subscription.changes()
            except FellBehindError:
                return  # the client comes back with the version it has
            if news is None:
                await stream.bookmark()
            else:
                await stream.changes(news, suits)


class _Stream:
    """A watch's answer."""

    def __init__(self, request: web.Request, kind: Kind, rules: Rules, store: Store) -> None:
        self.request = request
        self.response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._kind = kind
        self._rules = rules
        self._store = store
        self._form: Form = form_of(request)
        self._head = True

    async def open(self) -> None:
        await self.response.prepare(self.request)

    async def changes(self, news: list[Change], suits: Callable[[Json], bool]) -> None:
        """Those that concern this watch, as it sees them."""
        await self.send([event for one in news if (event := self._event(one, suits)) is not None])

    def _event(self, change: Change, suits: Callable[[Json], bool]) -> Json | None:
        thing = change.object
        was = change.before is not None and suits(change.before)
        now = change.type != DELETED and suits(change.object)
        if change.before is None and now:
            how = ADDED
        elif was and now:
            how = MODIFIED
        elif now:
            how = ADDED
        elif was and change.before is not None:
            how, thing = DELETED, _last_seen(change.before, change.object)
        else:
            return None
        return {"type": how, "object": self._formed(_seen(self._kind, thing))}

    def _formed(self, thing: Json) -> Json:
        made = formed(self._form, self._rules, self._kind, thing, self._store.now, head=self._head)
        self._head = False
        return made

    async def bookmark(self, annotations: Json | None = None) -> None:
        """Where the watch has come to."""
        meta: Json = {"resourceVersion": str(self._store.revision), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        thing: Json = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": meta}
        if self._form.is_table:
            thing = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": [],
                     "rows": []}  # fmt: skip
        await self.send([{"type": BOOKMARK, "object": thing}])

    async def send(self, events: list[Json]) -> None:
        """Lines, in one write."""
        if events:
            await self.response.write(b"".join(dumped(one) + b"\n" for one in events))


def _seen(kind: Kind, thing: Json) -> Json:
    return as_new_event(copied(thing)) if kind == NEW_EVENTS else thing


def _last_seen(before: Json, now: Json) -> Json:
    """What a watcher knew, with the version of the change that took it from its sight."""
    return {**before, "metadata": {**before["metadata"], "resourceVersion": now["metadata"]["resourceVersion"]}}


def _place(thing: Json) -> tuple[str, str]:
    return str(thing["metadata"].get("namespace") or ""), str(thing["metadata"]["name"])


def _token(version: int, place: tuple[str, str]) -> str:
    said = json.dumps({"rv": version, "ns": place[0], "name": place[1]}).encode()
    return base64.urlsafe_b64encode(said).decode().rstrip("=")


def _revision(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise bad_request(f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)
