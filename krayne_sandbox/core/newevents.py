"""A core/v1 Event in the form of events.k8s.io/v1."""

from typing import Final

from krayne_sandbox.core.meta import Json

RENAMED: Final = {
    "involvedObject": "regarding", "message": "note", "source": "deprecatedSource", "count": "deprecatedCount",
    "firstTimestamp": "deprecatedFirstTimestamp", "lastTimestamp": "deprecatedLastTimestamp",
    "reportingComponent": "reportingController",
}  # fmt: skip


def as_new_event(event: Json) -> Json:
    """The same event, renamed."""
    found = {RENAMED.get(key, key): one for key, one in event.items()}
    return {**found, "apiVersion": "events.k8s.io/v1", "eventTime": event.get("eventTime")}
