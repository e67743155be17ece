"""Label and field selectors."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krayne_sandbox.core.selectors import field_test, label_test
from krayne_sandbox.kinds import EVENTS, PODS, RAYCLUSTERS
from krayne_sandbox.store import StatusError

LABELS = {"ray.io/cluster": "demo", "tier": "head", "n": "5"}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("ray.io/cluster", True),
        ("ray.io/cluster=demo", True),
        ("ray.io/cluster==demo,tier=head", True),
        ("ray.io/cluster = demo , tier!=worker", True),
        ("tier!=head", False),
        ("absent!=x", True),
        ("!absent", True),
        ("!tier", False),
        ("tier in (head, worker)", True),
        ("tier in (worker)", False),
        ("tier notin (worker),n", True),
        ("absent notin (x)", True),
        ("absent in (x)", False),
        ("absent in (x,)", False),
        ("n>4", True),
        ("n<5", False),
        ("tier>4", False),
        ("tier=", False),
    ],
)
def test_labels(selector: str, matches: bool) -> None:
    assert label_test(selector)({"metadata": {"labels": LABELS}}) is matches


@pytest.mark.parametrize("selector", ["a in b", "a in (", "=x", "a=b=c", "a,,b", "a>x", "-a", "a in (b c)"])
def test_what_is_no_selector(selector: str) -> None:
    with pytest.raises(StatusError) as met:
        label_test(selector)
    assert met.value.code == 400


@given(st.text(alphabet="ab=!<>(), innot./-", max_size=20))
def test_no_text_breaks_the_parser(selector: str) -> None:
    with suppress(StatusError):
        label_test(selector)({"metadata": {}})


def test_fields() -> None:
    pod = {"metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}
    assert field_test(PODS, "metadata.name=p,status.phase!=Failed,spec.nodeName==n")(pod)
    assert not field_test(PODS, "status.phase=Failed")(pod)
    assert field_test(EVENTS, "involvedObject.uid=u")({"involvedObject": {"uid": "u"}})
    for kind, selector in ((RAYCLUSTERS, "status.phase=x"), (PODS, "spec.x=y"), (PODS, "nonsense")):
        with pytest.raises(StatusError) as met:
            field_test(kind, selector)
        assert met.value.code == 400
