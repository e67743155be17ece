"""User-level settings: kept privately, replaced whole, and never silently the defaults."""

import dataclasses
import inspect
from pathlib import Path

import pytest

from krayne.config import (
    ConfigValidationError,
    KrayneSettings,
    clear_krayne_settings,
    load_krayne_settings,
    save_krayne_settings,
)
from krayne.errors import StateError


@pytest.fixture
def file(home_path: Path) -> Path:
    return home_path / "config.yaml"


@pytest.mark.parametrize("field", ["kubeconfig", "kube_context"])
def test_row(field: str) -> None:
    (found,) = (one for one in dataclasses.fields(KrayneSettings) if one.name == field)
    assert found.type == str | None
    assert found.default is None


def test_the_signatures() -> None:
    assert [one.name for one in dataclasses.fields(KrayneSettings)] == ["kubeconfig", "kube_context"]
    assert inspect.signature(load_krayne_settings).return_annotation is KrayneSettings
    assert list(inspect.signature(save_krayne_settings).parameters) == ["settings"]
    assert not inspect.signature(clear_krayne_settings).parameters


def test_settings_are_changed_in_place() -> None:
    settings = KrayneSettings()
    settings.kube_context = "prod"
    assert settings == KrayneSettings(None, "prod")


def test_absent_means_defaults(file: Path) -> None:
    assert load_krayne_settings() == KrayneSettings()
    assert not file.parent.exists()


@pytest.mark.parametrize(
    "settings",
    [
        KrayneSettings(),
        KrayneSettings("/k/config"),
        KrayneSettings(kube_context="arn:aws:eks:x:1:cluster/prod"),
        KrayneSettings("~/kube config", "22:22"),
        KrayneSettings("no", "1"),
    ],
)
@pytest.mark.usefixtures("file")
def test_saved_settings_load_again(settings: KrayneSettings) -> None:
    save_krayne_settings(settings)
    assert load_krayne_settings() == settings


def test_the_home_is_made_private_and_so_is_the_file(file: Path) -> None:
    save_krayne_settings(KrayneSettings("a"))
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


def test_saving_replaces_the_file_whole_and_leaves_nothing_behind(file: Path) -> None:
    save_krayne_settings(KrayneSettings("a", "b"))
    with file.open() as reader:
        save_krayne_settings(KrayneSettings(kube_context="c"))
        assert reader.read() == "kubeconfig: a\nkube_context: b\n"
    assert file.read_text() == "kube_context: c\n"
    assert [one.name for one in file.parent.iterdir()] == ["config.yaml"]


def test_a_save_that_fails_says_so_and_leaves_the_old_file(file: Path) -> None:
    file.mkdir(parents=True)
    with pytest.raises(StateError, match="cannot be changed"):
        save_krayne_settings(KrayneSettings("a"))
    assert [one.name for one in file.parent.iterdir()] == ["config.yaml"]
    with pytest.raises(StateError, match="cannot be changed"):
        clear_krayne_settings()


def test_a_home_that_is_a_file(home_path: Path) -> None:
    home_path.touch()
    with pytest.raises(StateError, match="cannot be changed"):
        save_krayne_settings(KrayneSettings("a"))
    with pytest.raises(ConfigValidationError, match="cannot be read"):
        load_krayne_settings()


def test_clear(file: Path) -> None:
    clear_krayne_settings()
    save_krayne_settings(KrayneSettings("a"))
    clear_krayne_settings()
    assert not file.exists()
    assert load_krayne_settings() == KrayneSettings()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kubecontext: a", ":1:1: kubecontext is not a setting; did you mean kube_context?"),
        ("# x\nother: a", ":2:1: other is not a setting"),
        ("kube_context: no", ':1:15: kube_context must be text: write "no" in quotes'),
        ("kube_context: 5", ':1:15: kube_context must be text: write "5" in quotes'),
        ("kubeconfig: [a]", ":1:13: kubeconfig must be text, not a list"),
        ("kubeconfig: ''", ":1:13: kubeconfig must not be empty"),
        ("- a", ":1:1: settings are fields, such as kube_context: prod"),
        ("kubeconfig: a\nkubeconfig: b", ":2:1: kubeconfig is written twice, first on line 1"),
        ("kubeconfig: [", "this is not valid YAML"),
        ("kubeconfig: &a b", "YAML anchors are not allowed here"),
    ],
)
def test_a_malformed_file_is_an_error_with_a_place(file: Path, text: str, says: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(ConfigValidationError) as caught:
        load_krayne_settings()
    assert str(file) in caught.value.message
    assert says in caught.value.message


@pytest.mark.parametrize("text", ["", "# nothing\n", "kubeconfig:\n", "kubeconfig: ~\nkube_context: null\n"])
def test_a_file_without_values_means_defaults(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    assert load_krayne_settings() == KrayneSettings()
