"""Which forwards should be on: declared, ours without a file, another's; opened and closed by their user."""

from kraynd.core.intent import ClusterMemory, Declared
from kraynd.core.model import ClusterKey, Json
from kraynd.offers import Offer, offers, services_of_manifest, with_ports, without_ports
from krayne.config import ClusterConfig, ServicesConfig

KEY = ClusterKey("default", "demo")
ALL = ["dashboard", "client", "notebook", "code-server", "ssh"]
LIVE: Json = {
    "spec": {
        "headGroupSpec": {
            "template": {"spec": {"containers": [{"ports": [{"containerPort": 22}, {"containerPort": 8265}]}]}}
        }
    }
}


def found(
    *, config: ClusterConfig | None = None, ours: bool = True, live: Json | None = None, memory: ClusterMemory
) -> tuple[Offer, ...]:
    declared = None if config is None else Declared(KEY, config, "demo.yaml")
    return offers(KEY, declared=declared, ours=ours, live=live, memory=memory)


def names(offered: tuple[Offer, ...], *, on: bool | None = None) -> list[str]:
    return [one.service.name for one in offered if on is None or one.on == on]


def test_a_declared_cluster_offers_its_services() -> None:
    assert names(found(config=ClusterConfig(name="demo"), memory=ClusterMemory()), on=True) == ALL


def test_a_service_that_is_switched_off_has_no_forward() -> None:
    config = ClusterConfig(name="demo", services=ServicesConfig(ssh=False))
    assert "ssh" not in names(found(config=config, memory=ClusterMemory()))


def test_ours_without_a_file_keeps_what_its_head_names() -> None:
    assert names(found(live=LIVE, memory=ClusterMemory())) == ["dashboard", "ssh"]
    assert names(found(memory=ClusterMemory(last_applied=LIVE))) == ["dashboard", "ssh"]


def test_anothers_cluster_offers_only_what_was_opened() -> None:
    assert found(ours=False, live=LIVE, memory=ClusterMemory()) == ()
    opened = with_ports(ClusterMemory(), [(8265, 0)])
    assert names(found(ours=False, live=LIVE, memory=opened)) == ["dashboard"]


def test_an_extra_port_is_added_and_closed_again() -> None:
    memory = with_ports(ClusterMemory(), [(9000, 9001)])
    config = ClusterConfig(name="demo")
    assert names(found(config=config, memory=memory))[-1] == "port-9000"
    closed = without_ports(memory, [9000, 22])
    assert names(found(config=config, memory=closed), on=False) == ["ssh", "port-9000"]
    assert names(found(config=config, memory=with_ports(closed, [])), on=False) == []


def test_closing_everything_is_remembered_and_undone() -> None:
    closed = without_ports(ClusterMemory(), [])
    config = ClusterConfig(name="demo")
    assert names(found(config=config, memory=closed), on=True) == []
    assert names(found(config=config, memory=with_ports(closed, [])), on=True) == ALL


def test_an_opened_known_port_is_not_listed_twice() -> None:
    memory = with_ports(ClusterMemory(), [(8265, 0)])
    assert names(found(config=ClusterConfig(name="demo"), memory=memory)) == ALL


def test_a_manifest_without_a_head_offers_nothing() -> None:
    assert services_of_manifest({}) == ()
