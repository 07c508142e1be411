"""Tables in the programs that read them: pdflatex, a Markdown renderer, pandas."""

from __future__ import annotations

import dataclasses
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.api.metrics import METRICS, Metric
from fewshot_bench.api.record import Record
from fewshot_bench.store.store import Store
from tests.support.answers import put_answers, stored_arrays
from tests.support.compare_records import make, matrix, run_compare, save, written
from tests.support.helpers import fsbench
from tests.support.latex import NAMES, needs, ran, typeset
from tests.support.synthetic_store import fill

# Types of existing values; pandas has no plain type for integers or booleans with gaps.
TYPES = {
    "shots": "int64",
    "n_seeds": "int64",
    "top1_mean": "float64",
    "top1_min": "float64",
    "top1_max": "float64",
    "billed_seconds": "float64",
    "ece": "float64",
    "failed": "int64",
    "split_verified": "bool",
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with method, data set and class names that break naive formatting."""
    store = fill(tmp_path_factory.mktemp("odd") / "s", 1, 1, (1, 2), (1, 2), 60, len(NAMES))
    for record in list(store.records()):
        arrays = stored_arrays(store, record.spec.key())
        for number, name in enumerate(NAMES[:6]):
            spec = dataclasses.replace(record.spec, method=name, dataset=NAMES[5 - number])
            split = {**record.split, "classnames": list(NAMES)}
            renamed = dataclasses.replace(record, spec=spec, split=split)
            put_answers(store, renamed, arrays["logits"], arrays["labels"], arrays["ids"])
    return store.path


def words(store: Path, form: str, per_class: bool) -> tuple[str | Path, ...]:
    options = ("--per-class",) if per_class else ("--columns", "ece,nll,peak")
    return ("--store", store, "--format", form, *options)


@needs("pdflatex")
def test_latex_compiles(odd: Path, tmp_path: Path) -> None:
    """All kinds of tables, with names that break naive formatting."""
    call = ("reproduce", "clip-lora-table3", "--only-existing", "--store", tmp_path / "none")
    texts = [run_compare(*words(odd, "latex", per_class)).output for per_class in (False, True)]
    texts.append(fsbench(*call, "-m", "clip-lora", "--format", "latex").out)
    log = typeset(tmp_path, "\n".join(texts))
    for trouble in ("Undefined control sequence", "Missing character", "LaTeX Error"):
        assert trouble not in log


@needs("pdflatex")
@pytest.mark.parametrize("layout", ["full", "compact"])
def test_many_tables_compile(tmp_path: Path, layout: str) -> None:
    names, shots = (
        ([f"d{n}" for n in range(27)], (1,)) if layout == "full" else (["d", "e"], range(54))
    )
    store = save(tmp_path / "s", matrix(datasets=names, shots=shots, seeds=(1,)))
    words = ("--store", store, "--format", "latex", "--layout", layout, "--baseline", "coop")
    text = run_compare(*words).output
    assert text.count(r"\begin{table") > 52
    assert "LaTeX Error" not in typeset(tmp_path, text)


@needs("pdflatex")
def test_negative_numbers_are_bold_too(tmp_path: Path) -> None:
    metric = Metric("gain", "gain", lambda hits: float(hits.mean()), unit="nats")
    failed = [make("a", top1=None), make("b", top1=None), make("a", "pets", top1=None)]
    values = zip(failed, (-0.5, -0.7, -0.001), strict=True)
    records = [dataclasses.replace(r, status="done", metrics={"gain": v}) for r, v in values]
    options = Options(metric="gain", metrics={**METRICS, "gain": metric})
    text = written("latex", build(records, options))
    assert r"\textbf{\boldmath$-0.50$}" in text
    assert r"\underline{$-0.70$}" in text
    assert "a & 0.00 (n=1)" in text
    assert "LaTeX Error" not in typeset(tmp_path, text)


def test_each_table_has_the_signature_of_its_own_records(tmp_path: Path) -> None:
    records = matrix()
    words = ("--format", "markdown", "--layout", "full")
    text = run_compare("--store", save(tmp_path, records), *words).output
    parts = [[r for r in records if r.spec.dataset == name] for name in ("dtd", "pets")]
    lines = [line for line in text.splitlines() if line.startswith("fsbench:1")]
    assert lines == [signature_of(part) for part in (*parts, records)]


@needs("pdflatex", "pdftotext")
def test_a_signature_copied_from_the_pdf_is_whole(tmp_path: Path) -> None:
    options = {"text": "a--b---c,,d -- \u4e00" * 9, "lr": 1e-5}
    record = make("a--b", "p,,q--", overrides=options, options=options)
    store = save(tmp_path / "store", [record, make("a--b", "p,,q--", seed=2)])
    typeset(tmp_path, run_compare("--store", store, "--format", "latex").output)
    done = ran(tmp_path, "pdftotext", "-enc", "UTF-8", "table.pdf", "-")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "a--b" in text
    pasted = text[text.index("fsbench:1") :].partition("\n\n")[0]
    assert "".join(pasted.split()) == signature_of(list(Store(store).records()))


class Seen(HTMLParser):
    """Tags of a page, and the text of its table cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@pytest.mark.parametrize("per_class", [False, True])
def test_markdown_renders(odd: Path, per_class: bool) -> None:
    from markdown_it import MarkdownIt

    text = run_compare(*words(odd, "markdown", per_class)).output
    seen = Seen(MarkdownIt("commonmark").enable("table").render(text))
    allowed = {"h3", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "u", "ul", "li"}
    assert seen.tags - allowed <= {"pre", "code"}
    for name in (NAMES[0], NAMES[2], NAMES[4]):
        assert any(" ".join(name.split()) in cell for cell in seen.cells), name


def test_pandas_reads_the_right_types(tmp_path: Path, odd: Path) -> None:
    store = fill(tmp_path / "s", 2, 2, (1, 2), (1, 2), 40, 5, failed=1)
    for form in ("csv", "json"):
        frame = read_frame(run_compare("--store", store.path, "--format", form).output, form)
        for name, kind in TYPES.items():
            assert pd.Series(frame[name].dropna().tolist()).dtype == kind, name
            assert frame[name].dtype in (kind, "float64", "object"), name
        assert frame["top1_mean"].notna().sum() == 11
        classes = read_frame(run_compare(*words(odd, form, True)).output, form)
        assert classes["label"].dtype == "int64"
        assert classes["accuracy_mean"].dtype == "float64"
        assert len(classes) == 7 * 2 * len(set(classes["label"]))
        assert NAMES[0] in set(classes["classname"])


def read_frame(text: str, form: str) -> pd.DataFrame:
    """The rows as a data frame."""
    if form == "csv":
        return pd.read_csv(io.StringIO(text))
    return pd.DataFrame(json.loads(text)["rows"])


def test_a_name_that_is_a_number_or_nothing_stays_text(tmp_path: Path) -> None:
    records: list[Record] = [make("1e5"), make("NA"), make("true")]
    folder = save(tmp_path / "s", records)
    rows = json.loads(run_compare("--store", folder, "--format", "json").output)["rows"]
    assert {row["method"] for row in rows} == {"1e5", "NA", "true"}
    assert len(list(Store(folder).records())) == 3
