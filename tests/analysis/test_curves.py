"""`fsbench curves`: the series of records in the terminal, as figures and as data."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fewshot_bench.analysis.curves import why_none
from fewshot_bench.analysis.formats.plot import HEIGHT, MOST, Line, plot
from fewshot_bench.api.record import Record
from fewshot_bench.store.store import Store
from tests.support.compare_records import make
from tests.support.helpers import fsbench

LOSS = {"steps": [1, 50, 100], "values": [4.0, 1.0, 0.5]}
RATE = {"steps": [1, 100], "values": [0.002, 0.0]}


def trained(method: str, seed: int, **more: Any) -> Record:
    """A record with curves."""
    return dataclasses.replace(make(method, seed=seed), curves={"rate": RATE, "loss": LOSS, **more})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Failed cells, since these need no answers, with curves and without."""
    opened = Store(tmp_path_factory.mktemp("curves") / "store")
    opened.create()
    own = {"accuracy": {"steps": [7], "values": [50.0]}}
    records = [
        trained("coop", 1),
        trained("coop", 2),
        trained("maple", 1, **own),
        make("zero-shot"),
    ]
    for record in records:
        opened.write(dataclasses.replace(record, status="failed", metrics={}, error={"type": "E"}))
    return opened.path


def key(store: Path, method: str, seed: int = 1) -> str:
    """The key of a cell."""
    specs = (record.spec for record in Store(store).records())
    return next(s.key() for s in specs if (s.method, s.train_seed) == (method, seed))


def test_one_record_is_drawn_by_its_file_or_its_key(store: Path) -> None:
    name = key(store, "coop")
    shown = fsbench("curves", name[:12], "--store", store)
    assert fsbench("curves", Store(store).file(name)).out == shown.out
    lines = shown.out.splitlines()
    # The loss first; the legend is left out.
    assert [line for line in lines if line in ("loss", "rate")] == ["loss", "rate"]
    assert re.match(r"   4 ┤[⠁-⣿]", lines[1])
    assert lines[HEIGHT].startswith(" 0.5 ┤")
    assert len(lines) == 2 * (HEIGHT + 3) + 1


def test_records_of_filters_are_told_apart_by_what_differs(store: Path) -> None:
    shown = fsbench("curves", "--store", store, "--series", "loss")
    legend = re.findall(r"^ +[abc] (.*)$", shown.out, re.M)
    assert legend == ["coop, seed 1", "coop, seed 2", "maple, seed 1"]
    assert "note: zero-shot on dtd, 1-shot, seed 1 " in shown.err
    few = fsbench("curves", "--store", store, "--series", "loss", "-m", "coop", "--seeds", 2)
    assert "seed" not in few.out
    asked = fsbench("curves", "--store", store, "--series", "loss", "-m", "maple,coop")
    legend = re.findall(r"^ +[abc] (.*)$", asked.out, re.M)
    assert legend == ["maple, seed 1", "coop, seed 1", "coop, seed 2"]


def test_every_point_is_in_the_data(store: Path, tmp_path: Path) -> None:
    shown = fsbench("curves", "--store", store, "-m", "maple", "--format", "csv")
    rows = [*csv.DictReader(io.StringIO(shown.out))]
    assert len(rows) == 6
    assert {row["series"] for row in rows} == {"loss", "rate", "accuracy"}
    first = {"series": "loss", "step": "1", "value": "4.0", "method": "maple", "seed": "1"}
    assert first.items() <= rows[0].items()
    file = tmp_path / "maple.csv"
    assert fsbench("curves", "--store", store, "-m", "maple", "-O", file).code == 0
    assert file.read_text() == shown.out


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_a_figure_has_a_panel_per_series(store: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"curves.{suffix}"
    done = fsbench("curves", "--store", store, "-O", file, "--size", "cvpr-column")
    assert done.code == 0, done.err
    assert f"{file}: 7 curves\n" in done.err
    if suffix == "svg":
        texts = "".join(ElementTree.parse(file).getroot().itertext())
        for text in ("loss", "rate", "accuracy", "step", "coop, seed 2", "m:coop@1,maple@1"):
            assert text in texts


REFUSED = {
    (
        "--series",
        "lss",
    ): "unknown series 'lss': did you mean 'loss'? (these records have loss, rate",
    ("-m", "zero-shot"): "no curves to draw: zero-shot on dtd, 1-shot, seed 1 ",
    ("-O", "curves.txt"): "expected a name that ends in .pdf, .svg, .png, .csv",
}


@pytest.mark.parametrize(("words", "said"), REFUSED.items())
def test_what_cannot_be_drawn_is_said(store: Path, words: tuple[str, str], said: str) -> None:
    done = fsbench("curves", "--store", store, *words)
    assert (done.code, said in done.err) == (2, True), done.err
    assert "--method selects from a store" in fsbench("curves", "a", "-m", "coop").err


REASONS = {
    0: "its fit takes no training steps and logs nothing",
    30: "took 30 steps, and its record keeps none: run it again (--force)",
}


@pytest.mark.parametrize("steps", REASONS)
def test_why_a_record_has_none(steps: int) -> None:
    record = make("coop")
    made = dataclasses.replace(record, footprint={**record.footprint, "steps": steps})
    assert REASONS[steps] in why_none(made)


def test_values_that_are_no_numbers_are_the_reason() -> None:
    incident = {"kind": "curves", "text": "its curves leave out values that are not finite: gap"}
    assert "not finite: gap" in why_none(dataclasses.replace(make("coop"), incidents=[incident]))


def test_lines_have_colors_or_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    lines = [Line(f"line {number}", [1, 2], [number, number + 1]) for number in range(3)]
    colored = plot("loss", lines, 60, styled=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert "\x1b[31m" in colored
    assert "━━ line 2" in plain
    letters = plot("loss", lines, 60)
    assert "\x1b" not in letters
    assert re.search(r"┤ *c", letters)
    for text in (plain, letters):
        assert max(map(len, text.splitlines())) <= 60
    assert "z line 25" in plot("loss", [Line(f"line {n}", [n], [n]) for n in range(MOST)], 40)


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [1e-12, 1e299], [-5, -5.0000001]])
def test_every_range_is_drawn(values: list[float]) -> None:
    shown = plot("x", [Line("y", list(range(len(values))), values)], 40)
    assert len(shown.splitlines()) == HEIGHT + 3
    assert re.search("[\u2801-\u28ff]", shown)
