"""The hours that a dry run states, and what they are estimated from."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench.api.spec import RunSpec
from fewshot_bench.backbones.shape import shape_of
from fewshot_bench.engines.expected_time import Machine, Units, Work, work_of
from fewshot_bench.runner.preflight import Counts, count
from fewshot_bench.runner.request import Plan, Request, expand
from tests.support.helpers import cells, fsbench

ON = ("-d", "digits", "--shots", "1", "--limit", "20")
OWN = """
from dataclasses import dataclass
from typing import ClassVar

from fewshot_bench import MethodCard

@dataclass(frozen=True)
class Own:
    name: ClassVar[str] = "own"
    card: ClassVar[MethodCard] = MethodCard("x", cost="minutes", trained=lambda s: s.nothing)

    def steps(self):
        return "three"

    def fit(self, task, backbone, ctx):
        raise RuntimeError
"""


def counted(method: str, **request: object) -> tuple[RunSpec, Counts]:
    """One cell at ViT-B/16, and its counts."""
    (cell,) = cells(method, backbone="ViT-B-16/openai", **request)
    plan: Plan = expand(Request((method,), ("digits",), backbone="ViT-B-16/openai"))
    return cell, count([cell], plan.datasets)[0]


def test_time_is_as_records_of_the_store_took_else_by_unit_costs(tmp_path: Path) -> None:
    store, own = ("--store", tmp_path / "store"), tmp_path / "own.py"
    own.write_text(OWN, encoding="utf-8")
    assert fsbench("run", "-m", "zero-shot", *ON, "--seeds", "1", "--jobs", "1", *store).code == 0
    methods = f"zero-shot,gda,{own}:Own"
    shown = fsbench("run", "-m", methods, *ON, "--seeds", "1,2", *store, "--dry-run").out
    stated, silent = [line for line in shown.splitlines() if line.startswith("time: ")]
    assert "1 cell as 1 record of this store took (" in stated
    assert "2 cells by unit costs, roughly (of one core of an AMD EPYC" in stated
    assert silent.startswith("time: 2 cells of own not estimated")
    # What its card fails to say is left out.
    shown = fsbench("show", f"{own}:Own")
    assert (shown.code, "cost of a fit: minutes" in shown.out) == (0, True)
    assert "trained parameters" not in shown.out
    later = fsbench("run", "-m", "zero-shot", *ON, "--seeds", "1,2", *store, "--dry-run").out
    assert "unit costs" not in later
    # Records on another data set say nothing about this one.
    other = fsbench("run", "-m", "zero-shot", "-d", "letters", *store, "--dry-run").out
    assert "of this store took" not in other


def test_flops_follow_from_the_configuration() -> None:
    # CLIP's published 17.6 and 4.4 billion multiplications for an image, and 6.1 of RN50.
    published = {"ViT-B-16/openai": 35.2e9, "ViT-B-32/openai": 8.8e9, "RN50/openai": 12.2e9}
    flops = {name: shape_of(name).image_flops for name in published}
    assert flops == pytest.approx(published, rel=0.03)
    assert shape_of("ViT-B-16/openai").token_flops == pytest.approx(2 * 12 * 12 * 512**2)


def test_steps_through_encoders_are_counted() -> None:
    units, shape = Units(), shape_of("ViT-B-16/openai")
    cell, counts = counted("clip-lora", shots=(4,), limit=None)
    work = work_of(cell, counts, units)
    prompts = (17 + 4.2 * 10) * shape.token_flops
    steps = 500 * 4 * 2 * (32 * shape.image_flops + prompts)
    assert work is not None
    assert work.flops == pytest.approx(steps + counts.queries * shape.image_flops)
    # CoOp trains 100 epochs of two batches on text alone, after a view per image and epoch.
    cell, counts = counted("coop", shots=(4,))
    work = work_of(cell, counts, units)
    assert work is not None
    assert work.flops == pytest.approx(100 * (40 * shape.image_flops + 2 * 2 * prompts))


def test_a_card_and_its_cores_work_at_once() -> None:
    units, work = Units(flops=10.0, card=100.0), Work(flops=1000.0, cpu=8.0)
    assert work.seconds(Machine(0, 2), units) == (1000 / 10 + 8) / 2
    assert work.seconds(Machine(1, 2), units) == 10.0
    assert work.seconds(Machine(2, 1), units) == 5.0
    assert Work(cpu=80.0).seconds(Machine(2, 4), units) == 10.0
