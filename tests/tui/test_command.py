"""`krayne tui` where it cannot be shown."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("before", "says"),
    [("sys.modules['textual'] = None", "try: pip install 'kraynd[tui]'"), ("pass", "the screen needs a terminal")],
)
def test_what_is_missing_is_said(before: str, says: str) -> None:
    code = f"import sys; {before}; sys.argv = ['krayne', 'tui']; from krayne_client.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert says in done.stderr
