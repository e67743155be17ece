"""Kubeconfig files as kubectl reads them, and what each broken one says."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from kraynd.kube.kubeconfig import Access, find_access, kubeconfig_stamps
from krayne.config import KrayneSettings
from krayne.errors import KubeConfigError

SECRET = "canary-7f3e9a"


def entry(kind: str, name: str, **value: Any) -> dict[str, Any]:
    return {"name": name, kind: value}


def config(**changes: Any) -> dict[str, Any]:
    return {
        "current-context": "one",
        "contexts": [
            entry("context", "one", cluster="near", user="ann", namespace="ml"),
            entry("context", "two", cluster="far", user="bob"),
        ],
        "clusters": [
            entry("cluster", "near", server="https://near:6443/"),
            entry("cluster", "far", server="https://far/k8s/clusters/c-1"),
        ],
        "users": [entry("user", "ann", token=SECRET), entry("user", "bob", token=SECRET)],
        **changes,
    }


def write(path: Path, made: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(made if isinstance(made, str) else yaml.safe_dump(made))
    return path


def find(path: Path | None = None, context: str | None = None, **environ: str) -> Access:
    return find_access(KrayneSettings(kubeconfig=str(path) if path else None, kube_context=context), environ)


def refused(path: Path | None = None, context: str | None = None, **environ: str) -> KubeConfigError:
    """The error, which never holds a credential."""
    with pytest.raises(KubeConfigError) as met:
        find(path, context, **environ)
    assert SECRET not in f"{met.value}{met.value.hint}{met.value!r}{met.value.__cause__!r}"
    assert met.value.kind == "kubeconfig-invalid"
    return met.value


def test_the_settings_come_before_the_environment_before_the_home(tmp_path: Path) -> None:
    own = write(tmp_path / "own", config())
    named = write(tmp_path / "named", config(**{"current-context": "two"}))
    usual = write(tmp_path / ".kube" / "config", config(contexts=[entry("context", "one", cluster="far")]))
    assert find(own, KUBECONFIG=str(named), HOME=str(tmp_path)).context == "one"
    assert find(KUBECONFIG=str(named), HOME=str(tmp_path)).context == "two"
    found = find(HOME=str(tmp_path))
    assert (found.server, found.stamps[0][0]) == ("https://far/k8s/clusters/c-1", str(usual))


def test_a_context_brings_its_server_user_and_namespace(tmp_path: Path) -> None:
    path = write(tmp_path / "config", config())
    one, two = find(path), find(path, "two")
    assert (one.context, one.namespace, one.server, one.user_name) == ("one", "ml", "https://near:6443", "ann")
    assert (two.context, two.namespace, two.server) == ("two", "default", "https://far/k8s/clusters/c-1")
    assert SECRET not in repr(one)


def test_of_several_files_the_first_to_say_it_holds(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty", "")
    first = write(tmp_path / "a" / "first", config(contexts=[], **{"current-context": ""}))
    second = write(
        tmp_path / "b" / "second",
        config(
            clusters=[entry("cluster", "near", server="https://impostor")],
            users=[entry("user", "ann", tokenFile="token"), entry("user", "carl", tokenFile="token")],
            contexts=[entry("context", "three", cluster="near", user="carl")],
            **{"current-context": "three"},
        ),
    )
    third = write(tmp_path / "third", config(**{"current-context": "two"}))
    listed = os.pathsep.join(map(str, (empty, first, tmp_path / "absent", second, third)))
    found = find(KUBECONFIG=listed)
    assert (found.context, found.server) == ("three", "https://near:6443")
    assert found.user["tokenFile"] == str(tmp_path / "b" / "token")  # relative to the file that says it
    assert [path for path, stamp in found.stamps if stamp is None] == [str(tmp_path / "absent")]


def test_home_is_written_short_in_paths(tmp_path: Path) -> None:
    write(tmp_path / "mine", config())
    assert find_access(KrayneSettings(kubeconfig="~/mine"), {"HOME": str(tmp_path)}).context == "one"


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in error.message
    assert "KUBECONFIG" in error.hint
    assert "config does not exist" in refused(HOME=str(tmp_path)).message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"users:\n- name: a\n  user: {{token: {SECRET}\n", "line 4"),
        (f"a: 1\n\tb: {SECRET}", "line 2"),
        (f"token: *{SECRET}", "line 1"),
        ("\x00", "malformed"),
        ("- one\n- two\n", "has no clusters, contexts and users"),
        (SECRET, "has no clusters, contexts and users"),
        ("contexts: 3", "contexts is not a list of named entries"),
        ("users: [{user: {}}]", "users is not a list of named entries"),
        ("clusters: [{name: x, cluster: [1]}]", "cluster x has no fields"),
        ("a: 2026-99-99", "not YAML"),
        ("[" * 20_000, "malformed"),
    ],
)
def test_a_malformed_file_is_named_with_the_place(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path / "config", text)
    error = refused(path)
    assert str(path) in error.message
    assert says in error.message


def test_of_two_files_the_malformed_one_is_named(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good", config()), write(tmp_path / "bad", "a: [")
    error = refused(KUBECONFIG=f"{good}{os.pathsep}{bad}")
    assert str(bad) in error.message
    assert str(good) not in error.message


def test_an_unknown_context_is_told_the_known_ones(tmp_path: Path) -> None:
    error = refused(write(tmp_path / "config", config()), "tree")
    assert "no context tree" in error.message
    assert error.hint == "it has one, two"


def test_no_current_context_is_told_the_command(tmp_path: Path) -> None:
    error = refused(write(tmp_path / "config", config(**{"current-context": None})))
    assert "no current context" in error.message
    assert "kubectl config use-context" in error.hint
    assert "one, two" in error.hint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"clusters": []}, "names the cluster near, which"),
        ({"users": []}, "names the user ann, which"),
        ({"contexts": [entry("context", "one", user="ann")]}, "names no cluster"),
        ({"clusters": [entry("cluster", "near")]}, "no usable server address"),
        ({"clusters": [entry("cluster", "near", server="near:6443")]}, "no usable server address"),
        ({"clusters": [entry("cluster", "near", server="https://near:99999")]}, "no usable server address"),
        ({"clusters": [entry("cluster", "near", server=f"https://ann:{SECRET}@near")]}, "more than a host"),
    ],
)
def test_what_a_context_lacks_is_said(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    assert says in refused(write(tmp_path / "config", config(**change))).message


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ({"auth-provider": {"name": "gcp", "config": {"access-token": SECRET}}}, "auth provider gcp"),
        ({"auth-provider": {"name": "oidc"}}, "auth provider oidc"),
        ({"token": SECRET, "as-groups": ["admins"]}, "without a user"),
        ({"exec": "aws"}, "names no command"),
        ({"exec": {"args": [SECRET]}}, "names no command"),
        ({"exec": {"command": "aws", "apiVersion": "client.authentication.k8s.io/v1alpha1"}}, "v1alpha1"),
        ({"exec": {"command": "aws", "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Always"}},
         "needs a terminal"),
        ({"exec": {"command": "aws", "apiVersion": "client.authentication.k8s.io/v1", "env": {"A": SECRET}}},
         "args and env must be lists"),
    ],
)  # fmt: skip
def test_users_we_cannot_be_are_refused(tmp_path: Path, user: dict[str, Any], says: str) -> None:
    assert says in refused(write(tmp_path / "config", config(users=[{"name": "ann", "user": user}]))).message


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_a_file_others_can_write_could_run_commands(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "config", config())
    path.chmod(mode)
    error = refused(path)
    assert "can be written by other users" in error.message
    assert error.hint == f"chmod go-w {path}"
    path.chmod(0o644)
    assert find(path).context == "one"


def test_what_is_no_file_is_refused_without_blocking(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    assert "is not a file" in refused(pipe).message
    assert "cannot be read" in refused(tmp_path).message or "is not a file" in refused(tmp_path).message


def test_in_a_pod_its_own_account_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kraynd.kube.kubeconfig.IN_CLUSTER", str(tmp_path))
    for name, text in (("token", SECRET), ("ca.crt", "ca"), ("namespace", "ml\n")):
        (tmp_path / name).write_text(text)
    service: dict[str, Any] = {
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "6443",
        "HOME": str(tmp_path),
    }
    found = find(**service)
    assert (found.context, found.namespace, found.server) == ("in-cluster", "ml", "https://[fd00::1]:6443")
    assert found.user == {"tokenFile": str(tmp_path / "token")}
    assert "KUBERNETES_SERVICE_HOST" in refused(HOME=str(tmp_path)).message
    # A named kubeconfig that is missing is an error, never another identity.
    assert "does not exist" in refused(**service, KUBECONFIG=str(tmp_path / "nowhere")).message


def test_stamps_change_with_the_files(tmp_path: Path) -> None:
    settings, environ = KrayneSettings(), {"KUBECONFIG": str(tmp_path / "config")}
    before = kubeconfig_stamps(settings, environ)
    write(tmp_path / "config", config())
    assert kubeconfig_stamps(settings, environ) != before
