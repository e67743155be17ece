"""The bootstrap as the manifest carries it: what it is told, what it is made of, and how its reports are read."""

import ast
import json
import subprocess
import sys
from contextlib import suppress
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraynd.core.bootstrap import (
    HOOK,
    MODULES,
    PROGRAM,
    STATUS_PORT,
    BootstrapSettings,
    ServiceReport,
    head_lifecycle,
    parse_service_report,
)
from krayne.config import ClusterConfig
from krayne.errors import ProtocolError

OLDEST_PYTHON = (3, 9)  # of the images we choose
LINUX_ARGUMENT_LIMIT = 128 * 1024  # bytes of one argument or variable


def command(settings: BootstrapSettings | None = None, **services: bool) -> list[str]:
    config = ClusterConfig.model_validate({"name": "demo", "services": services})
    found: list[str] = head_lifecycle(config, settings or BootstrapSettings())["postStart"]["exec"]["command"]
    return found


def told(settings: BootstrapSettings | None = None, **services: bool) -> Any:
    return json.loads(command(settings, **services)[5])


def test_without_services_nothing_is_hooked() -> None:
    config = ClusterConfig.model_validate(
        {"name": "demo", "services": {"notebook": False, "code_server": False, "ssh": False}}
    )
    assert head_lifecycle(config, BootstrapSettings()) == {}


def test_only_wanted_services_are_told_of_each_on_its_port() -> None:
    ports = {name: service["port"] for name, service in told(code_server=False)["services"].items()}
    assert ports == {"notebook": 8888, "ssh": 22}
    assert told()["status_port"] == STATUS_PORT


def test_jupyter_is_told_the_names_a_browser_uses_and_no_others() -> None:
    assert told()["services"]["notebook"]["hosts"] == ["localhost", "notebook.demo.localhost"]


def test_every_setting_reaches_the_pod() -> None:
    settings = BootstrapSettings(
        code_server_version="1.2.3",
        code_server_url="https://a/{version}/{arch}",
        code_server_sha256={"amd64": "ab"},
        notebook_requirement="notebook==1",
        pip_index_url="https://b",
        apt=False,
        apt_mirror="https://c",
    )
    services = told(settings)["services"]
    assert services["code-server"] == {
        "port": 8443, "version": "1.2.3", "url": "https://a/{version}/{arch}", "sha256": {"amd64": "ab"}
    }  # fmt: skip
    assert (services["notebook"]["requirement"], services["notebook"]["pip_index_url"]) == ("notebook==1", "https://b")
    assert (services["ssh"]["apt"], services["ssh"]["apt_mirror"]) == (False, "https://c")


def test_the_command_fits_what_linux_takes() -> None:
    assert all(len(part.encode()) < LINUX_ARGUMENT_LIMIT for part in command())


def test_the_program_is_its_modules_each_after_those_it_imports() -> None:
    parts = PROGRAM.split("#: module ")[1:]
    names = [part.partition("\n")[0] for part in parts]
    assert names == [f"kraynd.pod.{name}" for name in MODULES]
    for name, part in zip(names, parts, strict=True):
        tree = ast.parse(part.partition("\n")[2], feature_version=OLDEST_PYTHON)
        imported = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        foreign = {one for one in imported - set(names) if one.partition(".")[0] not in sys.stdlib_module_names}
        assert not foreign, f"{name} imports what a pod has not"
        assert not imported & set(names[names.index(name) :]), f"{name} imports what comes later"
    files = {path.name for path in resources.files("kraynd.pod").iterdir() if path.name.endswith(".py")}
    assert files == {"__init__.py", *(f"{name}.py" for name in MODULES)}


@pytest.mark.parametrize("shell", [["sh", "-n"], ["bash", "--posix", "-n"]])
def test_the_hook_is_valid_shell(shell: list[str]) -> None:
    subprocess.run([*shell, "-c", HOOK], check=True, timeout=30)


def test_a_report_is_read_and_what_is_new_in_it_ignored() -> None:
    body = {"ssh": {"state": "running", "since": 12.5, "log": ["a"], "host_key": "ssh-ed25519 AAAA", "later": {}}}
    expected = ServiceReport(state="running", since=12.5, log=("a",), host_key="ssh-ed25519 AAAA")
    assert parse_service_report(json.dumps(body).encode()) == {"ssh": expected}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"ssh": {}}', b'{"ssh": {"state": 1}}', b"[" * 10_000])
def test_what_is_no_report_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_service_report(body)


@given(body=st.binary(max_size=200))
def test_any_bytes_are_a_report_or_a_protocol_error(body: bytes) -> None:
    with suppress(ProtocolError):
        parse_service_report(body)
