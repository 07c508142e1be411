"""Records of several sets of conditions: one block each, which is what the records alone give."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path

import pytest

import fewshot_bench as fb
from fewshot_bench.api.record import Record
from tests.support.compare_records import make, matrix, read_csv, save
from tests.support.helpers import fsbench

CHOICES = (("--backbone", "test"), ("--backbone", "tiny"))
TITLES = ("backbone test", "backbone tiny")


def of_two_backbones() -> list[Record]:
    """Two methods on two data sets, and fewer cells on another backbone, where one is missing."""
    other = [make("coop", "dtd", seed=seed, backbone="tiny", top1=40.0 + seed) for seed in (1, 2)]
    return [*matrix(), *other, make("zero-shot", "dtd", backbone="tiny")]


@pytest.fixture(name="store", scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("blocks") / "s", of_two_backbones())


def compared(store: Path, *words: str) -> str:
    done = fsbench("compare", "--store", store, *words)
    assert done.code == 0, done.err
    assert done.err == ""
    return done.out


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--baseline", "zero-shot", "--columns", "ece,peak"),
        ("--layout", "paper"),
        ("--per-class",),
    ],
)
def test_a_block_is_what_its_records_alone_give(store: Path, words: tuple[str, ...]) -> None:
    for form, line, between in (("terminal", "═" * 120 + "\n", "\n"), ("markdown", "\n", "\n")):
        mark = "## " if form == "markdown" else ""
        words_of = (*words, "--format", form)
        alone = [compared(store, *words_of, *choice) for choice in CHOICES]
        heads = [f"{mark}Conditions {n} of 2: {title}\n{line}" for n, title in enumerate(TITLES, 1)]
        parts = [head + text for head, text in zip(heads, alone, strict=True)]
        assert compared(store, *words_of) == between.join(parts)


def test_json_and_csv_say_which_block_a_row_is_of(store: Path) -> None:
    alone = [json.loads(compared(store, "--format", "json", *choice)) for choice in CHOICES]
    both = json.loads(compared(store, "--format", "json"))
    names = [{"conditions": {"backbone": name}} for name in ("test", "tiny")]
    blocks = [name | part for name, part in zip(names, alone, strict=True)]
    assert both == {"blocks": blocks}
    for words in ((), ("--layout", "paper"), ("--baseline", "coop")):
        parts = [read_csv(compared(store, "--format", "csv", *words, *one)) for one in CHOICES]
        rows = read_csv(compared(store, "--format", "csv", *words))
        assert len(rows) == sum(map(len, parts))
        for row, expected, name in zip(
            rows,
            [row for part in parts for row in part],
            [name for name, part in zip(("test", "tiny"), parts, strict=True) for _ in part],
            strict=True,
        ):
            assert {n: value for n, value in row.items() if value} == {
                n: value for n, value in (expected | {"backbone": name}).items() if value
            }


def test_own_data_is_a_block_where_that_of_a_data_set_differs(tmp_path: Path) -> None:
    held = {"holdout": 0.5}
    records = [make(), make("b"), make("c", data=held), make("c", "pets"), make("c", "pets", 4)]
    store = save(tmp_path / "s", [*records, make("d", "cars", backbone="tiny", data=held)])
    rows = read_csv(compared(store, "--format", "csv"))
    found = {(row["dataset"], row["method"]): row["own_data"] for row in rows}
    digest = found["dtd", "c"]
    assert len(digest) == 12
    assert found["pets", "c"] == found["average", "b"] == "none"
    text = compared(store)
    assert "Conditions 1 of 3: backbone test, own data none\n" in text
    assert f"backbone test, own data {digest}\n" in text
    assert "3 of 3: backbone tiny\n" in text
    assert compared(store, "--own-data", "none", "--backbone", "test").count("Conditions") == 0


def test_what_would_mix_is_refused_alone(tmp_path: Path) -> None:
    changed = [make("gda", seed=seed, revision=str(seed), backbone="tiny") for seed in (1, 2)]
    store = save(tmp_path / "s", [*matrix(), *changed])
    told = "records differ in revision of 'dtd' ('1' in 1 record, '2' in 1 record)"
    done = fsbench("compare", "--store", store)
    assert done.code == 0
    assert f"warning: backbone tiny left out: {told}" in done.err
    assert compared(store, "--backbone", "test") in done.out
    assert told in " ".join(done.out.partition("Conditions 2 of 2: backbone tiny")[2].split())
    blocks = json.loads(fsbench("compare", "--store", store, "--format", "json").out)["blocks"]
    assert blocks[1]["refused"].startswith(told)
    alone = fsbench("compare", "--store", store, "--backbone", "tiny")
    assert (alone.code, alone.out) == (2, "")
    assert told in alone.err


def test_names_that_one_block_has_are_known_to_all(tmp_path: Path) -> None:
    store = save(tmp_path / "s", [*matrix(), make("gda", "cars", val="none")])
    shown = compared(
        *(store, "--baseline", "coop", "--rename", "gda=Ours", "--rename", "pets=Pets")
    )
    assert "difference to coop" in shown
    assert "* no differences to coop, of which there is no record here" in shown
    assert {"Ours", "Pets"} <= set(shown.split())
    unknown = fsbench("compare", "--store", store, "--baseline", "cop")
    assert (unknown.code, "did you mean 'coop'" in unknown.err) == (2, True)


def test_a_file_of_one_set_of_conditions_names_a_filter(store: Path, tmp_path: Path) -> None:
    figure = ("figure", "shots", "--store", store, "-O", tmp_path / "f.svg")
    for words in (figure, ("compare", "--store", store, "--predictions", tmp_path / "p.csv")):
        done = fsbench(*words)
        assert done.code == 2
        assert f"there are 2 ({'; '.join(TITLES)}): choose one, as with " in done.err
        chosen = shlex.split(done.err.partition("as with ")[2])
        assert chosen == ["--backbone", "test"]
    assert fsbench(*figure, *chosen).code == 0


def test_the_library_gives_what_the_command_prints(store: Path) -> None:
    results = fb.load(store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = results.compare(baseline="coop")
    assert str(both) == compared(store, "--baseline", "coop")
    assert both.to_csv() == compared(store, "--baseline", "coop", "--format", "csv")
    assert [name in both._repr_html_() for name in TITLES] == [True, True]
    assert set(both.to_frame().backbone) == {"test", "tiny"}
    with pytest.raises(fb.UsageError, match="choose one, as with --backbone test"):
        results.figure()
    assert results.where(backbone="tiny").figure()


def test_allowed_mixtures_are_one_table(store: Path) -> None:
    text = compared(store, "--allow-mixed")
    assert "Conditions" not in text
    assert {f"coop {title.replace(' ', '=')}" for title in TITLES} <= {
        line.partition("  ")[0] for line in text.splitlines()
    }
