"""What an archive from a pod may write here, where tarfile itself has no such rules."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from krayne_client.tarfilter import RefusedError, inside


def member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    one = tarfile.TarInfo(name)
    one.type, one.linkname, one.mode, one.uid, one.uname = kind, link, mode, 12345, "somebody"
    return one


@pytest.mark.parametrize(
    "hostile",
    [
        member("../out"),
        member("/etc/out"),
        member("away/out"),  # `away` is a link already here
        member("link", tarfile.SYMTYPE, link="/etc/passwd"),
        member("a/link", tarfile.SYMTYPE, link="../../out"),
        member("link", tarfile.SYMTYPE, link="away/out"),
        member("hard", tarfile.LNKTYPE, link="../out"),
        member("hard", tarfile.LNKTYPE, link="away/out"),
        member("pipe", tarfile.FIFOTYPE),
        member("device", tarfile.CHRTYPE),
    ],
    ids=lambda one: f"{one.name}>{one.linkname}",
)
def test_nothing_leaves_the_folder(hostile: tarfile.TarInfo, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "away").symlink_to(tmp_path)
    with pytest.raises(RefusedError):
        inside(hostile, str(base))
    if hasattr(tarfile, "data_filter") and not hostile.name.startswith("/"):  # which it makes relative
        with pytest.raises(tarfile.FilterError):
            tarfile.data_filter(hostile, str(base))


def test_what_is_harmless_is_written_as_our_own(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(member("a", tarfile.DIRTYPE, mode=0o777))
        archive.addfile(member("a/run", mode=0o6777))
        archive.addfile(member("a/link", tarfile.SYMTYPE, link="run"))
        archive.addfile(member("hard", tarfile.LNKTYPE, link="a/run", mode=0o6777))
    packed.seek(0)
    with tarfile.open(fileobj=packed, mode="r|") as archive:
        for one in archive:
            safe = inside(one, str(tmp_path))
            assert (safe.uid, safe.uname) == (os.geteuid(), "")
            if hasattr(tarfile, "data_filter"):
                archive.extract(safe, tmp_path, filter="fully_trusted")
            else:
                archive.extract(safe, tmp_path)
    assert (tmp_path / "a" / "run").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o755
    assert os.readlink(tmp_path / "a" / "link") == "run"
    assert (tmp_path / "hard").samefile(tmp_path / "a" / "run")
