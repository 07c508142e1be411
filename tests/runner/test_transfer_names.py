"""Class names of the user's own and the targets of `--transfer`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import fsbench
from tests.support.own_sets import picture

NAMES = ("cat", "dog", "emu")
QUICK = ("--backbone", "tiny", "--shots", 1, "--seeds", 1)


def folder(root: Path, first: int) -> str:
    for label, name in enumerate(NAMES):
        for number in range(6):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(first + 6 * label + number))
    return f"folder:{root}"


def run(store: Path, source: str, names: Path, target: str) -> dict[tuple[str, bool], Any]:
    """Records of zero-shot and a linear probe by method, and whether they are of the target."""
    call = ("-d", source, "--classnames", names, "--transfer", target, "--store", store)
    result = fsbench("run", "-m", "zero-shot,linear-probe", *call, *QUICK)
    assert result.code == 0, result.err
    records = [json.loads(path.read_text()) for path in store.glob("records/*/*.json")]
    return {(r["spec"]["method"], "target" in r["spec"]): r for r in records}


@pytest.fixture
def target(tmp_path: Path) -> str:
    return folder(tmp_path / "target", 100)


def test_records_state_the_names_of_the_prompts_that_answered(tmp_path: Path, target: str) -> None:
    """They stated the target's names, under which nothing was computed."""
    (tmp_path / "names.txt").write_text("kitten\npuppy\nbig bird\n")
    source = folder(tmp_path / "source", 0)
    found = run(tmp_path / "store", source, tmp_path / "names.txt", target)
    for record in found.values():
        assert record["split"]["classnames"] == ["kitten", "puppy", "big bird"]


def test_names_of_labels_without_names_say_which_classes_they_are(
    tmp_path: Path, target: str
) -> None:
    """A linear probe was `n/a` on images of the classes that it was fitted on."""
    folder(tmp_path / "source", 0)
    files = sorted((tmp_path / "source").glob("*/*.png"))
    rows = [f"source/{f.parent.name}/{f.name},{NAMES.index(f.parent.name)}" for f in files]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    source = f"manifest:{tmp_path / 'list.csv'}"
    found = run(tmp_path / "store", source, tmp_path / "names.txt", target)
    assert {record["status"] for record in found.values()} == {"done"}
    assert {tuple(record["split"]["classnames"]) for record in found.values()} == {NAMES}
