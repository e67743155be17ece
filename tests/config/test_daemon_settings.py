"""kraynd.yaml: every default, and errors that name the line and the nearest setting."""

from pathlib import Path

import pytest

from krayne.config.daemon import DaemonSettings, load_daemon_settings
from krayne.errors import ConfigValidationError


@pytest.fixture
def file(home_path: Path) -> Path:
    home_path.mkdir(mode=0o700)
    return home_path / "kraynd.yaml"


def test_without_a_file_everything_has_its_default(file: Path) -> None:
    assert load_daemon_settings() == DaemonSettings()
    assert DaemonSettings().model_dump() == {
        "log_level": "info",
        "namespaces": (),
        "prune": False,
        "default_image": None,
        "ports": {"low": 15000, "high": 24999},
        "hold": {"seconds": 30.0, "connections": 256},
        "locks": {"users": True, "web": True},
        "tunnel_idle_seconds": 600.0,
        "bootstrap": {
            "code_server_version": None,
            "code_server_url": None,
            "code_server_sha256": {},
            "notebook_requirement": None,
            "pip_index_url": "",
            "apt": True,
            "apt_mirror": "",
        },
    }


def test_what_an_air_gapped_cluster_changes(file: Path) -> None:
    file.write_text(
        "default_image: registry.corp/ray:2.60.0-py311\n"
        "namespaces: [ml]\n"
        "bootstrap:\n"
        "  pip_index_url: https://pypi.corp/simple\n"
        "  code_server_url: https://files.corp/code-server-{version}-{arch}.tar.gz\n"
    )
    settings = load_daemon_settings()
    assert settings.default_image == "registry.corp/ray:2.60.0-py311"
    assert settings.namespaces == ("ml",)
    assert settings.bootstrap.pip_index_url == "https://pypi.corp/simple"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("prnue: true\n", 1, "did you mean prune?"),
        ("hold:\n  second: 3\n", 2, "did you mean seconds?"),
        ("ports:\n  low: 80\n", 2, "ports.low"),
        ("ports: {low: 20000, high: 19000}\n", 1, "high"),
        ("log_level: loud\n", 1, "debug, info, warning or error"),
        ("hold: {connections: -1}\n", 1, "hold.connections"),
        ("- prune\n", 1, "settings are fields"),
        ("bootstrap:\n  apt: 3\n", 2, "true or false"),
    ],
)
def test_a_mistake_has_a_line_and_a_name(file: Path, text: str, line: int, says: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigValidationError) as met:
        load_daemon_settings()
    assert says in f"{met.value.message} {met.value.hint}"
    assert f"line {line}" in met.value.message or f":{line}" in met.value.message
