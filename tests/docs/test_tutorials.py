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


def run(code, name):
    names = {"__name__": "tutorial"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for number, cell in enumerate(code, start=1):
            exec(compile(cell, f"{name}, cell {number}", "exec"), names)
    return names, printed.getvalue()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path, tmp_path, monkeypatch):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = cells(path)
    assert code
    run(code, path.name)


def test_the_tutorial_of_the_repository_on_a_night_of_the_lowell_telescope(
    shared_data, tmp_path, monkeypatch
):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    night = shared_data("raw_lowell42")
    frames = tmp_path / "frames"
    frames.mkdir()
    for part, count in (("bias", 3), ("flat_VR", 3), ("sci_VR", 2)):
        for path in sorted((night / part).iterdir())[:count]:
            (frames / path.name).symlink_to(path)
    path = DOCS / "tutorials" / "a_data_repository.md"
    first = f"from pathlib import Path\nfolder = Path({str(tmp_path)!r})\ncamera, raw = 'lowell42', folder / 'frames'"
    names, printed = run([first, *cells(path)[1:]], path.name)
    assert names["report"].ingested == 8
    assert names["summary"].exit_code == 0
    assert len(names["catalog"]) > 50
    assert "Exposure" in printed
