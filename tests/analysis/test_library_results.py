"""`Results` and `Comparison`: filters, frames, tables and figures of records in Python."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewshot_bench as fb
from fewshot_bench.analysis.table.layouts import LAYOUTS
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import ALL_SHOTS
from tests.support.compare_records import make, save
from tests.support.helpers import fsbench
from tests.support.synthetic_store import fill


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods and a failed cell on two data sets, at 1 and 2 shots, with two seeds."""
    folder = tmp_path_factory.mktemp("results") / "made"
    fill(folder, 2, 2, (1, 2), (1, 2), queries=60, classes=5, failed=1, zero_shot=True)
    return folder


@pytest.fixture(scope="module")
def results(store: Path) -> fb.Results:
    """Results of the whole store."""
    return fb.load(store)


def test_a_frame_has_one_row_per_record(results: fb.Results) -> None:
    frame = results.to_frame()
    assert len(frame) == len(results) == len(results.records())
    done = results.where(status="done")
    for record, (_, row) in zip(done, done.to_frame().iterrows(), strict=True):
        spec = record.spec
        assert (row.method, row.dataset, row.shots) == (spec.method, spec.dataset, spec.shots)
        assert (row.seed, row.split_seed, row.key) == (
            spec.train_seed,
            spec.split_seed,
            spec.key(),
        )
        assert row.top1 == record.metrics["top1"]
        assert row.ece >= 0
        assert row.n == record.metrics["n"] == 60
    assert frame[frame.status == "failed"].error.notna().all()


def test_an_empty_frame_has_the_columns(results: fb.Results) -> None:
    frame = results.where(lambda record: False).to_frame()
    assert len(frame) == 0
    assert {"method", "top1", "key"} <= set(frame.columns)


def test_filters_take_one_value_or_several(results: fb.Results) -> None:
    methods = sorted({record.spec.method for record in results})
    assert {r.spec.method for r in results.where(method=methods[0])} == {methods[0]}
    assert {r.spec.method for r in results.where(method=methods[:2])} == set(methods[:2])
    assert {r.spec.shots for r in results.where(shots=2)} == {2}
    assert {r.spec.shots for r in results.where(shots=[1, 2])} == {1, 2}
    assert len(results.where(limit=None, precision=["fp32"])) == len(results)
    assert len(results.where(lambda record: record.spec.train_seed == 1)) < len(results)
    assert [r.status for r in results.where(status="failed")] == ["failed"]
    assert results.where(status="failed").records() == results.failed()
    assert len(results.where(options={})) == len(results)


def test_a_list_of_methods_may_hold_labels_with_several_options(tmp_path: Path) -> None:
    two = {"lr": 0.1, "rank": 2}
    records = [make("coop", overrides=two, options=two), make("zero-shot"), make("coop")]
    results = fb.load(save(tmp_path, records))
    asked = ["zero-shot", "coop[lr=0.1,rank=2]"]
    chosen = results.where(method=asked)
    assert len(chosen) == 2
    assert list(dict.fromkeys(chosen.compare().to_frame().method)) == asked
    assert len(results.where(method=asked[1:])) == 1


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"methods": "coop"}, "unknown filter 'methods': did you mean 'method'"),
        ({"status": "ok"}, "unknown status 'ok'"),
        ({"backbone": "ViT-B/16"}, "unknown backbone 'ViT-B/16': did you mean 'ViT-B-16/openai'"),
        ({"dataset": "caltech"}, "unknown data set 'caltech': did you mean 'caltech101'"),
        ({"shots": 64}, "unknown number of shots '64'"),
        ({"options": 4}, "expected a mapping"),
        ({"options": {"wieght": 1.0}}, "unknown hyper-parameter 'wieght'"),
        ({"method": dict}, "unknown method 'dict'"),
    ],
)
def test_filters_that_match_nothing_are_refused(
    results: fb.Results, filters: dict[str, Any], message: str
) -> None:
    with pytest.raises(fb.UsageError, match=message):
        results.where(**filters)


def test_tables_are_those_of_the_command_line(results: fb.Results, store: Path) -> None:
    words = ("compare", "--store", store, "--baseline", "zero-shot", "--metric", "macro_f1")
    table = results.compare(baseline="zero-shot", metric="macro_f1")
    for form, text in {
        "terminal": str(table),
        "markdown": table.to_markdown(),
        "latex": table.to_latex(),
        "csv": table.to_csv(),
        "json": table.to_json(),
    }.items():
        assert text == fsbench(*words, "--format", form).out, form
    rows = json.loads(table.to_json())["rows"]
    assert len(table.to_frame()) == len(rows)
    assert repr(table) == str(table)
    assert table.notes


def test_filtered_tables_are_those_of_the_command_line(results: fb.Results, store: Path) -> None:
    chosen = results.where(method=["zero-shot", "linear-probe"], dataset="dtd", seeds=1)
    words = ("--method", "zero-shot,linear-probe", "--dataset", "dtd", "--seeds", "1")
    told = fsbench("compare", "--store", store, *words, "--columns", "ece", "--sort", "ece").out
    assert str(chosen.compare(columns=["ece"], sort="ece")) == told


def test_tables_of_papers_are_those_of_the_command_line(results: fb.Results, store: Path) -> None:
    words = ("compare", "--store", store, "--layout", "paper", "--rename", "zero-shot=CLIP")
    table = results.compare(layout="paper", rename={"zero-shot": "CLIP"})
    named = ("--caption", "All sets.", "--label", "tab:all")
    latex = table.to_latex(caption="All sets.", label="tab:all")
    assert latex == fsbench(*words, *named, "--format", "latex").out
    for form, text in (("markdown", table.to_markdown()), ("csv", table.to_csv())):
        assert text == fsbench(*words, "--format", form).out
    assert str(table) == fsbench(*words).out
    assert list(table.to_frame().columns) == table.to_csv().partition("\n")[0].split(",")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "papers"}, "unknown layout 'papers': did you mean 'paper'"),
        ({"layout": "paper", "columns": "ece"}, "no room for columns"),
        ({"metric": "top2"}, "unknown metric 'top2': did you mean 'top1'"),
        ({"sort": "tp1"}, "unknown order 'tp1'"),
        ({"baseline": "zeroshot"}, "zero-shot"),
        ({"baseline": 3}, "baseline=3: expected the name or the class of a method, or None"),
        ({"metric": None}, "metric=None: expected the name of a metric"),
        ({"columns": 3}, "columns=3: expected names of columns"),
        ({"rename": ["a"]}, "rename=.*expected a mapping"),
        ({"allow_mixed": 1}, "allow_mixed=1: expected True or False"),
    ],
)
def test_unknown_names_are_refused(
    results: fb.Results, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(fb.UsageError, match=message):
        results.compare(**arguments)


def test_nothing_to_compare_is_an_error(results: fb.Results) -> None:
    with pytest.raises(fb.DataMissingError, match="no record to compare"):
        results.where(lambda record: False).compare()


def test_files_hold_what_is_returned(results: fb.Results, tmp_path: Path) -> None:
    table = results.compare()
    for write, name in ((table.to_csv, "a.csv"), (table.to_latex, "a.tex")):
        assert write(tmp_path / name) == (tmp_path / name).read_text(encoding="utf-8")
    with pytest.raises(fb.UsageError, match="cannot write"):
        table.to_json(tmp_path / "absent" / "a.json")


@pytest.mark.parametrize("layout", sorted({*LAYOUTS} - {"sweep"}))
def test_all_train_images_are_a_word_in_data_frames(tmp_path: Path, layout: str) -> None:
    table = fb.load(save(tmp_path, [make(), make(shots=ALL_SHOTS)])).compare(layout=layout)
    assert set(table.to_frame().shots) == {1, "all"}


class Texts(HTMLParser):
    """Displayed text and tags of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.shown: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.shown.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Collect a tag."""
        self.tags.add(tag)


def test_a_notebook_shows_what_the_terminal_shows(results: fb.Results) -> None:
    table = results.compare(baseline="zero-shot")
    page = Texts(table._repr_html_())
    assert page.tags <= {"div", "style", "p", "b", "ul", "li", "small", "code", "pre", "table"} | {
        *("caption", "thead", "tbody", "tr", "th", "td", "span")
    }
    shown = " ".join(" ".join(page.shown).split())
    # Notes are rendered as list items.
    for word in str(table).replace("─", "").replace("\n* ", "\n").split():
        assert word in shown or "|" in word, word


def test_the_text_of_a_table_is_the_same_in_a_notebook(
    results: fb.Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = results.compare(baseline="zero-shot")
    text = str(table)
    shell = type("ZMQInteractiveShell", (), {})
    monkeypatch.setattr("builtins.get_ipython", shell, raising=False)
    assert str(table) == text
    assert "zero-shot" in text


def test_names_cannot_steer_the_page(results: fb.Results) -> None:
    bad = "<script>alert(1)</script>\x1b[31m"
    page = results.compare(rename={"zero-shot": bad})._repr_html_()
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_results_say_what_they_are(results: fb.Results) -> None:
    assert f"{len(results)} records" in repr(results)
    assert "1 failed" in repr(results)
    page = Texts(results._repr_html_())
    assert repr(results) in page.shown
    assert "failed" in page.shown


def test_predictions_of_a_cell(results: fb.Results) -> None:
    record = results.where(status="done").records()[0]
    found = results.predictions(record)
    assert found.logits.shape == (60, 5)
    assert len(found.ids) == 60
    assert 100 * found.correct.mean() == pytest.approx(record.metrics["top1"])
    assert np.allclose(found.probabilities.sum(axis=1), 1)
    assert np.array_equal(found.probabilities.argmax(axis=1), found.predicted)
    frame = found.to_frame()
    assert list(frame.id) == list(found.ids)
    assert frame.correct.mean() == found.correct.mean()


def test_predictions_that_are_not_there(results: fb.Results) -> None:
    with pytest.raises(fb.UsageError, match="0: expected a record"):
        results.predictions(0)  # type: ignore[arg-type]
    with pytest.raises(fb.UsageError, match="expected a function of a record"):
        results.where("zero-shot")  # type: ignore[arg-type]
    with pytest.raises(fb.FsbenchError, match="no answers"):
        results.predictions(results.failed()[0])


def test_a_figure_is_shown_and_saved(results: fb.Results, tmp_path: Path) -> None:
    drawing = results.figure(metric="macro_f1")
    titles = [axes.get_title() for axes in drawing.figure.axes if axes.get_title()]
    assert {"caltech101", "dtd"} <= set(titles)
    assert drawing._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    drawing.save(tmp_path / "curves.pdf", tmp_path / "curves.csv")
    assert len((tmp_path / "curves.csv").read_text().splitlines()) == 1 + len(drawing.to_frame())
    for wrong in ({"kind": "bars"}, {"size": "cvrp"}, {"each": True}, {"spread": "box"}):
        with pytest.raises(fb.UsageError):
            results.figure(**wrong)  # type: ignore[arg-type]


def test_damaged_logits_are_named_and_left_out(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2, (1,), (1,), queries=20, classes=3)
    victim = next(iter(fb.load(tmp_path)))
    key = victim.spec.key()
    path = tmp_path / "records" / key[:2] / f"{key}.npz"
    path.write_bytes(path.read_bytes()[:-9])
    loaded = fb.load(tmp_path)
    with pytest.warns(UserWarning, match="not used"):
        table = loaded.compare(baseline=loaded.records()[1].spec.method)
    assert list(table.to_frame().dataset) == ["caltech101", "average"]
    assert victim.spec.method not in set(table.to_frame().method)


def test_methods_are_chosen_by_objects(store: Path) -> None:
    results = fb.load(store)
    names = {record.spec.method for record in results.records()}
    assert "linear-probe" in names
    default = results.where(method=registry().method_class("linear-probe")())
    assert {record.spec.label for record in default.records()} == {"linear-probe"}
    with pytest.raises(fb.UsageError, match=r"unknown method 'linear-probe\[c=0.5\]'"):
        results.where(method=registry().method_class("linear-probe")(c=0.5))
    for nothing in ([], (), iter([])):
        with pytest.raises(fb.UsageError, match="expected at least one value"):
            results.where(method=nothing)
    some = [*{record.spec.shots for record in results.records()}][:2]
    assert len(results.where(shots=iter(some))) == len(results.where(shots=some)) > 0
