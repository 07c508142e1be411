"""`compare --format bibtex` and `Results.cite`: BibTeX of what a table used."""

from __future__ import annotations

from pathlib import Path

import pytest

import fewshot_bench as fb
from fewshot_bench.api.registry import registry
from tests.support.bibtex import fields_of
from tests.support.compare_records import make, save
from tests.support.helpers import fsbench

CLIP = {"backbone": "ViT-B-16/openai"}


def keys(text: str) -> list[str]:
    return [entry["key"] for entry in fields_of(text)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    cells = [("coop", "dtd"), ("tip-adapter", "dtd"), ("tip-adapter-f", "folder:mine")]
    records = [
        make(method, dataset, seed=seed, **CLIP) for method, dataset in cells for seed in (1, 2)
    ]
    return save(
        tmp_path / "laion" / "made", [*records, make("gone", "digits", target="shapes", **CLIP)]
    )


def test_a_store_is_cited_each_entry_once_and_sorted(store: Path) -> None:
    done = fsbench("compare", "--store", store, "--format", "bibtex")
    assert done.code == 0
    assert keys(done.out) == [
        *("alpaydin1998optical", "cimpoi2014describing", "fewshot-bench"),
        *("radford2021learning", "zhang2022tip", "zhou2022learning"),
    ]
    assert done.err.splitlines() == [
        "note: method 'gone' names no paper",
        "note: data set 'folder:mine' names no paper",
    ]
    with pytest.warns(UserWarning, match="names no paper") as warned:
        assert fb.load(store).cite() == done.out
    assert [f"note: {each.message}" for each in warned] == done.err.splitlines()


def test_filters_choose_what_is_cited(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "used.bib"
    words = ("compare", "--store", store, "-m", "coop", "--format", "bibtex")
    done = fsbench(*words, "--output", file)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert keys(file.read_text(encoding="utf-8")) == [
        *("cimpoi2014describing", "fewshot-bench", "radford2021learning", "zhou2022learning")
    ]


def test_lists_show_year_and_venue() -> None:
    listed = fsbench("list", "methods").out
    assert "Zhou et al., IJCV 2022" in listed
    listed = fsbench("list", "datasets").out
    assert all(name in listed for name in registry().datasets.names())
    assert "Cimpoi et al., CVPR 2014" in listed
    assert "Software 2026" in fsbench("list", "backbones").out
    shown = fsbench("show", "ViT-B-16/openai").out
    assert "paper      Radford et al., Learning Transferable Visual Models From" in shown
    shown = fsbench("show", "digits").out
    assert "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI" in shown
