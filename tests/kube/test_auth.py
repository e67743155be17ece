"""What authenticates a request, where it goes, and how both change without a restart."""

import base64
import json
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
import yaml

from kraynd.kube.auth import ApiEndpoint, load_endpoint
from kraynd.kube.proxy import proxy_for
from krayne.config import KrayneSettings
from krayne.errors import KubeConfigError, LoginNeededError

pytestmark = pytest.mark.anyio
SECRET = "canary-7f3e9a"
V1 = "client.authentication.k8s.io/v1"


class Clock:
    """Wall time, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def write(folder: Path, user: dict[str, Any], context: dict[str, Any] | None = None, **cluster: Any) -> Path:
    made = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "me", **(context or {})}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example:6443", **cluster}}],
        "users": [{"name": "me", "user": user}, {"name": "you", "user": user}],
    }
    path = folder / "config"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(made))
    return path


def endpoint(
    folder: Path, user: dict[str, Any], *, wall: Callable[[], float] | None = None, environ: Any = None, **cluster: Any
) -> ApiEndpoint:
    settings = KrayneSettings(kubeconfig=str(write(folder, user, **cluster)))
    made = load_endpoint(settings, {"PATH": "/usr/bin:/bin", **(environ or {})})
    if wall is not None:
        made._wall = wall
    return made


def counting(folder: Path, body: str = "", **status: Any) -> dict[str, Any]:
    """A plugin whose token counts its runs."""
    path, count = folder / "plugin", folder / "count"
    path.write_text(
        f"#!{sys.executable} -IS\nimport json, sys\nopen({str(count)!r}, 'a').write('x')\n{body}\n"
        f"n = len(open({str(count)!r}).read())\n"
        f"print(json.dumps({{'status': {{'token': f'{SECRET}-{{n}}', **{status!r}}}}}))\n"
    )
    path.chmod(0o700)
    return {"exec": {"command": str(path), "apiVersion": V1}}


def runs(folder: Path) -> int:
    return len((folder / "count").read_text()) if (folder / "count").exists() else 0


def bearer(count: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRET}-{count}"}


# What is sent.


async def test_each_kind_of_user_has_its_headers(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}-file\n")
    basic = base64.b64encode(f"ann:{SECRET}".encode()).decode()
    cases: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({}, {}),
        ({"token": f" {SECRET}\n"}, {"Authorization": f"Bearer {SECRET}"}),
        ({"token": "old", "tokenFile": "token"}, {"Authorization": f"Bearer {SECRET}-file"}),
        ({"username": "ann", "password": SECRET}, {"Authorization": f"Basic {basic}"}),
        ({"as": "bob"}, {"Impersonate-User": "bob"}),
    ]
    for user, headers in cases:
        assert await endpoint(tmp_path, user).headers() == headers


async def test_impersonation_repeats_its_headers(tmp_path: Path) -> None:
    user = {"as": "bob", "as-uid": "7", "as-groups": ["a,b", "c"], "as-user-extra": {"dept/x": ["d", "e"]}}
    found = [(name.title(), value) for name, value in (await endpoint(tmp_path, user).headers()).items()]
    assert sorted(found) == [
        ("Impersonate-Extra-Dept%2Fx", "d"),
        ("Impersonate-Extra-Dept%2Fx", "e"),
        ("Impersonate-Group", "a,b"),
        ("Impersonate-Group", "c"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-User", "bob"),
    ]


async def test_nothing_secret_goes_over_plain_http(tmp_path: Path) -> None:
    made = endpoint(tmp_path, {"token": SECRET}, server="http://127.0.0.1:8001")
    assert made.ssl is None
    assert await made.headers() == {}


@pytest.mark.parametrize("token", ["a\r\nEvil: 1", "two words", "é"])
async def test_a_token_that_no_header_may_hold_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(KubeConfigError, match="characters that no token has") as met:
        await endpoint(tmp_path, {"token": SECRET + token}).headers()
    assert SECRET not in str(met.value)


async def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "token"
    path.write_text("one")
    made = endpoint(tmp_path, {"tokenFile": "token"}, wall=clock)
    assert await made.headers() == {"Authorization": "Bearer one"}
    path.write_text("two")
    assert await made.headers() == {"Authorization": "Bearer one"}
    assert await made.headers(refresh=True) == {"Authorization": "Bearer two"}
    path.write_text("three")
    clock.now += 61
    assert await made.headers() == {"Authorization": "Bearer three"}
    path.write_text("four")
    clock.now -= 86_400  # a clock set back
    assert await made.headers() == {"Authorization": "Bearer four"}
    path.write_text("")
    with pytest.raises(LoginNeededError, match="is empty"):
        await made.headers(refresh=True)
    path.unlink()
    with pytest.raises(KubeConfigError, match="cannot be read: No such file"):
        await made.headers(refresh=True)


# Plugins.


async def test_a_plugin_runs_once_for_all_who_ask_and_again_before_the_end(tmp_path: Path) -> None:
    clock = Clock()
    user = counting(tmp_path, expirationTimestamp="2023-11-14T22:28:20Z")  # 900 s from the clock's start
    made = endpoint(tmp_path, user, wall=clock)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(made.headers)
    assert await made.headers() == bearer(1)
    clock.now += 839
    assert await made.headers() == bearer(1)
    clock.now += 2
    assert await made.headers() == bearer(2)
    assert runs(tmp_path) == 2


async def test_a_refused_token_is_fetched_once_by_all_who_were_refused(tmp_path: Path) -> None:
    clock = Clock()
    made = endpoint(tmp_path, counting(tmp_path), wall=clock)
    assert await made.headers() == bearer(1)
    clock.now += 60
    found: list[dict[str, str]] = []

    async def ask() -> None:
        found.append(await made.headers(refresh=True))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(ask)
    assert found == [bearer(2)] * 20
    # Refused for ever: the newest answer of the plugin is not asked for again and again.
    for _ in range(20):
        assert await made.headers(refresh=True) == bearer(2)
    assert runs(tmp_path) == 2
    clock.now += 11
    assert await made.headers(refresh=True) == bearer(3)


async def test_a_failing_plugin_is_not_run_by_everybody(tmp_path: Path) -> None:
    clock = Clock()
    made = endpoint(tmp_path, counting(tmp_path, "sys.exit('run it yourself')"), wall=clock)
    failures: list[LoginNeededError] = []

    async def ask() -> None:
        with pytest.raises(LoginNeededError) as met:
            await made.headers()
        failures.append(met.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(ask)
    assert runs(tmp_path) == 1
    assert {str(one) for one in failures} == {f"the credential plugin {tmp_path / 'plugin'} failed: run it yourself"}
    assert {one.hint for one in failures} == {
        "log in again with: kubectl --context here version; krayne goes on by itself"
    }
    clock.now += 6
    await ask()
    assert runs(tmp_path) == 2
    counting(tmp_path)  # somebody logs in
    made.retry()
    assert await made.headers() == bearer(3)


async def test_a_hung_plugin_ends_at_its_deadline(tmp_path: Path) -> None:
    settings = KrayneSettings(kubeconfig=str(write(tmp_path, counting(tmp_path, "import time; time.sleep(600)"))))
    made = load_endpoint(settings, {"PATH": "/usr/bin:/bin"})
    made._plugin_seconds = 0.5
    with pytest.raises(LoginNeededError, match="did not answer within"):
        await made.headers()


@pytest.mark.parametrize(
    ("command", "login"),
    [("aws", "aws sso login"), ("/opt/bin/gke-gcloud-auth-plugin", "gcloud auth login"),
     ("kubelogin", "kubectl --context here version")],
)  # fmt: skip
async def test_the_command_to_log_in_is_told(tmp_path: Path, command: str, login: str) -> None:
    error = endpoint(tmp_path, {"exec": {"command": command, "apiVersion": V1}}).login_needed()
    assert login in error.hint
    assert "context here" in error.message


async def test_the_plugin_learns_of_the_cluster_when_it_wants_to(tmp_path: Path) -> None:
    ca = trustme.CA()
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem.bytes())
    body = f"import os; open({str(tmp_path / 'info')!r}, 'w').write(os.environ['KUBERNETES_EXEC_INFO'])"
    user = counting(tmp_path, body)
    user["exec"]["provideClusterInfo"] = True
    extension = [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}]
    more: dict[str, Any] = {"certificate-authority": "ca.pem", "tls-server-name": "other", "extensions": extension}
    await endpoint(tmp_path, user, **more).headers()
    cluster = json.loads((tmp_path / "info").read_text())["spec"]["cluster"]
    assert base64.b64decode(cluster.pop("certificate-authority-data")) == ca.cert_pem.bytes()
    assert cluster == {"server": "https://api.example:6443", "tls-server-name": "other", "config": {"audience": "x"}}


async def test_a_plugins_certificate_makes_a_new_context_only_when_it_is_new(tmp_path: Path) -> None:
    clock, leaf = Clock(), trustme.CA().issue_cert("me.test")
    pair = {
        "clientCertificateData": leaf.cert_chain_pems[0].bytes().decode(),
        "clientKeyData": leaf.private_key_pem.bytes().decode(),
    }
    made = endpoint(tmp_path, counting(tmp_path, **pair), wall=clock)
    bare = made.ssl
    await made.headers()
    first = made.ssl
    assert first is not bare
    clock.now += 60
    await made.headers(refresh=True)
    assert made.ssl is first
    counting(tmp_path, clientCertificateData="junk", clientKeyData="junk")
    clock.now += 60
    with pytest.raises(KubeConfigError, match="certificates of context here cannot be used"):
        await made.headers(refresh=True)


# Messages.


async def test_what_others_quote_of_us_is_masked(tmp_path: Path) -> None:
    made = endpoint(tmp_path, {"token": SECRET})
    await made.headers()
    assert made.masked(f"bad header 'Bearer {SECRET}'") == "bad header 'Bearer ***'"
    made = endpoint(tmp_path, {"username": "ann", "password": SECRET})
    sent = (await made.headers())["Authorization"].removeprefix("Basic ")
    assert made.masked(f"{sent} {SECRET}") == "*** ***"


# Certificates.


def pem(leaf: trustme.LeafCert) -> tuple[bytes, bytes]:
    return b"".join(one.bytes() for one in leaf.cert_chain_pems), leaf.private_key_pem.bytes()


@pytest.mark.parametrize(
    ("cluster", "user", "says"),
    [
        ({"certificate-authority": "nowhere.pem"}, {}, "nowhere.pem cannot be read: No such file"),
        ({"certificate-authority": "junk"}, {}, "certificates of context here cannot be used"),
        ({"certificate-authority-data": "%%%"}, {}, "certificates of context here cannot be used"),
        ({"certificate-authority-data": 7}, {}, "certificates of context here cannot be used"),
        ({}, {"client-certificate": "cert", "client-key": "nowhere.key"}, "nowhere.key cannot be read"),
        ({}, {"client-certificate": "cert", "client-key": "other.key"}, "cannot be used: key values mismatch"),
        ({}, {"client-certificate": "cert", "client-key": "locked.key"}, "certificates of context here cannot be used"),
        ({}, {"client-certificate": "cert"}, "certificates of context here cannot be used"),
    ],
)
async def test_certificates_that_cannot_be_used_are_named(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], says: str
) -> None:
    ca = trustme.CA()
    cert, key = pem(ca.issue_cert("me.test"))
    (tmp_path / "cert").write_bytes(cert)
    (tmp_path / "other.key").write_bytes(pem(ca.issue_cert("me.test"))[1])
    (tmp_path / "junk").write_text(SECRET)
    (tmp_path / "locked.key").write_bytes(_locked(key))
    with pytest.raises(KubeConfigError) as met:
        endpoint(tmp_path, user, **cluster)
    assert says in met.value.message
    assert SECRET not in met.value.message


def _locked(key: bytes) -> bytes:
    """The key behind a passphrase, which a terminal would be asked for."""
    from cryptography.hazmat.primitives import serialization as form

    loaded = form.load_pem_private_key(key, None)
    return loaded.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(SECRET.encode())
    )


async def test_verification_is_off_only_when_told_so(tmp_path: Path) -> None:
    lax: dict[str, Any] = {"insecure-skip-tls-verify": True}
    strict, loose = endpoint(tmp_path, {}).ssl, endpoint(tmp_path, {}, **lax).ssl
    assert strict is not None
    assert loose is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (loose.verify_mode, loose.check_hostname) == (ssl.CERT_NONE, False)


# Files that change.


async def test_a_new_token_of_the_same_user_is_taken_over(tmp_path: Path) -> None:
    made = endpoint(tmp_path, {"token": "old-token"})
    assert not made.stale()
    write(tmp_path, {"token": "new-token-longer"})
    assert not made.stale()
    assert await made.headers() == {"Authorization": "Bearer new-token-longer"}


async def test_a_certificate_rotated_on_disk_is_taken_over_once_it_fits_its_key(tmp_path: Path) -> None:
    ca = trustme.CA()
    for name, data in zip(("cert", "key"), pem(ca.issue_cert("a.test")), strict=True):
        (tmp_path / name).write_bytes(data)
    made = endpoint(tmp_path, {"client-certificate": "cert", "client-key": "key"})
    first = made.ssl
    cert, key = pem(ca.issue_cert("b.test"))
    (tmp_path / "cert").write_bytes(cert)
    assert not made.stale()
    assert made.ssl is first  # half of a rotation is none
    (tmp_path / "key").write_bytes(key)
    assert not made.stale()
    assert made.ssl is not first


@pytest.mark.parametrize(
    "change",
    [{"server": "https://elsewhere"}, {"context": {"namespace": "ml"}}, {"context": {"user": "you"}},
     {"tls-server-name": "other"}, {"proxy-url": "http://proxy"}],
)  # fmt: skip
async def test_another_place_or_person_is_another_world(tmp_path: Path, change: dict[str, Any]) -> None:
    made = endpoint(tmp_path, {"token": SECRET})
    write(tmp_path, {"token": SECRET}, **change)
    assert made.stale()
    assert made.stale()  # and stays so


async def test_another_ca_is_another_world(tmp_path: Path) -> None:
    place: dict[str, Any] = {"certificate-authority": "ca.pem"}
    (tmp_path / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    made = endpoint(tmp_path, {}, **place)
    (tmp_path / "ca.pem").write_bytes(b"")
    assert not made.stale()  # half of a rotation
    (tmp_path / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes() + b"\n")
    assert made.stale()


async def test_a_broken_or_vanished_file_changes_nothing_until_it_is_whole(tmp_path: Path) -> None:
    made = endpoint(tmp_path, {"token": "old-token"})
    path = tmp_path / "config"
    path.write_text("contexts: [")
    assert not made.stale()
    path.unlink()
    assert not made.stale()
    assert await made.headers() == {"Authorization": "Bearer old-token"}
    write(tmp_path, {"token": "new-token"}, server="https://elsewhere")
    assert made.stale()


# Proxies.

SERVER = "https://api.corp.example:6443"


@pytest.mark.parametrize(
    ("server", "url", "environ", "expected"),
    [
        (SERVER, "", {}, None),
        (SERVER, "http://p:1", {"HTTPS_PROXY": "http://q:2", "NO_PROXY": "*"}, "http://p:1"),
        (SERVER, "", {"HTTPS_PROXY": "q:2"}, "http://q:2"),
        (SERVER, "", {"https_proxy": "https://q:2"}, "https://q:2"),
        (SERVER, "", {"HTTP_PROXY": "http://q:2"}, None),
        ("http://api:80", "", {"HTTP_PROXY": "http://q:2"}, "http://q:2"),
        (SERVER, "", {"HTTPS_PROXY": "http://q:2", "NO_PROXY": "a, .corp.example"}, None),
        (SERVER, "", {"HTTPS_PROXY": "http://q:2", "NO_PROXY": "corp.example"}, None),
        (SERVER, "", {"HTTPS_PROXY": "http://q:2", "NO_PROXY": "rp.example"}, "http://q:2"),
        (SERVER, "", {"HTTPS_PROXY": "http://q:2", "NO_PROXY": "api.corp.example:443"}, "http://q:2"),
        (SERVER, "", {"HTTPS_PROXY": "http://q:2", "NO_PROXY": "api.corp.example:6443"}, None),
        (SERVER, "", {"HTTPS_PROXY": "http://q:2", "NO_PROXY": "*"}, None),
        ("https://10.1.2.3", "", {"HTTPS_PROXY": "http://q:2", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://[fd00::1]:6443", "", {"HTTPS_PROXY": "http://q:2", "NO_PROXY": "fd00::/8"}, None),
        ("https://11.1.2.3", "", {"HTTPS_PROXY": "http://q:2", "NO_PROXY": "10.0.0.0/8"}, "http://q:2"),
        ("https://127.0.0.1:6443", "", {"HTTPS_PROXY": "http://q:2"}, None),
        ("https://localhost:6443", "", {"HTTPS_PROXY": "http://q:2"}, None),
    ],
)
def test_the_proxy_is_the_one_kubectl_takes(
    server: str, url: str, environ: dict[str, str], expected: str | None
) -> None:
    assert proxy_for(server, url, environ) == expected


@pytest.mark.parametrize(
    ("url", "environ"), [("socks5://x:SECRET@p:1", {}), ("", {"HTTPS_PROXY": "socks5h://SECRET@p"})]
)
def test_a_proxy_of_another_kind_is_said(url: str, environ: dict[str, str]) -> None:
    with pytest.raises(KubeConfigError, match=r"kind krayne cannot use: socks5h?$") as met:
        proxy_for(SERVER, url, environ)
    assert "SECRET" not in str(met.value)
