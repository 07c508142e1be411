"""Comma-separated lists of names: any names survive a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.store.store import Store
from fewshot_bench.utils.text import join_names, split_names
from tests.support.helpers import fsbench, image_folder

QUICK = ("-m", "zero-shot", "--backbone", "tiny", "--shots", 1, "--seeds", 1, "--limit", 4)


@given(st.lists(st.text(st.sampled_from("ab,\\\\ :="), min_size=1), min_size=1))
def test_any_names_are_read_back(names: list[str]) -> None:
    assert split_names(join_names(names)) == tuple(names)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("dtd, eurosat,", ("dtd", "eurosat")),
        (r"folder:a\,b,dtd", ("folder:a,b", "dtd")),
        ("folder:no,where", ("folder:no", "where")),
        (" , ", ()),
    ],
)
def test_lists_as_people_write_them(text: str, names: tuple[str, ...]) -> None:
    assert split_names(text) == names


def test_a_long_list_is_split_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took 25 seconds for 1,000 names, in which every part of the list was tried as a path."""
    tried: list[str] = []
    monkeypatch.setattr("fewshot_bench.utils.text._is_place", tried.append)
    assert split_names("coop," * 1000) == ("coop",) * 1000
    assert len(tried) <= 16 * 1000


def test_paths_with_commas(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "a, b,c")
    other = image_folder(tmp_path / "d")
    store = tmp_path / "store"
    config = tmp_path / "run.yaml"
    written = f"digits,folder:{root},folder:{other}"
    assert split_names(written) == ("digits", f"folder:{root}", f"folder:{other}")
    words = ("run", *QUICK, "-d", written, "--store", store, "--save-config", config)
    assert (fsbench(*words).err, len(list(Store(store).records()))) == ("", 3)
    assert "3 done already" in fsbench("run", "--config", config).out
    escaped = str(root).replace(",", "\\,")
    assert (
        "1 done already" in fsbench("run", *QUICK, "-d", f"folder:{escaped}", "--store", store).out
    )
    for text in (f"folder:{root}", f"folder:{escaped}"):
        table = fsbench("compare", "--store", store, "-d", text)
        assert (table.code, "digits" in table.out) == (0, False)
