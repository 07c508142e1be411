"""`compare --baseline`: differences are tested, over seeds and test images."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fewshot_bench.analysis.statistics.intervals import holm
from fewshot_bench.analysis.statistics.paired import compare_paired
from fewshot_bench.analysis.statistics.ranks import average_ranks, friedman, signed_rank
from fewshot_bench.analysis.table.build import build
from fewshot_bench.analysis.table.layouts import full
from fewshot_bench.analysis.table.table import Contrast, Ranking, Significance
from fewshot_bench.api.metrics import rounded
from fewshot_bench.store.store import Store
from tests.support.answers import answers_of, put_answers, stored_arrays
from tests.support.compare_records import make
from tests.support.helpers import fsbench
from tests.support.synthetic_store import fill

OTHERS = ("clip-adapter", "tip-adapter")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six data sets, three methods, two numbers of shots, three seeds."""
    folder = tmp_path_factory.mktemp("six")
    fill(folder, datasets=6, methods=3, shots=(1, 16), queries=300, classes=6)
    return folder


def compared(store: Path, *more: str) -> Any:
    """The JSON table against the linear probe."""
    done = fsbench("compare", "--store", store, "--baseline", "linear-probe", *more)
    assert done.code == 0, done
    return json.loads(done.out)


def hits(store: Path, method: str, shots: int) -> dict[str, list[np.ndarray]]:
    """Hits by data set, per seed, ordered by image name; read from the archives."""
    found: dict[str, dict[int, np.ndarray]] = {}
    opened = Store(store)
    for record in opened.records():
        spec = record.spec
        if (spec.method, spec.shots) == (method, shots):
            arrays = stored_arrays(opened, spec.key())
            right = arrays["predictions"] == arrays["labels"]
            order = np.argsort(arrays["ids"])
            found.setdefault(spec.dataset, {})[spec.split_seed] = right[order].astype(float)
    return {name: [per[s] for s in sorted(per)] for name, per in sorted(found.items())}


@pytest.mark.parametrize(("adjusted", "significant"), [(0.0499, True), (0.0501, False)])
def test_the_level_is_five_percent_after_the_correction(adjusted: float, significant: bool) -> None:
    result = compare_paired({"dtd": [[1, 0, 1]]}, {"dtd": [[0, 0, 1]]})
    assert Contrast("coop", 1, "dtd", result, adjusted).significant == significant


def test_every_number_follows_from_the_logits(store: Path) -> None:
    document = compared(store, "--format", "json")
    for shots in (1, 16):
        base = hits(store, "linear-probe", shots)
        expected = {name: compare_paired(hits(store, name, shots), base) for name in OTHERS}
        adjusted = dict(zip(OTHERS, holm([expected[name].p for name in OTHERS]), strict=True))
        single = {
            (name, group): compare_paired({group: scores}, {group: base[group]})
            for name in OTHERS
            for group, scores in hits(store, name, shots).items()
        }
        told = dict(zip(single, holm([one.p for one in single.values()]), strict=True))
        rows = {
            (row["method"], row["dataset"]): row
            for row in document["rows"]
            if row["shots"] == shots
        }
        standings = {
            one["method"]: one for one in document["meta"]["standings"] if one["shots"] == shots
        }
        for name in OTHERS:
            found, want = standings[name], expected[name]
            for key in ("difference", "low", "high", "p"):
                assert found[key] == pytest.approx(getattr(want, key), abs=1e-9)
            assert found["p_holm"] == pytest.approx(adjusted[name], abs=1e-12)
            gaps = [single[name, group].difference for group in base]
            assert found["wilcoxon_p"] == pytest.approx(signed_rank(gaps))
            assert found["datasets"] == 6
            won = [d for d in base if told[name, d] < 0.05 and single[name, d].difference > 0]
            lost = [d for d in base if told[name, d] < 0.05 and single[name, d].difference < 0]
            assert (found["wins"], found["losses"]) == (len(won), len(lost))
            assert found["ties"] == 6 - len(won) - len(lost)
            for group in base:
                row = rows[name, group]
                assert row["test_p"] == pytest.approx(single[name, group].p, abs=1e-12)
                assert row["test_p_holm"] == pytest.approx(told[name, group], abs=1e-12)
                assert row["test_difference"] == pytest.approx(row["delta_mean"], abs=3e-6)
            assert rows[name, "average"]["test_p"] == pytest.approx(want.p, abs=1e-12)


def test_ranks(store: Path) -> None:
    document = compared(store, "--format", "json")
    (ranking,) = [one for one in document["meta"]["rankings"] if one["shots"] == 16]
    names = ["clip-adapter", "linear-probe", "tip-adapter"]
    means = [[np.mean(s) for s in hits(store, name, 16).values()] for name in names]
    scores = np.array(means).T
    expected = dict(zip(names, average_ranks(scores), strict=True))
    assert dict(zip(ranking["rows"], ranking["ranks"], strict=True)) == pytest.approx(expected)
    assert ranking["ranks"] == sorted(ranking["ranks"])
    assert ranking["p"] == pytest.approx(friedman(scores)[1])
    # Demsar's table: q = 2.343 for three methods.
    assert ranking["critical"] == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 6)), abs=1e-3)


def test_no_percentages_differ_by_more_than_a_hundred(store: Path) -> None:
    words = ("--store", store, "--baseline", "linear-probe", "--seeds", "1,2")
    shown = fsbench("compare", *words).out.partition("smallest differences")[2]
    assert ">100 (n=2)" in shown
    points = [float(found) for found in re.findall(r"([\d.]+) \(n=2\)", shown.replace(">100", ""))]
    assert max(points, default=0.0) <= 100
    # Unlike accuracies, other metrics have no such bound.
    assert ">100" not in fsbench("compare", *words, "--metric", "nll").out


def test_logits_that_are_gone_are_left_out(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    shutil.rmtree(copy / "outcomes", ignore_errors=True)
    opened = Store(copy)
    for record in list(opened.records()):
        if (record.spec.method, record.spec.dataset) == ("tip-adapter", "dtd"):
            opened.file(record.spec.key()).with_suffix(".npz").unlink()
    standings = compared(copy, "--format", "json")["meta"]["standings"]
    out = {one["method"]: (one["datasets"], one["left_out"]) for one in standings}
    assert out == {"clip-adapter": (6, []), "tip-adapter": (5, ["dtd"])}
    rows = compared(copy, "--format", "json")["rows"]
    averages = {r["method"]: r for r in rows if (r["dataset"], r["shots"]) == ("average", 16)}
    # The average covers six data sets, the test five of them: they are not comparable.
    assert averages["tip-adapter"]["test_p"] is None
    assert averages["tip-adapter"]["delta_n"] == averages["clip-adapter"]["test_seeds"] == 3
    done = fsbench("compare", "--store", copy, "--baseline", "linear-probe")
    assert "5 of 6" in done.out


def test_one_seed_says_what_it_is_about(tmp_path: Path) -> None:
    fill(tmp_path, datasets=1, methods=2, shots=(4,), seeds=(1,), queries=200, classes=5)
    done = fsbench("compare", "--store", tmp_path, "--baseline", "linear-probe")
    assert "ONE SEED: about these fits" in " ".join(done.out.split())
    (one,) = compared(tmp_path, "--format", "json")["meta"]["standings"]
    assert (one["conditional"], one["wilcoxon_p"]) == (True, None)


def test_methods_that_never_differ_say_nothing_about_what_can_be_seen(tmp_path: Path) -> None:
    """A second method has the baseline's predictions, and a third differs."""
    fill(tmp_path, datasets=1, methods=3, shots=(4,), queries=100, classes=5)
    opened = Store(tmp_path)
    for record in [r for r in opened.records() if r.spec.method == "linear-probe"]:
        arrays = stored_arrays(opened, record.spec.key())
        for method in ("copy", "other"):
            twin = replace(record, spec=replace(record.spec, method=method))
            put_answers(opened, twin, arrays["logits"], arrays["labels"], arrays["ids"])
    only = ("--method", "linear-probe,copy,other", "--format", "json")
    document = compared(tmp_path, *only)
    assert {one["p"] for one in document["meta"]["standings"]} == {1.0}
    assert document["meta"]["detectable"] == []
    (one,) = compared(tmp_path, "--format", "json")["meta"]["detectable"]
    (alone,) = compared(
        tmp_path, "--method", "linear-probe,clip-adapter,tip-adapter", "--format", "json"
    )["meta"]["detectable"]
    assert one == alone
    assert one["points"] > 0


def test_more_groups_of_ranks_than_letters() -> None:
    """40 methods, each distinguishable from those three ranks away."""
    names = [f"m{place}" for place in range(40)]
    records = [make(name, "dtd", seed=1) for name in names]
    cliques = tuple(tuple(names[place : place + 3]) for place in range(38))
    ranking = Ranking(1, 200, tuple(names), tuple(map(float, range(1, 41))), 0.0, 3.0, cliques)
    table = replace(build(records), significance=Significance(rankings=(ranking,)), baseline="m0")
    (grid,) = [grid for grid in full(table) if grid.name.startswith("ranks")]
    assert "methods with a number in common" in grid.caption
    assert [line.entries[1].text for line in grid.lines[:4]] == ["1", "1–2", "1–3", "2–4"]
    assert all(line.entries[1].text for line in grid.lines)


def test_a_metric_without_images(store: Path) -> None:
    document = compared(store, "--format", "json", "--metric", "ece")
    assert document["meta"]["standings"] == []
    assert len(document["meta"]["rankings"]) == 2


def test_damaged_logits_are_not_used_for_any_number(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    shutil.rmtree(copy / "outcomes", ignore_errors=True)
    opened = Store(copy)
    for record in list(opened.records()):
        spec = record.spec
        if (spec.method, spec.dataset, spec.shots) == ("tip-adapter", "dtd", 16):
            opened.file(spec.key()).with_suffix(".npz").write_bytes(b"damaged")
    done = fsbench("compare", "--store", copy, "--baseline", "linear-probe", "--format", "json")
    assert (done.code, done.err.count("not used: ")) == (0, 3)
    place = ("tip-adapter", "dtd", 16)
    (row,) = (
        row
        for row in json.loads(done.out)["rows"]
        if (row["method"], row["dataset"], row["shots"]) == place
    )
    assert (row["top1_mean"], row["delta_mean"], row["n_seeds"]) == (None, None, 0)


def test_damaged_logits_alone(tmp_path: Path) -> None:
    fill(tmp_path, datasets=1, methods=2, shots=(4,), seeds=(1,), queries=20, classes=5)
    shutil.rmtree(tmp_path / "outcomes", ignore_errors=True)
    for path in (tmp_path / "records").rglob("*.npz"):
        path.write_bytes(b"damaged")
    done = fsbench("compare", "--store", tmp_path, "--baseline", "linear-probe")
    assert (done.code, "fsbench store verify" in done.err) == (3, True)


def test_seeds_without_logits_are_named(store: Path, tmp_path: Path) -> None:
    """The difference covers three seeds, the test only those with logits."""
    copied = tmp_path / "store"
    shutil.copytree(store, copied)
    shutil.rmtree(copied / "outcomes", ignore_errors=True)
    gone = [
        record.spec.key()
        for record in Store(copied).records()
        if (record.spec.method, record.spec.shots) == ("clip-adapter", 16)
        and record.spec.split_seed > 1
    ]
    for key in gone:
        Store(copied).file(key).with_suffix(".npz").unlink()
    notes = compared(copied, "--format", "json")["meta"]["notes"]
    text = "tests use fewer seeds than the differences, as logits of the others are not in the"
    found = [note for note in notes if text in note]
    assert len(found) == 1
    assert ", 16-shot: 1 of 3" in found[0]
    assert not any(text in note for note in compared(store, "--format", "json")["meta"]["notes"])


def test_a_missing_average_has_no_test(store: Path, tmp_path: Path) -> None:
    """The test over all data sets would be over other seeds on one of them."""
    copied = tmp_path / "store"
    shutil.copytree(store, copied)
    opened = Store(copied)
    lost = next(
        record
        for record in opened.records()
        if (record.spec.method, record.spec.shots, record.spec.split_seed)
        == ("clip-adapter", 16, 3)
    )
    opened.file(lost.spec.key()).unlink()
    document = compared(copied, "--format", "json")
    averages = {
        (row["method"], row["shots"]): row
        for row in document["rows"]
        if row["dataset"] == "average" and row["method"] != "linear-probe"
    }
    row = averages.pop(("clip-adapter", 16))
    assert (row["status"], row["n_seeds"]) == ("missing", 0)
    assert {value for name, value in row.items() if name.startswith(("delta_m", "test_"))} == {
        "top1",
        None,
    }
    assert all(row["test_p"] is not None for row in averages.values())
    standings = [(one["method"], one["shots"]) for one in document["meta"]["standings"]]
    assert ("clip-adapter", 16) in standings


def test_new_names_of_data_sets_stand_in_the_evidence_too(store: Path) -> None:
    document = compared(store, "--format", "json", "--rename", "dtd=Textures")
    groups = {one["group"] for one in document["meta"]["detectable"]}
    assert groups < {row["dataset"] for row in document["rows"]}
    assert "Textures" in groups


def test_equal_accuracies_are_tied_whatever_their_rounding(tmp_path: Path) -> None:
    """41, 41 and 44 hits of 60 are as many as 42, 42 and 42; records round each to six digits."""
    store, hits = Store(tmp_path / "s"), {"a": (41, 41, 44), "b": (42, 42, 42), "c": (10, 11, 12)}
    store.create()
    for method, counts in hits.items():
        for dataset, (seed, count) in itertools.product("xyz", enumerate(counts, 1)):
            logits = np.eye(2)[(np.arange(60) >= count).astype(int)]
            answers = answers_of(logits, np.zeros(60))
            record = replace(make(method, dataset, seed=seed), metrics=rounded(answers))
            put_answers(store, record, logits, np.zeros(60), map(str, range(60)))
    words = ("compare", "--store", store.path, "--baseline", "c", "--format", "json")
    (ranking,) = json.loads(fsbench(*words).out)["meta"]["rankings"]
    assert dict(zip(ranking["rows"], ranking["ranks"], strict=True)) == {"a": 1.5, "b": 1.5, "c": 3}
    assert ranking["p"] == pytest.approx(
        stats.friedmanchisquare(*[[2] * 3, [2] * 3, [1] * 3]).pvalue
    )
    page = tmp_path / "page.html"
    assert fsbench("report", "--store", store.path, "-O", page).code == 0
    assert "Average ranks (1 is best): b 1.50; a 1.50; c 3.00" in page.read_text(encoding="utf-8")
