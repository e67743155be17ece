"""Events of both APIs are read alike."""

from kraynd.core.events import happenings


def test_events_of_the_new_api_are_read_too() -> None:
    new = {
        "regarding": {"uid": "u1"},
        "reason": "FailedScheduling",
        "note": "no\nnode",
        "type": "Warning",
        "eventTime": "2030-01-01T00:00:00.000001Z",
        "series": {"lastObservedTime": "2030-01-02T00:00:00.5Z"},
    }
    old = {
        "involvedObject": {"uid": "u2"},
        "reason": "Pulling",
        "message": "x",
        "type": "Normal",
        "lastTimestamp": "2030-01-01T12:00:00Z",
    }
    first, second = happenings((old, new))
    assert (first.uid, first.text, str(second)) == ("u1", "no node", "Pulling: x")
    assert first.at > second.at > 0
    assert happenings(({},))[0].at == 0.0
