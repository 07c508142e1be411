"""`fsbench compare --per-class`: the accuracy of single classes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fewshot_bench.analysis.table.per_class import class_names
from fewshot_bench.api.record import Record
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError
from tests.support.answers import put_answers, stored_arrays
from tests.support.compare_records import make, read_csv, run_compare
from tests.support.helpers import fsbench
from tests.support.synthetic_store import fill

HOSTILE = ("=cmd|' /C calc'!A0", r"a_b&50%#$\x{y}~^", "<script>|*b*", "x\x1b[2J\u202e")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("made") / "s"
    return fill(folder, 2, 2, (1, 4), (1, 2), queries=150, classes=14, zero_shot=True)


def test_csv_has_every_class(store: Store) -> None:
    rows = read_csv(run_compare("--store", store.path, "--per-class", "--format", "csv").output)
    assert len(rows) == 2 * (2 * 2 + 1) * 14
    found: dict[tuple[str, str, str], list[float]] = {}
    for record in store.records():
        arrays, spec = stored_arrays(store, record.spec.key()), record.spec
        predictions, labels = arrays["predictions"], arrays["labels"]
        for label in range(14):
            hits = predictions[labels == label] == label
            key = spec.dataset, spec.method, f"{spec.shots}-{label}"
            found.setdefault(key, []).append(100 * float(hits.mean()))
    for row in rows:
        values = found[row["dataset"], row["method"], f"{row['shots']}-{row['label']}"]
        assert float(row["accuracy_mean"]) == pytest.approx(np.mean(values), abs=1e-6)
        assert row["n_seeds"] == "2"
        assert row["classname"] == record.split["classnames"][int(row["label"])]
        assert row["precision_mean"] == "" or 0 <= float(row["precision_mean"]) <= 100
        assert 0 <= float(row["f1_mean"]) <= 100


def test_terminal_shows_the_worst_and_the_best(store: Store) -> None:
    words = ("--store", store.path, "--per-class", "--dataset", "dtd")
    text = run_compare(*words).output
    assert "dtd, classes  accuracy of single classes in %, 4-shot, mean over 2 seeds, " in text
    assert "zero-shot (0-shot)" in text
    rows = json.loads(run_compare(*words, "--format", "json").output)["rows"]
    last = [row for row in rows if row["shots"] != 1]
    means: dict[str, list[float]] = {}
    for row in last:
        means.setdefault(row["classname"], []).append(row["accuracy_mean"])
    ordered = sorted(means, key=lambda name: np.mean(means[name]))
    lines = [line for line in text.splitlines() if any(f"{name} (" in line for name in means)]
    assert len(lines) == 10
    shown = [next(name for name in means if line.startswith(f"{name} (")) for line in lines]
    assert {*shown[:5]} == {*ordered[:5]}
    assert {*shown[5:]} == {*ordered[-5:]}


@pytest.mark.parametrize(
    "words", [("--columns", "ece"), ("--sort", "top1"), ("--metric", "ece"), ("--baseline", "a")]
)
def test_what_does_not_go_with_it(store: Store, words: tuple[str, str]) -> None:
    error = run_compare("--store", store.path, "--per-class", *words).exception
    assert isinstance(error, UsageError)
    assert f"--per-class has no room for {words[0]}" in str(error)


def test_records_without_logits_are_counted(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", 1, 1, (1,), (1, 2, 3), queries=20, classes=3, failed=1)
    done = next(record for record in store.records() if record.status == "done")
    store.file(done.spec.key()).with_suffix(".npz").unlink()
    shown = run_compare("--store", store.path, "--per-class").output
    assert "1 finished record is left out: no logits that can be used" in shown
    assert "mean over 1 seed" in shown


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv", "json"])
def test_names_stay_names(tmp_path: Path, form: str) -> None:
    store = fill(tmp_path / "s", 1, 1, (1,), (1,), queries=20, classes=4)
    (record,) = store.records()
    arrays = stored_arrays(store, record.spec.key())
    renamed = dataclasses.replace(record, split={**record.split, "classnames": list(HOSTILE)})
    put_answers(store, renamed, arrays["logits"], arrays["labels"], arrays["ids"])
    text = run_compare("--store", store.path, "--per-class", "--format", form).output
    assert not {c for c in text if not c.isprintable() and c != "\n"}
    if form == "csv":
        names = [row["classname"] for row in read_csv(text)]
        assert names[0] == f"'{HOSTILE[0]}"
        assert names[1:3] == list(HOSTILE[1:3])
    if form == "json":
        assert [row["classname"] for row in json.loads(text)["rows"]] == list(HOSTILE)
    if form == "latex":
        assert r"a\_b\&50\%\#\$\textbackslash{}x\{y\}\textasciitilde{}\textasciicircum{}" in text
    if form == "markdown":
        assert "<script>" not in text
        assert r"\<script\>\|\*b\*" in text


def named(names: object, **spec: object) -> Record:
    record = make(**spec)  # type: ignore[arg-type]
    return dataclasses.replace(record, split={**record.split, "classnames": names})


def test_where_names_come_from() -> None:
    assert class_names([make(), named(["a", "b"])], 2) == ["a", "b"]
    assert class_names([named(["a", "b", "a"])], 3) == ["a #0", "b", "a #2"]
    assert class_names([named(["a"]), named("ab")], 2) == ["class 0", "class 1"]


def test_a_run_records_the_names_of_its_classes(tmp_path: Path) -> None:
    words = ("run", "--method", "zero-shot", "--dataset", "digits", "--shots", "1", "--seeds", "1")
    assert fsbench(*words, "--limit", "40", "--store", tmp_path / "s").code == 0
    shown = fsbench("compare", "--per-class", "--format", "csv", "--store", tmp_path / "s")
    assert {"zero", "nine"} <= {row["classname"] for row in read_csv(shown.out)}


@pytest.mark.parametrize("named", [True, False])
def test_a_class_of_another_label_is_the_same_class(tmp_path: Path, named: bool) -> None:
    """Two revisions list the classes in another order; all cats are right, and no dog is."""
    opened = Store(tmp_path / "s")
    opened.create()
    for method, names in (("a", ["cat", "dog"]), ("b", ["dog", "cat"] if named else [])):
        cat = names.index("cat") if names else 0
        logits = np.zeros((6, 2))
        logits[:, cat] = 1
        record = make(method, revision=f"of {method}", digest=f"of {method}")
        record = dataclasses.replace(record, split={**record.split, "classnames": names})
        put_answers(opened, record, logits, [cat] * 4 + [1 - cat] * 2, list("abcdef"))
    text = run_compare("--store", opened.path, "--per-class", "--allow-mixed").output
    lines = {line.split("  ")[0]: line.split()[2:] for line in text.splitlines() if " (" in line}
    assert lines["cat (4)"] == ["100.0", "100.0"]
    assert lines["dog (2)"] == ["0.0", "0.0"]
