"""`fsbench look`: what a person should know of a folder of images before anything is fitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench.runner.own_data import name_own
from tests.helpers import save_image


def test_a_folder_or_table_may_be_named_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "digits"):
        save_image(tmp_path / folder / "oak" / "1.jpg", 1)
    (tmp_path / "List.CSV").touch()
    (tmp_path / "notes.txt").touch()
    names = {
        "photos": "folder:photos",
        "photos/": "folder:photos/",
        "List.CSV": "manifest:List.CSV",
        "digits": "digits",
        "./digits": "folder:./digits",
        **dict.fromkeys(("folder:photos", "notes.txt", "absent", "", "a\0b", "x" * 5000)),
    }
    assert {name: name_own(name) for name in names} == {k: v or k for k, v in names.items()}
    assert name_own(tmp_path / "photos") == f"folder:{tmp_path / 'photos'}"
    with pytest.raises(TypeError):
        name_own(5)  # type: ignore[arg-type]
