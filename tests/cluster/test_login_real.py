"""A login that expires, as a person meets it: an exec plugin that fails until they log in again."""

import json
import stat
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.using import becomes, condition, home_with, live, until
from tests.controlplane.plane import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

ALL = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
EXPIRED = "The SSO session has expired."
FURTHER_RUNS = 4  # tries of the plugin to see after the first that failed
APART = 4.0  # seconds at least between two of them
PATIENCE = 150.0  # seconds for them: their distance grows to 15
# Named as the AWS CLI is, so that its command to log in is the one to be told.
PLUGIN = f"""#!{sys.executable}
import json, os, sys
here = os.path.dirname(__file__)
with open(here + "/runs", "a") as runs:
    runs.write("run\\n")
try:
    token = open(here + "/session").read()
except OSError:
    sys.exit("{EXPIRED}")
answer = {{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {{"token": token}}}}
print(json.dumps(answer))
"""


class Login:
    """The plugin and its session: `log_in` begins one, `expire` ends it."""

    def __init__(self, plane: ControlPlane, user: str, folder: Path) -> None:
        self._plane, self._user, self._folder = plane, user, folder
        self._token = ""
        command = folder / "aws"
        command.write_text(PLUGIN)
        command.chmod(stat.S_IRWXU)
        self.kubeconfig = plane.kubeconfig_for(user, rules=[ALL], auth="token")
        config = json.loads(self.kubeconfig.read_text())
        (one,) = config["users"]
        version = "client.authentication.k8s.io/v1"
        one["user"] = {"exec": {"apiVersion": version, "command": str(command), "interactiveMode": "Never"}}
        self.kubeconfig.write_text(json.dumps(config))

    def log_in(self) -> None:
        self._token = self._plane.token(self._user)
        made = self._folder / "session.new"
        made.write_text(self._token)
        made.rename(self._folder / "session")  # the plugin reads none or a whole one

    def expire(self) -> None:
        (self._folder / "session").unlink()
        self._plane.node.revoke_token(self._token)

    def runs(self) -> int:
        return len((self._folder / "runs").read_text().splitlines())

    def requests(self) -> int:
        """What the API server was asked by this user, or by nobody it knows."""
        names = (self._user, "", "system:anonymous")
        return sum(one["user"].get("username", "") in names for one in self._plane.audit())


def test_a_plugin_installed_since_is_found_by_the_command_that_needs_it(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    login = Login(plane, f"plugin-{namespace}", tmp_path)
    login.log_in()
    tool = tmp_path / "cloud-login"
    (tmp_path / "aws").rename(tool)
    config = json.loads(login.kubeconfig.read_text())
    config["users"][0]["user"]["exec"]["command"] = tool.name
    login.kubeconfig.write_text(json.dumps(config))
    with home_with(login.kubeconfig) as krayne:
        krayne("daemon", "start")
        world = condition(krayne, "login-needed")
        assert f"{tool.name} was not found; searched {krayne.env['PATH']}" in world["reason"]
        path = f"{krayne.env['PATH']}:{tmp_path}"
        done = krayne("create", "demo", "-n", namespace, "--wait", "--timeout", "100s", PATH=path)
        assert "this shell's PATH" in done.err
        assert krayne.cluster("demo")["phase"] == "ready"
        krayne("daemon", "restart", PATH=path)
        condition(krayne, "ready")


def test_an_expired_login_is_told_waited_for_and_gone_on_from(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    login = Login(plane, f"sso-{namespace}", tmp_path)
    login.log_in()
    with home_with(login.kubeconfig) as krayne:
        krayne("create", "demo", "-n", namespace, "--wait", "--timeout", "100s")
        login.expire()
        krayne("daemon", "restart")  # the next morning: no open connection carries on with yesterday's token

        world = condition(krayne, "login-needed")
        assert EXPIRED in world["reason"]
        assert "aws sso login" in world["hint"]
        assert "aws sso login" in krayne("status").out
        shown = krayne("ls", "-n", namespace)
        assert "login-needed" in shown.err
        assert "try: log in again with: aws sso login" in shown.err

        # What is asked for meanwhile is kept, and nobody is stormed: neither the plugin nor the API server.
        krayne("create", "later", "-n", namespace)
        before, asked, began = login.runs(), login.requests(), time.monotonic()
        until("the plugin's next tries", lambda: login.runs() >= before + FURTHER_RUNS, PATIENCE)
        runs, seconds = login.runs() - before, time.monotonic() - began
        assert runs <= seconds / APART + 2, f"{runs} runs in {seconds:.0f} s"
        assert login.requests() == asked
        assert live(plane, namespace, "later") is None

        login.log_in()
        condition(krayne, "ready")
        for name in ("demo", "later"):
            becomes(krayne, name, lambda row: bool(row["phase"] == "ready"))
        assert krayne("ls", "-n", namespace).err == ""
