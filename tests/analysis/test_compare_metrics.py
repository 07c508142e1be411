"""`fsbench compare`: metrics other than top-1, columns, order and learning curves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.export import rows as table_rows
from fewshot_bench.api.metrics import METRICS, Metric, needs
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import halves, make, matrix, read_csv, run_compare, save, written
from tests.support.helpers import fsbench
from tests.support.synthetic_store import fill


def rated(
    method: str, dataset: str = "dtd", seed: int = 1, shots: int = 1, **metrics: float
) -> Record:
    """A record with these metrics in addition to top-1."""
    record = make(method, dataset, shots=shots, seed=seed, top1=metrics.pop("top1", 50.0))
    return dataclasses.replace(record, metrics={**record.metrics, **metrics})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets, three methods and one without shots, with logits."""
    folder = tmp_path_factory.mktemp("made") / "s"
    fill(folder, 2, 3, (1, 4), (1, 2), queries=120, classes=12, zero_shot=True)
    return folder


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_can_be_shown(store: Path, metric: str) -> None:
    known = METRICS[metric]
    shown = fsbench("compare", "--store", store, "--metric", metric, "--baseline", "zero-shot")
    assert shown.code == 0
    assert f"{known.quantity}, mean (range), n = 2 seeds" in shown.out
    assert f"difference to zero-shot in {known.difference}" in shown.out
    rows = json.loads(run_compare("--store", store, "--metric", metric, "--format", "json").output)
    name = "top1_mean" if metric == "top1" else metric
    values = [row[name] for row in rows["rows"] if row["dataset"] == "caltech101"]
    assert all(f"{value:.{known.digits}f} (" in shown.out for value in values)
    assert rows["meta"]["unit"] == ("percent" if known.unit == "%" else known.unit)
    assert rows["meta"]["metrics"][metric]["higher_is_better"] == known.higher_is_better


@pytest.mark.parametrize("metric", ["ece", "adaptive_ece", "nll", "brier"])
def test_lower_is_better_where_it_is(metric: str) -> None:
    records = [rated(name, **{metric: value}) for name, value in zip("abc", (3, 1, 2), strict=True)]
    table = build(records, Options(metric=metric, baseline="a", sort=metric))
    digits = METRICS[metric].digits
    text = written("latex", table)
    assert rf"\textbf{{{1:.{digits}f}}}" in text
    assert rf"\underline{{{2:.{digits}f}}}" in text
    lines = [line for line in text.splitlines() if line[1:3] == " &"]
    assert [line[0] for line in lines] == ["b", "c", "a", "b", "c"]
    assert "negative is better" in text
    assert f"$-{2:.{digits}f}$" in text


def test_columns_are_chosen_and_ranked() -> None:
    records = [rated("a", ece=4, macro_f1=40), rated("b", ece=2, macro_f1=30)]
    table = build(records, Options(columns="ece,peak,macro_f1,top1"))
    text = written("markdown", table)
    assert "| method | 1-shot | ECE 1-shot | macro-F1 1-shot | peak MB |" in text
    assert "| a | **50.00** (n=1) | <u>4.00</u> (n=1) | **40.00** (n=1) | 101 |" in text
    assert "; expected calibration error in %, lower is better; macro-F1 in %" in text
    only = written("terminal", build(records, Options(columns="trained")))
    assert "billed" not in only
    assert "trained" in only


def test_plugin_columns_can_be_chosen() -> None:
    options = Options(columns="J total,peak")
    table = build(matrix(), options, lambda records: {"J total": len(records), "x": 1})
    assert table.columns == ("J total", "peak")
    with pytest.raises(UsageError, match="unknown column 'peek': did you mean 'peak'"):
        build(matrix(), Options(columns="peek"))
    with pytest.raises(UsageError, match="no column in ','"):
        build(matrix(), Options(columns=","))


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("top1", ["b", "c", "a", "d"]),
        ("ece", ["c", "a", "b", "d"]),
        ("billed", ["a", "b", "c", "d"]),
        ("", ["a", "b", "c", "d"]),
    ],
)
def test_every_output_is_sorted(sort: str, expected: list[str]) -> None:
    records = [
        *(rated("a", shots=1, top1=99, ece=9), rated("a", shots=4, top1=60, ece=5)),
        *(rated("b", shots=1, top1=10, ece=1), rated("b", shots=4, top1=80, ece=6)),
        *(rated("c", shots=1, top1=70, ece=2), make("d", top1=None)),
    ]
    table = build(records, Options(sort=sort))
    rows = read_csv(written("csv", table))
    assert list(dict.fromkeys(row["method"] for row in rows)) == expected
    lines = written("terminal", table).splitlines()
    assert [line[0] for line in lines if line[1:2] == " " and line[0] in "abcd"][:4] == expected


def test_curves_are_on_one_scale_per_data_set() -> None:
    tops = {"a": (10.0, 45.0, 80.0), "b": (80.0, 45.0, None), "c": (10.0, None, 10.0)}
    records = [
        make(method, shots=shots, top1=top1)
        for method, values in tops.items()
        for shots, top1 in zip((1, 2, 4), values, strict=True)
    ]
    text = written("terminal", build([*records, make("z", shots=0)]))
    assert "curve 10.00–80.00" in text
    lines = {line[0]: line for line in text.splitlines() if line[1:2] == " " and line[0] in "abcz"}
    assert "▁▅█" in lines["a"]
    assert "█▅·" in lines["b"]
    assert "▁·▁" in lines["c"]
    assert "▁" not in lines["z"]
    assert "curve" not in written("terminal", build([make("a"), make("z", shots=0)]))
    assert "curve" not in written("markdown", build(records))
    assert "▁▅█" in written("markdown", build(records, Options(columns="curve")))


def test_latex_has_no_curves(store: Path) -> None:
    error = run_compare("--store", store, "--columns", "curve", "--format", "latex").exception
    assert isinstance(error, UsageError)
    assert "LaTeX" in str(error)


def test_no_harmonic_mean_of_errors() -> None:
    records = [
        dataclasses.replace(record, metrics={**record.metrics, "ece": 5.0})
        for method in ("a", "b")
        for record in halves(method, "dtd", 1, 80.0, 60.0)
    ]
    assert {record.spec.classes for record in records} == {"base", "new"}
    text = written("terminal", build(records, Options(metric="ece")))
    assert "(H)" not in text
    assert "* no harmonic mean of base and new: it is one of accuracies, not of ece" in text
    beside = written("markdown", build(records, Options(columns="ece")))
    part = beside[beside.index("(H)") :]
    assert "| a | **68.57** (n=1) | n/a |" in part


def test_old_records_without_logits_show_what_they_have(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", matrix())
    rows = read_csv(run_compare("--store", folder, "--format", "csv").output)
    assert all(row["ece"] == "" and float(row["macro_accuracy"]) > 0 for row in rows)
    shown = run_compare("--store", folder, "--metric", "ece").output
    assert "no record has the metric ece" in shown


def test_every_metric_has_its_own_number_of_seeds(tmp_path: Path) -> None:
    """A record of an older version lacks a metric, and its logits are missing."""
    records = [rated("coop", seed=seed, ece=2.0 + seed) for seed in (1, 2)]
    save(tmp_path / "s", [*records, rated("coop", seed=3)])
    for metric, seeds in (("top1", "3"), ("ece", "2")):
        words = ("--store", tmp_path / "s", "--metric", metric, "--format", "csv")
        (row, _) = read_csv(run_compare(*words).output)
        assert row["n_seeds"] == seeds
        assert (row["top1_n"], row["ece_n"], row["brier_n"]) == ("3", "2", "0")
        assert (row["ece"], row["brier"]) == ("3.5", "")


def test_no_average_over_data_sets_whose_seeds_of_a_metric_differ(tmp_path: Path) -> None:
    for place, datasets in enumerate((("dtd", "pets"), ("pets", "dtd"))):
        records = [rated("coop", dataset, seed=1, ece=2.0) for dataset in datasets]
        records.append(rated("coop", datasets[0], seed=2, ece=4.0))
        records.append(rated("coop", datasets[1], seed=2))
        save(tmp_path / f"{place}", records)
        found = read_csv(run_compare("--store", tmp_path / f"{place}", "--format", "csv").output)
        values = {row["dataset"]: (row["ece"], row["ece_n"], row["top1_n"]) for row in found}
        (average,) = values.keys() - set(datasets)
        assert values == {
            datasets[0]: ("3.0", "2", "2"),
            datasets[1]: ("2.0", "1", "2"),
            average: ("", "0", "2"),
        }


def test_records_without_a_digest_of_their_split_are_not_paired() -> None:
    records = [make(name, seed=seed) for name in ("coop", "zero-shot") for seed in (1, 2)]
    unknown = [dataclasses.replace(r, split={}) if r.spec.split_seed == 1 else r for r in records]
    for found, pairs in ((records, 2), (unknown, 1)):
        (row, *_) = table_rows(build(found, Options(baseline="zero-shot")))
        assert (row["method"], row["delta_n"]) == ("coop", pairs)


def test_a_metric_may_be_computed_by_what_has_no_hash() -> None:
    class Share:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, ranks: Any) -> float:
            return 100 * float((ranks == 1).mean())

    assert needs(Share()) == {"ranks"}


def test_no_harmonic_mean_below_zero() -> None:
    """Neither of a metric of a plug-in that is negative, nor where one seed is."""
    metric = Metric("gain", "gain", lambda hits: float(hits.mean()), unit="nats")
    records = [
        dataclasses.replace(record, metrics={"gain": record.metrics["top1"] / 100})
        for seed, base in ((1, 80.0), (2, -60.0))
        for record in halves("coop", "dtd", seed, base, 40.0)
    ]
    options = Options(metric="gain", metrics={**METRICS, "gain": metric})
    table = build(records, options)
    cell = table.cells["dtd (H)", "coop", 1]
    assert (cell.status, dict(cell.estimates)) == ("missing", {})
    said = "harmonic mean of coop on dtd, 1-shot: a harmonic mean of numbers below zero"
    assert any(said in note for note in table.notes)
    above = build([r for r in records if r.spec.split_seed == 1], options)
    assert above.cells["dtd (H)", "coop", 1].estimates["gain"].mean == pytest.approx(8 / 15)
