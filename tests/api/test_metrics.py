"""Metrics of plug-ins: registered by name, computed from stored logits, shown as built-in ones."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import fewshot_bench as fb
from fewshot_bench.api.metrics import GIVEN, METRICS, Metric
from fewshot_bench.store.index import index_file
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError
from tests.support.answers import answers_of, stored_arrays
from tests.support.helpers import REPOSITORY, fsbench
from tests.support.synthetic_store import fill

Install = Callable[[str, str], None]
HOOK = """
from fewshot_bench import Metric, hookimpl


@hookimpl
def register_metrics(register):
    register("{name}", "{module}:METRIC")
"""
GUIDE = (REPOSITORY / "docs" / "how-to" / "own-metric.md").read_text(encoding="utf-8")
# The guide's example, as a module with the name used there.
TOP3 = GUIDE.split("<!-- example: metric -->\n```python\n")[1].split("```\n")[0]
# Larger if the label's logit is lower: lower is better, and not a percentage.
RANK = (
    HOOK.replace("{name}", "label_rank")
    + """

def ranks(logits, labels):
    own = logits[range(len(labels)), labels]
    return (logits > own[:, None]).sum(axis=1)


METRIC = Metric(
    "label_rank",
    "rank of the label",
    lambda logits, labels: ranks(logits, labels).mean(),
    unit="places",
    digits=3,
    higher_is_better=False,
    scores=ranks,
)
"""
)


def odd(body: str, name: str = "odd") -> str:
    return HOOK.replace("{name}", name) + f"\nMETRIC = Metric({name!r}, 'an odd one', {body})\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fill(tmp_path_factory.mktemp("m") / "s", 2, 3, (1, 4), (1, 2, 3), queries=80, classes=6)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def top3(store: Store, method: str, dataset: str, shots: int) -> float:
    """Top-3 accuracy from the logits, computed independently of the plug-in."""
    values = []
    for record in store.records():
        spec = record.spec
        if (spec.method, spec.dataset, spec.shots) == (method, dataset, shots):
            arrays = stored_arrays(store, spec.key())
            own = arrays["logits"][np.arange(80), arrays["labels"]]
            values.append(100 * ((arrays["logits"] > own[:, None]).sum(1) < 3).mean())
    return float(np.mean(values))


def test_compare_shows_ranks_and_tests_it(store: Store, install: Install) -> None:
    install("top3", TOP3)
    words = ("compare", "--store", store.path, "--metric", "top3")
    shown = fsbench(*words, "--baseline", "linear-probe")
    assert shown.code == 0, shown.err
    assert "top-3 accuracy in %, mean ± 95 % t-interval" in shown.out
    assert "points of top-3 accuracy" in shown.out
    assert "paired over seeds and test images" in shown.out
    for row in rows(fsbench(*words, "--format", "csv").out):
        if row["dataset"] != "average":
            expected = top3(store, row["method"], row["dataset"], int(row["shots"]))
            assert float(row["top3"]) == pytest.approx(expected, abs=1e-5)
            assert row["top3_n"] == "3"
    again = json.loads(fsbench(*words, "--format", "json").out)
    assert again["meta"]["metrics"]["top3"] == {
        "title": "top-3 accuracy",
        "unit": "percent",
        "higher_is_better": True,
    }
    words = ("compare", "--store", store.path, "--layout", "full", "--columns", "top3")
    beside = fsbench(*words, "--sort", "top3")
    assert "top-3 1-shot" in beside.out


def test_frames_of_records_have_it_where_it_is_asked_for(store: Store, install: Install) -> None:
    install("top3", TOP3)
    results = fb.load(store.path)
    assert "top3" not in results.to_frame().columns
    frame = results.to_frame(metrics="top3")
    one = frame[(frame.method == "linear-probe") & (frame.dataset == "dtd") & (frame.shots == 4)]
    assert one.top3.mean() == pytest.approx(top3(store, "linear-probe", "dtd", 4), abs=1e-5)
    assert "top3" in results.where(lambda record: False).to_frame(metrics=["top3"]).columns
    with pytest.raises(fb.UsageError, match="unknown metric 'top4': did you mean 'top3'"):
        results.to_frame(metrics=["top3", "top4"])


def test_where_less_is_better_the_lowest_is_best_and_wins(store: Store, install: Install) -> None:
    install("rank", RANK)
    words = ("compare", "--store", store.path, "--metric", "label_rank", "--baseline")
    text = fsbench(*words, "linear-probe", "--format", "json").out
    found = json.loads(text)
    for standing in found["meta"]["standings"]:
        better = standing["difference"] < 0
        assert standing["wins"] == 0 or better
        assert standing["losses"] == 0 or not better
        means = {
            row["method"]: row["label_rank"]
            for row in found["rows"]
            if row["dataset"] == "average" and row["shots"] == standing["shots"]
        }
        gap = means[standing["method"]] - means["linear-probe"]
        assert standing["difference"] == pytest.approx(gap, abs=1e-5)
    assert any(one["wins"] + one["losses"] for one in found["meta"]["standings"])
    shown = fsbench(*words, "linear-probe")
    assert "rank of the label in places, lower is better" in shown.out
    best = fsbench(*words[:-1], "--format", "markdown").out
    for line in re.findall(r"^\| average.*$", best, re.MULTILINE):
        assert "**" in line


def test_values_are_kept_until_the_code_changes(store: Store, install: Install) -> None:
    install("top3", TOP3)
    words = ("compare", "--store", store.path, "--metric", "top3", "--format", "csv")
    first = fsbench(*words)
    with closing(sqlite3.connect(index_file(store.path))) as connection:
        kept = connection.execute("select * from outcomes").fetchall()
        assert kept
        assert fsbench(*words).out == first.out
        assert connection.execute("select * from outcomes").fetchall() == kept


def test_an_edited_metric_is_computed_again(tmp_path: Path, install: Install) -> None:
    store = fill(tmp_path / "s", 1, 1, (1,), (1,), queries=40, classes=5)
    words = ("compare", "--store", str(store.path), "--metric", "half", "--format", "csv")

    def value() -> str:
        """The value as computed by a separate process."""
        command = [sys.executable, "-m", "fewshot_bench", *words]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        return rows(found.stdout)[0]["half"]

    install("half", odd("lambda hits: 50.0", "half"))
    assert value() == "50.0"
    (source,) = tmp_path.glob("plugins/fsbench_half.py")
    source.write_text(source.read_text(encoding="utf-8").replace("50.0", "2.5"), encoding="utf-8")
    assert value() == "2.5"


def test_report_and_sweep_take_it(store: Store, install: Install, tmp_path: Path) -> None:
    install("top3", TOP3)
    page = tmp_path / "r.html"
    made = fsbench("report", "--store", store.path, "--metric", "top3", "-O", page)
    assert made.code == 0, made.err
    assert "top-3 accuracy" in page.read_text(encoding="utf-8")
    cells = ("--shots", 1, "--seeds", 1, "--limit", 20)
    words = ("-m", "tip-adapter", "-o", "init_alpha=1,2", "--store", tmp_path / "t")
    assert fsbench("run", *words, "-d", "digits", *cells).code == 0
    swept = fsbench("compare", "--layout", "sweep", *words, "--metric", "top3")
    assert swept.code == 0, swept.err
    assert "top-3 accuracy" in swept.out
    assert "missing" not in swept.out


def test_list_names_metrics(install: Install) -> None:
    install("top3", TOP3)
    listed = fsbench("list", "metrics").out
    assert re.search(r"^top1 +top-1 accuracy in %$", listed, re.MULTILINE)
    assert re.search(r"^top3 +top-3 accuracy in %  \(fsbench-top3:top3\)$", listed, re.MULTILINE)
    shown = fsbench("show", "top3").out
    assert "top3: metric, top-3 accuracy, registered by fsbench-top3:top3" in shown
    assert "better     higher" in shown
    assert "unit       nats\n  better     lower" in fsbench("show", "nll").out


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("lambda hits: float('nan')", "metric 'odd' gave nan for logits of shape (80, 6)"),
        ("lambda labels: labels", "expected one finite number"),
        ("lambda logits: None", "metric 'odd' gave None"),
        ("lambda logits: 1 / 0", "metric 'odd' failed: ZeroDivisionError: division by zero, at "),
        ("lambda logits: exit(3)", "metric 'odd' failed: SystemExit: "),
        ("lambda hits: 1.0, scores=lambda hits: hits[1:]", "have shape (79,) and type bool"),
        ("lambda hits: 1.0, scores=lambda hits: hits + float('nan')", "are not finite for"),
        ("lambda hits: 1.0, scores=lambda hits: hits", "its value is 1.000000: expected the same"),
    ],
)
def test_what_it_may_not_give_is_named(
    body: str, message: str, store: Store, install: Install
) -> None:
    install("odd", odd(body))
    words = ("compare", "--store", store.path, "--metric", "odd", "--baseline", "linear-probe")
    failed = fsbench(*words)
    assert failed.code == 1
    assert message in failed.err


def test_a_value_near_zero_is_the_mean_of_its_scores(store: Store, install: Install) -> None:
    install("odd", odd("lambda hits: float(hits.mean()) / 800, scores=lambda hits: hits / 8e4"))
    words = ("compare", "--store", store.path, "--metric", "odd", "--baseline", "linear-probe")
    shown = fsbench(*words)
    assert shown.code == 0, shown.err
    assert "significance, 4-shot" in shown.out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (odd("lambda images: 1.0"), "asks for 'images': expected parameters among logits, labels"),
        (odd("max", "Odd"), "expected a name of lower-case letters"),
        (HOOK.replace("{name}", "odd") + "METRIC = 3\n", "is 3, expected a Metric"),
    ],
)
def test_a_broken_one_is_refused_by_name(
    source: str, message: str, store: Store, install: Install
) -> None:
    install("odd", source)
    failed = fsbench("compare", "--store", store.path, "--metric", "odd")
    assert failed.code == 2
    assert message in failed.err
    assert fsbench("compare", "--store", store.path, "--format", "csv").code == 0


@pytest.mark.parametrize("given", ["labels", "hits", "predictions"])
def test_none_can_change_what_others_are_computed_from(
    store: Store, install: Install, given: str
) -> None:
    install("odd", odd(f"lambda {given}: ({given}.__setitem__(slice(None), 0), 1.0)[1]"))
    failed = fsbench("compare", "--store", store.path, "--metric", "odd")
    assert failed.code != 0
    assert "metric 'odd' failed: ValueError: " in failed.err
    assert "read-only, at " in failed.err


def test_none_takes_the_place_of_a_built_in_one(store: Store, install: Install) -> None:
    words = ("compare", "--store", store.path, "--format", "csv")
    before = fsbench(*words)
    install("odd", odd("lambda hits: 1.0", "top1"))
    assert fsbench(*words) == before
    assert "metric 'top1' is built in; the one of fsbench-odd:odd" in fsbench("list", "metrics").err


def test_one_that_two_plug_ins_register_is_refused_with_both(
    store: Store, install: Install
) -> None:
    install("one", odd("lambda hits: 1.0"))
    install("two", odd("lambda hits: 2.0"))
    said = "two plug-ins register the metric 'odd': fsbench-one:one, .* and fsbench-two:two, "
    assert re.search(said, fsbench("compare", "--store", store.path, "--metric", "odd").err)
    with pytest.raises(FsbenchError, match=said):
        fb.load(store.path).compare(metric="odd")


def test_an_unknown_name_is_refused_with_the_closest(store: Store, install: Install) -> None:
    install("top3", TOP3)
    for command in ("compare", "report"):
        failed = fsbench(command, "--store", store.path, "--metric", "top33")
        assert failed.code == 2
        assert "unknown metric 'top33': did you mean 'top3'? (fsbench list metrics)" in failed.err
    failed = fsbench("report", "--store", store.path, "--metric", "ece")
    assert failed.code == 2
    assert "expected top1, macro_accuracy or a plug-in's like these" in failed.err


def test_every_name_that_functions_can_ask_for_is_there() -> None:
    answers = answers_of(np.eye(4), np.arange(4))
    for name in GIVEN:
        assert getattr(answers, name) is not None


@pytest.mark.parametrize("metric", [m for m in METRICS.values() if m.scores])
def test_scores_have_the_mean_of_the_value(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    answers = answers_of(rng.normal(size=(50, 4)), rng.integers(0, 3, 50))
    mean = metric.scale * metric.by_image(answers).mean()
    assert mean == pytest.approx(metric.value(answers))
