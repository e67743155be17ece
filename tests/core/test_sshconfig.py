"""Our ssh files: names, strictness, and that nothing a pod or a path says can add a line of its own."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core import sshconfig
from kraynd.core.model import ClusterKey
from kraynd.core.sshconfig import Host
from krayne.errors import StateError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1bWm4J0VfQJd3Jbq3v5cVb3S2nq3b1m8kYc0wZx9aB"
POD = "0d4b0c1e-8a52-4a4f-9d3e-1f2d3c4b5a69"


def host(name: str, namespace: str = "default", port: int = 22000, key: str = KEY, user: str = "") -> Host:
    return Host(ClusterKey(namespace, name), port, key, POD if key else "", user)


def test_a_host_is_strict_and_under_its_own_alias() -> None:
    hosts = (host("demo"),)
    text = sshconfig.config_text(hosts, sshconfig.aliases(hosts, "default"), "/home/me/.krayne/ssh/known_hosts")
    assert "\nHost krayne-demo krayne-demo.default\n" in text
    for line in (
        "HostName 127.0.0.1", "Port 22000", "User ray", "HostKeyAlias krayne-demo.default",
        'UserKnownHostsFile "/home/me/.krayne/ssh/known_hosts"', "StrictHostKeyChecking yes",
    ):  # fmt: skip
        assert f"  {line}\n" in text
    assert sshconfig.known_hosts_text(hosts) == f"krayne-demo.default {KEY} {POD}\n"


def test_a_pod_may_name_who_logs_in_with_the_sandboxs_key() -> None:
    hosts = (host("demo", user="mary.ann"), host("plain"))
    names = sshconfig.aliases(hosts, "default")
    demo, plain = sshconfig.config_text(hosts, names, "/k", "/home/me/.krayne/sandbox/identity").split("\nHost ")[1:]
    assert "  User mary.ann\n" in demo
    assert '  IdentityFile "/home/me/.krayne/sandbox/identity"\n  IdentitiesOnly yes\n' in demo
    assert "  User ray\n" in plain
    assert "IdentityFile" not in plain
    assert "IdentityFile" not in sshconfig.config_text(hosts, names, "/k")
    assert sshconfig.known_hosts_text(hosts).startswith(f"krayne-demo.default {KEY} {POD} mary.ann\n")


@pytest.mark.parametrize("told", ["me\n  ProxyCommand x", "-oProxyCommand=x", "a b", "", "me%h"])
def test_who_logs_in_is_one_word(told: str) -> None:
    assert sshconfig.login_user("me") == "me"
    assert sshconfig.login_user(told) == ""


def test_a_name_in_two_namespaces_is_short_for_the_contexts_own() -> None:
    hosts = (host("demo", "a"), host("demo", "b"), host("solo", "b"))
    names = sshconfig.aliases(hosts, "b")
    assert names[ClusterKey("a", "demo")] == ("krayne-demo.a",)
    assert names[ClusterKey("b", "demo")] == ("krayne-demo", "krayne-demo.b")
    assert names[ClusterKey("b", "solo")] == ("krayne-solo", "krayne-solo.b")
    assert sshconfig.aliases(hosts, "c")[ClusterKey("b", "demo")] == ("krayne-demo.b",)


def test_no_alias_is_two_clusters() -> None:
    hosts = (host("demo", "team"), host("demo.team", "x"))
    names = [alias for one in sshconfig.aliases(hosts, "x").values() for alias in one]
    assert sorted(names) == sorted(set(names))


def test_a_cluster_without_a_key_is_in_the_configuration_alone() -> None:
    hosts = (host("demo", key=""),)
    assert "Host krayne-demo " in sshconfig.config_text(hosts, sshconfig.aliases(hosts, "default"), "/k")
    assert sshconfig.known_hosts_text(hosts) == ""


@pytest.mark.parametrize(
    "told",
    [
        KEY + "\nkrayne-other.default " + KEY,
        KEY + " @cert-authority",
        "* " + KEY,
        "ssh-ed25519",
        KEY + "\n",
        "@revoked " + KEY,
        "",
    ],
)
def test_a_pod_cannot_say_more_than_one_key(told: str) -> None:
    assert sshconfig.is_host_key(KEY)
    assert not sshconfig.is_host_key(told)


@given(st.lists(st.builds(host, st.text(max_size=20), st.text(max_size=20)), max_size=5))
def test_names_that_are_none_are_left_out(hosts: list[Host]) -> None:
    for one in sshconfig.chosen(hosts):
        assert re.fullmatch(r"[a-z0-9.-]+", one.key.name + one.key.namespace)


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@given(st.dictionaries(st.tuples(NAMES, NAMES), st.sampled_from(["", "me", "mary.ann"]), max_size=6))
def test_keys_are_read_back(keys: dict[tuple[str, str], str]) -> None:
    hosts = sshconfig.chosen(host(*one, user=user) for one, user in keys.items())
    found = sshconfig.read_known_hosts(sshconfig.known_hosts_text(hosts))
    assert found == {sshconfig.full_alias(one.key): (KEY, POD, one.user) for one in hosts}


@given(st.text())
def test_any_file_is_read(text: str) -> None:
    sshconfig.read_known_hosts(text)


@pytest.mark.parametrize("path", ['/a"b', "/a\nb", "/a$HOME/b"])
def test_a_path_that_ssh_would_read_otherwise_is_refused(path: str) -> None:
    hosts = (host("demo"),)
    with pytest.raises(StateError):
        sshconfig.config_text(hosts, sshconfig.aliases(hosts, "default"), path)
