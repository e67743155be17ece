"""Builds the control plane's programs from Go modules, once, into a cache directory.

Each program has a stamp (hash of its module's files, its flags and the Go version; then its own size and time) and is
built again only when that changes. A file lock keeps two runs apart. Invariant: a program in the cache is whole
(renamed into place).
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

GO_SOURCES = Path(__file__).parent / "go"
KUBERNETES_VERSION = "v1.36.3"
OPERATOR_VERSIONS = ("1.6.2", "1.5.1")
OPERATOR_MODULE = "github.com/ray-project/kuberay/ray-operator"
GO_FALLBACK = Path("/usr/local/go/bin/go")  # where Go's own installer puts it, often without touching PATH

_KUBERNETES_FLAGS = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in {
        "gitVersion": KUBERNETES_VERSION,
        "gitMajor": "1",
        "gitMinor": "36",
        "gitTreeState": "clean",
    }.items()
)


class BuildError(RuntimeError):
    """A program could not be built; the text holds the compiler's last words."""


@dataclass(frozen=True)
class Program:
    """One binary: its name in the cache, the module folder it is built in, and the package."""

    name: str
    folder: str
    package: str
    ldflags: str = ""


PROGRAMS = (
    Program("node", "node", "."),
    Program("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    *(
        Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _KUBERNETES_FLAGS)
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
    ),
    Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    *(Program(f"kuberay-{version}", f"kuberay-{version}", OPERATOR_MODULE) for version in OPERATOR_VERSIONS),
)


def cache_dir() -> Path:
    """Where programs, CRDs and the Ray environment are kept between runs."""
    override = os.environ.get("KRAYNE_CONTROLPLANE_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("krayne")) / "controlplane"


def binary(name: str) -> Path:
    """Path of a built program."""
    return cache_dir() / "bin" / name


def crd_files(operator: str) -> list[Path]:
    """The CRD manifests of an operator version, as its own module ships them."""
    return sorted((cache_dir() / "crds" / operator).glob("*.yaml"))


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock of the cache; a second run waits until the first has built."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build() -> None:
    """Build what is missing or out of date, one line a program. Raises BuildError."""
    with locked("build"):
        go = _find_go()
        go_version = _run([str(go), "env", "GOVERSION"], GO_SOURCES)
        for program in PROGRAMS:
            stamp = _stamp(program, go_version)
            stamp_file = binary(f"{program.name}.stamp")
            if _read(stamp_file) == f"{stamp} {_state(binary(program.name))}":
                continue
            _build_one(go, program)
            stamp_file.write_text(f"{stamp} {_state(binary(program.name))}")
        for version in OPERATOR_VERSIONS:
            _copy_crds(go, version)


def _find_go() -> Path:
    found = shutil.which("go")
    if found:
        return Path(found)
    if GO_FALLBACK.exists():
        return GO_FALLBACK
    raise BuildError("Go is not installed: the test control plane is built from Go modules (Go 1.26 or later)")


def _stamp(program: Program, go_version: str) -> str:
    digest = hashlib.sha256(f"{go_version} {program}".encode())
    for path in sorted((GO_SOURCES / program.folder).iterdir()):
        if path.name in {"go.mod", "go.sum"} or path.suffix == ".go":
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _state(path: Path) -> str:
    """What changes when another file takes its place: a stamp alone has vouched for an old program."""
    if not path.exists():
        return "absent"
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _build_one(go: Path, program: Program) -> None:
    target = binary(program.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    fresh = binary(f"{program.name}.new")
    flags = f"-s -w {program.ldflags}".strip()
    nice = ["nice"] if shutil.which("nice") else []
    _run([*nice, str(go), "build", "-ldflags", flags, "-o", str(fresh), program.package], GO_SOURCES / program.folder)
    fresh.replace(target)
    print(f"built {program.name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _copy_crds(go: Path, version: str) -> None:
    target = cache_dir() / "crds" / version
    if target.exists():
        return
    folder = GO_SOURCES / f"kuberay-{version}"
    module = json.loads(_run([str(go), "mod", "download", "-json", f"{OPERATOR_MODULE}@v{version}"], folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as fresh:
        whole = Path(fresh) / "crds"
        whole.mkdir()
        for path in (Path(module["Dir"]) / "config" / "crd" / "bases").glob("*.yaml"):
            (whole / path.name).write_bytes(path.read_bytes())
        whole.rename(target)


def _run(argv: list[str], folder: Path) -> str:
    environment = {**os.environ, "GOWORK": "off", "GOFLAGS": "-buildvcs=false"}
    done = subprocess.run(argv, cwd=folder, env=environment, text=True, capture_output=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(argv)} failed in {folder}:\n{done.stderr[-4000:]}")
    return done.stdout.strip()
