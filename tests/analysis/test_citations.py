"""`fsbench cite` and `Results.cite`: BibTeX of what a table used, and names without a paper."""

from __future__ import annotations

from pathlib import Path

import pytest

import fewshot_bench as fb
from fewshot_bench.api.registry import registry
from tests.api.test_paper import fields_of
from tests.compare_records import make, save
from tests.helpers import fsbench

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
    done = fsbench("cite", store)
    assert done.code == 0
    assert keys(done.out) == [
        *("alpaydin1998optical", "cimpoi2014describing", "fewshot-bench"),
        *("radford2021learning", "zhang2022tip", "zhou2022learning"),
    ]
    assert done.err.splitlines() == [
        "note: method 'gone' names no paper",
        "note: data set 'folder:mine' names no paper",
    ]
    assert fsbench("cite", "--store", store).out == done.out
    with pytest.warns(UserWarning, match="names no paper") as warned:
        assert fb.load(store).cite() == done.out
    assert [f"note: {each.message}" for each in warned] == done.err.splitlines()


def test_filters_choose_what_is_cited(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "used.bib"
    done = fsbench("cite", store, "-m", "coop", "--output", file)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert keys(file.read_text(encoding="utf-8")) == [
        *("cimpoi2014describing", "fewshot-bench", "radford2021learning", "zhou2022learning")
    ]


def test_names_are_cited_without_a_store() -> None:
    done = fsbench("cite", "clip-lora", "eurosat", "ViT-B-32/laion2b_s34b_b79k", "ViT-B/16", "demo")
    assert {
        "zanella2024low",
        "radford2021learning",
        "helber2019eurosat",
        "schuhmann2022laion",
        "fewshot-bench",
    } <= {*keys(done.out)}
    suite = fsbench("cite", "prompts")
    assert {"zhou2022learning", "zhou2022conditional", "yao2024tcp"} <= {*keys(suite.out)}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("clip-lor",), "did you mean 'clip-lora'?"),
        (("coop", "--shots", "1"), "--shots chooses records of a store"),
        (("coop", "."), "'.' is a folder: cite one store, or names"),
        (("--store", "nowhere"), "store 'nowhere' does not exist"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], reason: str) -> None:
    done = fsbench("cite", *words)
    assert done.code in (2, 3)
    assert reason in done.err


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
