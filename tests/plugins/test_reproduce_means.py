"""`fsbench reproduce`: rows printed only as means, base-to-new, and unsupported methods."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.reproduce import published
from fewshot_bench.plugins.reproduce.cells import Cell, Wanted, cells, plan
from fewshot_bench.plugins.reproduce.published import Setting, reproduction
from tests.support.compare_records import TIED, inapplicable, save
from tests.support.helpers import fsbench
from tests.support.reproduced import TABLE, record

SETS = registry().expand_datasets(["all"])
RERUN = "clip-lora (re-run by 2sfs)"
OF_OTHERS = "clip-lora (listed by clip-svd)"
# Numbers of 2SFS's run of CLIP-LoRA.
BASE, NEW, H = 85.32, 70.63, 77.28


def of_sets(cell: Cell, mean: float, **more: Any) -> Iterator[Record]:
    """Records of a cell for three seeds, around a mean shifted by the data set's position."""
    assert cell.variant is not None
    spec = {"protocol": "coop", "options": cell.variant.options, "method_version": "2", **more}
    shift = SETS.index(cell.number.dataset) - len(SETS) // 2
    for seed in (1, 2, 3):
        made = record("dtd", seed, mean + shift + (seed - 2) / 2, classes=cell.number.classes)
        counts = registry().dataset(cell.number.dataset).card().expected_counts
        halved = counts["test"] // (1 if cell.number.classes == "all" else 2)
        changed = dataclasses.replace(
            made.spec, dataset=cell.number.dataset, shots=cell.shots, revision="", **spec
        )
        yield dataclasses.replace(made, spec=changed, metrics={**made.metrics, "n": halved})


def halves(base: float, new: float, without: str = "") -> list[Record]:
    chosen = cells(reproduction("base-to-new"), Wanted(methods=(RERUN,)))
    means = {"base": base, "new": new}
    return [
        each
        for cell in chosen
        if cell.number.dataset != without
        for each in of_sets(cell, means[cell.number.classes])
    ]


@pytest.fixture
def halves_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Identify test images by their number, not by the digest of the lists."""
    monkeypatch.setattr("fewshot_bench.plugins.reproduce.matching.published_splits", dict)


def rows(store: Path, *words: object) -> list[dict[str, Any]]:
    call = ("--only-existing", "--store", store, "--format", "json", "--precision", "fp32")
    done = fsbench("reproduce", *words, *call)
    assert done.code == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)["rows"]
    return found


def means(store: Path, *words: object) -> dict[tuple[str, str], dict[str, Any]]:
    found = rows(store, *words)
    return {(r["method"], r["classes"]): r for r in found if r["dataset"] == "average"}


@pytest.mark.usefixtures("halves_count")
def test_base_to_new_is_compared_by_its_means(tmp_path: Path) -> None:
    store = save(tmp_path, halves(85.2, 74.0))
    found = means(store, "base-to-new", "-m", RERUN)
    base, new, both = (found[RERUN, classes] for classes in ("base", "new", "harmonic"))
    assert [line["paper"] for line in (base, new, both)] == [BASE, NEW, H]
    assert (base["ours"], new["ours"]) == (pytest.approx(85.2), pytest.approx(74.0))
    assert both["ours"] == pytest.approx(statistics.harmonic_mean([85.2, 74.0]))
    assert (base["status"], new["status"], both["status"]) == ("agrees", "differs", "differs")
    step = 0.1
    for line, share in ((base, (step, 0.0)), (new, (0.0, step))):
        moved = statistics.harmonic_mean([85.2 + share[0], 74.0 + share[1]]) - both["ours"]
        line["part"] = moved / step * line["noise"]
    assert both["noise"] == pytest.approx((base["part"] ** 2 + new["part"] ** 2) ** 0.5, rel=0.01)
    assert {line["kind"] for line in (base, new, both)} == {"rerun"}


@pytest.mark.usefixtures("halves_count")
def test_rounding_of_a_mean_counts_once(tmp_path: Path) -> None:
    zero = "zero-shot (listed by clip-svd)"
    chosen = cells(reproduction("base-to-new"), Wanted(methods=("zero-shot",)))
    more = {"method": "zero-shot", "method_version": "1", "prompts": "custom"}
    made = [r for cell in chosen for r in of_sets(cell, 70.0, **more) if r.spec.train_seed == 2]
    images = {r.spec.dataset: r.metrics["n"] for r in made if r.spec.classes == "base"}
    undecided = sum(0.01 * 1e4 / count for count in images.values()) / 11**2
    line = means(save(tmp_path, made), "base-to-new", "-m", "zero-shot")[zero, "base"]
    expected = 1.959964 * (undecided + 0.005**2 / 3) ** 0.5
    assert line["noise"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("halves_count")
def test_a_mean_needs_all_its_sets(tmp_path: Path) -> None:
    store = save(tmp_path, halves(85.2, 74.0, without="food101"))
    found = means(store, "base-to-new", "-m", RERUN)
    for classes in ("base", "new", "harmonic"):
        line = found[RERUN, classes]
        assert (line["verdict"], line["difference"]) == ("incomplete (10 of 11 sets)", None)
    text = fsbench("reproduce", "base-to-new", "--only-existing", "--store", store).out
    assert "mean of 10 of 11 sets, new" in text
    single = [r for r in rows(store, "base-to-new", "-m", RERUN) if r["dataset"] == "dtd"]
    assert [r["verdict"] for r in single] == ["a mean alone is published"] * 2
    assert [r["paper"] for r in single] == [None, None]


@pytest.mark.usefixtures("halves_count")
def test_a_harmonic_mean_is_of_halves_of_the_same_sets(tmp_path: Path) -> None:
    there = {("caltech101", "base"), ("eurosat", "base"), ("ucf101", "new")}
    made = [r for r in halves(85.2, 74.0) if (r.spec.dataset, r.spec.classes) in there]
    line = means(save(tmp_path, made), "base-to-new", "-m", RERUN)[RERUN, "harmonic"]
    assert (line["ours"], line["paper"]) == (None, H)
    assert line["verdict"] == "incomplete (base and new are not of the same sets)"


def test_a_half_of_fewer_classes_or_images_is_not_the_published_one(tmp_path: Path) -> None:
    alone, other = "a mean alone is published", "other data"
    for number, (dataset, classes, images, verdict) in enumerate(
        (
            ("imagenet", 500, 25_000, alone),
            ("imagenet", 50, 2_500, other),
            ("imagenet", 500, 24_500, other),
            ("fgvc_aircraft", 50, 1_666, alone),
            ("fgvc_aircraft", 49, 1_633, other),
        )
    ):
        chosen = cells(reproduction("base-to-new"), Wanted(methods=(RERUN,), datasets=(dataset,)))
        made = [
            dataclasses.replace(
                each,
                metrics={**each.metrics, "n": images},
                split={**each.split, "classes": classes},
            )
            for cell in chosen
            for each in of_sets(cell, 70.0)
        ]
        store = save(tmp_path / str(number), made)
        lines = rows(store, "base-to-new", "-m", RERUN, "-d", dataset)
        assert {r["verdict"] for r in lines if r["dataset"] == dataset} == {verdict}


def test_what_a_method_cannot_answer_is_neither_failed_nor_tried_again(tmp_path: Path) -> None:
    made = []
    for cell in cells(reproduction("base-to-new"), Wanted(methods=("gda",))):
        assert cell.variant is not None
        for seed in (1, 2, 3):
            made.append(
                inapplicable(
                    *("gda", cell.number.dataset, cell.shots, seed),
                    classes=cell.number.classes,
                    backbone="ViT-B-16/openai",
                    val=cell.val,
                    method_version=cell.variant.version,
                    options=cell.variant.options,
                )
            )
    store = save(tmp_path, made)
    found = means(store, "base-to-new", "-m", "gda")
    statuses = {classes: line["status"] for (_, classes), line in found.items()}
    assert statuses == dict.fromkeys(("base", "new", "harmonic"), "inapplicable")
    shown = fsbench("reproduce", "base-to-new", "-m", "gda", "--only-existing", "--store", store)
    assert shown.code == 0
    text = " ".join(shown.out.split())
    assert f"n/a ({TIED})" in text
    assert "cells: 22 n/a" in text
    assert "--retry-failed" not in text


@pytest.mark.usefixtures("halves_count")
def test_one_method_of_two_sources_has_two_rows(tmp_path: Path) -> None:
    store = save(tmp_path, halves(85.2, 74.0))
    found = means(store, "base-to-new", "-m", "clip-lora")
    assert {name for name, _ in found} == {RERUN, OF_OTHERS}
    assert found[RERUN, "base"]["ours"] == found[OF_OTHERS, "base"]["ours"]
    assert (found[OF_OTHERS, "new"]["paper"], found[OF_OTHERS, "new"]["kind"]) == (
        74.80,
        "secondary",
    )
    text = " ".join(
        fsbench("reproduce", "base-to-new", "--only-existing", "--store", store).out.split()
    )
    assert "no row is ranked against that of another source" in text
    assert "H is the harmonic mean of the mean base and the mean new accuracy" in text


def test_rows_of_another_schedule_are_marked(tmp_path: Path) -> None:
    call = ("base-to-new", "-m", "coop", "--only-existing", "--full", "--store", tmp_path / "none")
    text = " ".join(fsbench("reproduce", *call).out.split())
    assert "rows of another schedule than the method's here: coop (re-run by dept)" in text
    found = rows(tmp_path / "none", "base-to-new", "-m", "coop")
    schedules = {r["method"]: r["schedule"] for r in found}
    assert schedules["coop (re-run by dept)"] == "coop-10"
    assert schedules["coop (listed by clip-svd)"] == "coop-50/100/200"


def test_halves_are_run_and_means_of_all_classes_are_not_halved(tmp_path: Path) -> None:
    for name, expected in (("base-to-new", {"base", "new"}), ("few-shot-means", {"all"})):
        chosen = cells(reproduction(name), Wanted(methods=("clip-lora",), shots=(16,)))
        assert {cell.number.classes for cell in chosen} == expected
        assert {cell.number.dataset for cell in chosen} == {*SETS}
        planned = plan(chosen, Wanted(), "tiny", "cpu", tmp_path)
        assert {cell.classes for cell in planned.cells} <= expected


def test_methods_that_are_not_here_are_shown_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Setting, "shipped", property(lambda own: own.method != "taskres"))
    call = (TABLE, "-m", "taskres", "--shots", 1, "--store", tmp_path / "none", "--full")
    for form in ("terminal", "csv"):
        done = fsbench("reproduce", *call, "--format", form)
        assert (done.code, done.err) == (0, "")
        assert done.out.count("not shipped") >= 12
        assert "taskres: not shipped (schedule taskres-100/200)" in done.out or form == "csv"
        assert "to run what is missing" not in done.out
    assert not (tmp_path / "none").exists()
    # The rest of a table runs.
    chosen = cells(reproduction(TABLE), Wanted(methods=("taskres", "zero-shot"), shots=(1,)))
    assert [cell.variant is None for cell in chosen].count(True) == 11
    planned = plan(chosen, Wanted(), "tiny", "cpu", tmp_path)
    assert {cell.method for cell in planned.cells} <= {"zero-shot"}


def test_every_method_of_the_field_has_a_row() -> None:
    named = {
        setting.method
        for table in published.reproductions().values()
        for setting in table.settings.values()
    }
    assert named >= {
        *("maple", "promptsrc", "ivlp", "vpt-deep", "mma", "tcp", "2sfs", "clip-svd", "prolip"),
        *("mmrl", "plot++", "adalora"),
    }


def test_options_make_the_schedule_that_of_the_rows(tmp_path: Path) -> None:
    (row,) = {
        (cell.setting.schedule, cell.variant.options["epochs"], cell.setting.unlike)
        for cell in cells(reproduction("base-to-new"), Wanted(methods=("promptsrc",)))
        if cell.variant
    }
    assert row == ("promptsrc-20", 20, False)
    call = ("base-to-new", "-m", "promptsrc", "--only-existing", "--store", tmp_path / "none")
    text = " ".join(fsbench("reproduce", *call, "--full").out.split())
    assert "prompts custom, published options by data set" in text
    assert "rows of another schedule" not in text
