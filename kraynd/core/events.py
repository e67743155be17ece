"""Reading Kubernetes Events of both APIs (core/v1 and events.k8s.io): whose, why, when. Pure."""

from collections.abc import Collection, Iterable

import msgspec

from kraynd.core.model import Json
from kraynd.core.times import unix


class Happening(msgspec.Struct, frozen=True):
    """One event: the object's uid, the reason word, the text, the last time (wall seconds, 0 unknown), the type."""

    uid: str
    reason: str
    text: str
    at: float
    warning: bool

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}" if self.text else self.reason


def happenings(events: Iterable[Json]) -> tuple[Happening, ...]:
    """The events, newest first. The scheduler's carry null first/lastTimestamp: eventTime and series are read too."""
    return tuple(sorted((_read(event) for event in events), key=lambda one: -one.at))


def newest(known: Iterable[Happening], uid: str, reasons: Collection[str]) -> Happening | None:
    """The newest event of an object with one of these reasons."""
    return next((one for one in known if one.uid == uid and one.reason in reasons), None)


def _read(event: Json) -> Happening:
    subject = event.get("involvedObject") or event.get("regarding") or {}
    text = " ".join(str(event.get("message") or event.get("note") or "").split())
    stamps = (
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("eventTime"),
        event.get("lastTimestamp") or event.get("deprecatedLastTimestamp"),
        (event.get("metadata") or {}).get("creationTimestamp"),
    )
    at = max((moment for stamp in stamps if (moment := unix(stamp)) is not None), default=0.0)
    return Happening(
        uid=str(subject.get("uid", "")),
        reason=str(event.get("reason", "")),
        text=text,
        at=at,
        warning=event.get("type") == "Warning",
    )
