"""Sweeps in terminals of any width: numbers are neither cut nor omitted."""

from __future__ import annotations

import re

import pytest

from fewshot_bench.analysis.sweep.build import Axis, Sweep, build
from fewshot_bench.analysis.sweep.render import render
from tests.compare_records import make

RANKS = tuple(range(1, 25))


def wide(rows: int) -> Sweep:
    """A sweep with 24 columns; a cell's value is its rank; rows: values of the second option."""
    axes = [Axis("rank", RANKS, 2)]
    matrices = [f"{number} and a long value of an option" for number in range(rows)]
    if rows:
        axes.append(Axis("matrices", tuple(matrices), matrices[0]))
    records = []
    for matrix in matrices or ["q"]:
        for rank in RANKS:
            options = {"rank": rank, "matrices": matrix}
            metric = 50.0 + rank
            records += [make("clip-lora", "dtd", 4, 1, metric, options=options)]
            records += [make("clip-lora", "dtd", 4, 2, metric + 0.5, options=options)]
    return build("clip-lora", axes, records)


@pytest.mark.parametrize("width", [60, 80, 120, 300])
@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("styled", [False, True])
def test_every_number_is_there_in_any_width(width: int, rows: int, styled: bool) -> None:
    text = re.sub(r"\x1b\[[\d;]*m", "", render(wide(rows), styled=styled, width=width))
    body = text.partition("\n* ")[0].partition("\n")[2]
    assert max(map(len, body.splitlines())) <= width
    without = re.sub(r"\(\S+–\S+\)|±\S+", "", body)
    numbers = re.findall(r"(?<![\d.])\d\d\.\d\d(?![\d.])", without)
    expected = [*RANKS] * rows if rows else [*RANKS, min(RANKS), max(RANKS)]
    # The axis limits of a curve are numbers, too.
    assert sorted(numbers) == sorted(f"{50.25 + rank:.2f}" for rank in expected)


@pytest.mark.parametrize("rows", [1, 2])
def test_cells_that_are_equal_to_two_decimals_are_both_bold(rows: int) -> None:
    axes = [Axis("rank", (1, 2, 4), 2), Axis("matrices", ("q", "v"), "q")][:rows]
    records = [
        make("clip-lora", "dtd", 4, seed, top1, options={"rank": rank, "matrices": matrix})
        for rank, top1 in ((1, 60.001), (2, 60.004), (4, 59.9))
        for matrix in ("q", "v")[:rows]
        for seed in (1, 2, 3)
    ]
    styled = render(build("clip-lora", axes, records), styled=True)
    bold = re.findall(r"\x1b\[(?:1;|1m)[^m]*?m?\s*(\d\d\.\d\d)", styled)
    assert bold == ["60.00"] * 2 * rows


def test_a_method_in_a_file_is_named_without_its_folder() -> None:
    axes, name = [Axis("text", (0.0, 1.0), 0.5)], "/photos/of/ana/nearest_mean.py:NearestMean"
    records = [make(name, "dtd", 4, 1, 60.0, options={"text": text}) for text in (0.0, 1.0)]
    head = render(build(name, axes, records), styled=False).partition("\n")[0]
    assert head.startswith("nearest_mean.py:NearestMean on dtd, 4-shot")
