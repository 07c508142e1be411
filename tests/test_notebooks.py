"""The notebooks of the docs run from top to bottom in an empty folder, and keep no outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.helpers import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
# What the last cell of code shows: that the answers arrived.
SHOWN = {
    "first-run": r"confidence",
    "own-method": r"predicted_name",
    "own-photographs": r"new/rings-0\.png +rings",
}


def test_there_is_one_for_each_tutorial_in_code() -> None:
    assert set(NAMES) == set(SHOWN)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_they_say_how_to_open_them_and_keep_no_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert f"jupyter lab {path.name}" in "".join(cells[0]["source"])
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert len(" ".join("".join(cell["source"]) for cell in cells).split()) <= 400


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_they_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel, offline."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("FSBENCH_OFFLINE", "1")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in codes)
    (last,) = (output for output in codes[-1].outputs if output.output_type == "execute_result")
    assert re.search(SHOWN[path.stem], last.data["text/plain"])
