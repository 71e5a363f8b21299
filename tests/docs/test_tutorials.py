"""The code of the tutorials runs from top to bottom."""

import contextlib
import io
import re
from pathlib import Path

import matplotlib as mpl
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


def cells(path):
    """Return the code cells of a tutorial, in order."""
    return re.findall(r"```\{code-cell\}[^\n]*\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path, tmp_path, monkeypatch):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = cells(path)
    assert code
    names = {"__name__": "tutorial"}
    with contextlib.redirect_stdout(io.StringIO()):
        for number, cell in enumerate(code, start=1):
            exec(compile(cell, f"{path.name}, cell {number}", "exec"), names)
