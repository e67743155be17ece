"""Kubernetes Events as a user reads them: whose, why, how often; one line each. Pure."""

import hashlib
from collections.abc import Iterable

from kraynd.core.events import happenings
from kraynd.core.model import Json
from krayne.messages import EventList, EventView


def event_list(events: Iterable[Json]) -> EventList:
    """The events, oldest first; `state` changes when one comes or is repeated."""
    views = sorted((_view(event) for event in events), key=lambda one: (one.at, one.id))
    marks = "\n".join(f"{one.id} {one.count} {one.at}" for one in views)
    return EventList(events=tuple(views), state=hashlib.sha256(marks.encode()).hexdigest()[:16])


def _view(event: Json) -> EventView:
    (read,) = happenings([event])
    metadata, subject = event.get("metadata") or {}, event.get("involvedObject") or event.get("regarding") or {}
    times = (event.get("series") or {}).get("count") or event.get("count") or event.get("deprecatedCount") or 1
    return EventView(
        id=str(metadata.get("uid") or metadata.get("name") or ""),
        at=read.at,
        warning=read.warning,
        object=f"{str(subject.get('kind', '')).lower()}/{subject.get('name', '')}",
        reason=read.reason,
        text=read.text,
        count=int(times),
    )
