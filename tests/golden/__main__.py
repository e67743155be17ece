"""Write the golden manifests anew: `python -m tests.golden`, then read what changed."""

from tests.golden.cases import FOLDER, NAMES, written


def main() -> None:
    """One file a case; files of former cases go."""
    for stale in FOLDER.glob("*.yaml"):
        stale.unlink()
    for name in NAMES:
        (FOLDER / f"{name}.yaml").write_text(written(name), encoding="utf-8")


main()
