"""What the screen says, from what the daemon told."""

from typing import Any

import msgspec

from krayne.api import ClusterInfo
from krayne.api.types import cluster_info
from krayne.config import ClusterConfig
from krayne.messages import ClusterDetails, ForwardView, GroupView, ServiceReportView
from krayne_tui import keys, view
from tests.daemon.backend import some_cluster


def info(**more: Any) -> ClusterInfo:
    return cluster_info(msgspec.to_builtins(some_cluster(**more)))


def test_a_row_has_the_phase_in_colour_with_its_reason_and_the_open_ports() -> None:
    cells = view.row(info(phase="pending", reason="no node has room for it, and none is coming soon"))
    assert [one.plain for one in cells] == [
        "default", "demo", "pending no node has room for it, and…", "2/2", "15001 15002 15003",
    ]  # fmt: skip
    assert cells[2].style == "yellow"


def test_the_filter_wants_every_word() -> None:
    one = info(phase="pending", reason="no room")
    assert view.is_shown(one, "DEMO room", "")
    assert not view.is_shown(one, "demo ready", "")
    assert not view.is_shown(one, "", "other")


def test_the_detail_has_services_with_connections_groups_reports_and_events() -> None:
    plain = some_cluster()
    fields = {name: getattr(plain, name) for name in plain.__struct_fields__}
    forward = ForwardView(
        namespace="default", cluster="demo", service="ssh", remote_port=22, local_port=15003, state="ready",
        connections=1,
    )  # fmt: skip
    full = ClusterDetails(
        **fields,
        groups=(GroupView(name="worker", ready=1, desired=2, max=4, reason="no room"),),
        events=("2m ago  Warning  FailedScheduling",),
        forwards=(forward,),
        reports=(ServiceReportView("notebook", "installing", "pip"),),
        problem="the file is broken",
    )
    text = view.detail(msgspec.to_builtins(full))
    assert "ssh         ssh://ray@127.0.0.1:15003                   ready  1 connection" in text
    assert "worker      1/2  0 to 4  no room" in text
    assert "notebook  installing  pip" in text
    assert "FailedScheduling" in text
    assert "the file is broken" in text


def test_the_form_begins_with_the_models_defaults() -> None:
    values = {**view.defaults(), "name": "x"}
    assert view.declared(values) == ClusterConfig(name="x")


def test_the_form_says_what_is_wrong() -> None:
    text, wrong = view.preview({**view.defaults(), "name": "x", "worker.replicas": "many"})
    assert not text
    assert "worker_groups[0].replicas" in wrong
    assert "name" in view.preview(view.defaults())[1]


def test_every_key_is_on_two_lines_of_80() -> None:
    lines = keys.bar().split("\n")
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)
    assert all(label in keys.bar() and says in keys.help_text() for _, _, label, says in keys.KEYS)
