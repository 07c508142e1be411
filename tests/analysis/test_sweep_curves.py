"""`fsbench sweep` of a single option: a curve whose axis fits the values."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tests.analysis.test_sweep import swept
from tests.compare_records import save
from tests.helpers import fsbench


def test_one_option_gives_a_curve_whose_axis_fits_the_numbers(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(("-o", "rank=1,2,32", "-o", "matrices=qkv")))
    shown = fsbench("sweep", "clip-lora", "-o", "rank=1,2,4,32", "--store", store).out
    lines = [re.split(r"\s{2,}", line) for line in shown.splitlines() if line.startswith("rank")]
    assert [line[:3] for line in lines] == [
        ["rank 1", "75.50", "±0.62"],
        ["rank 2", "76.50", "±0.62"],
        ["rank 4", "—"],
        ["rank 32", "80.50", "±0.62"],
    ]
    first, second, last = (line[-1] for line in lines if "●" in line[-1])
    assert [line.index("●") for line in (first, second, last)] == [0, 8, 39]
    (axis,) = (line for line in shown.splitlines() if re.fullmatch(r" +75\.50 +80\.50", line))
    assert len(axis) - len(axis.lstrip()) == shown.splitlines()[1].index("●")


def test_equal_numbers_have_an_axis_too(tmp_path: Path) -> None:
    records = [
        dataclasses.replace(record, metrics={**record.metrics, "top1": 70.0})
        for record in swept(("-o", "rank=1,2", "-o", "matrices=qkv"))
    ]
    store, target = save(tmp_path / "store", records), tmp_path / "figure.svg"
    words = ("sweep", "clip-lora", "-o", "rank=1,2", "--store", store, "-O", target)
    assert fsbench(*words).code == 0
    assert drawn_axis(target) == pytest.approx((69, 71), abs=1)


def drawn_axis(path: Path) -> tuple[float, float]:
    """Smallest and largest tick label of a figure's vertical axis."""
    text = path.read_text(encoding="utf-8")
    axis = text[text.index('<g id="matplotlib.axis_2">') :]
    axis = axis[: axis.index('<g id="patch')]
    ticks = [float(n.replace("−", "-")) for n in re.findall(r">([−\d.]+)</text>", axis)]
    return min(ticks), max(ticks)


@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 3)])
def test_the_axes_of_a_curve_fit_and_have_labels(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    records = swept(("-o", "rank=1,2,32", "-o", "matrices=qkv"), seeds=seeds)
    store, target = save(tmp_path / "store", records), tmp_path / "figure.svg"
    words = ("sweep", "clip-lora", "-o", "rank=1,2,32", "--store", store, "-O", target)
    assert fsbench(*words).code == 0
    low, high = drawn_axis(target)
    assert 65 <= low <= 76
    assert 80 <= high <= 90
    text = target.read_text(encoding="utf-8")
    assert ">top-1 accuracy in %<" in text
    assert ">rank<" in text
