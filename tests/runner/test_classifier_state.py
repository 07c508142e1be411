"""Cells that share a fit do not see what an earlier evaluation left in the classifier."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from fsbench_methods import zero_shot

from fewshot_bench.runner.classifier_state import read_state
from fewshot_bench.runner.run import run_group
from fewshot_bench.runner.session import Session
from tests.support.helpers import cells

WHOLE = zero_shot.ZeroShotClassifier.logits


class Memory:
    """What a method that adapts at test time keeps."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.bias = torch.zeros(1)
        self.counts = np.zeros(2)
        self.queue = deque([1.0])
        self.names = OrderedDict(a={"b": 1})
        self.stream = torch.Generator().manual_seed(0)
        self.python = random.Random(0)
        self.numpy = np.random.default_rng(0)
        self.read = lambda: self.seen


CHANGES: dict[str, Any] = {
    "list": lambda m: m.seen.append(1.0),
    "tensor": lambda m: m.bias.add_(1),
    "array": lambda m: m.counts.__setitem__(0, 1),
    "queue": lambda m: m.queue.append(2.0),
    "mapping": lambda m: m.names["a"].update(b=2),
    "attribute": lambda m: setattr(m, "bias", torch.zeros(1)),
    "generator": lambda m: torch.rand(1, generator=m.stream),
    "python generator": lambda m: m.python.random(),
    "numpy generator": lambda m: m.numpy.random(),
    "closure": lambda m: m.read().append(1.0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_inside_is_seen(what: str) -> None:
    memory = Memory()
    holder = {"method": [memory.read if what == "closure" else memory]}
    before = read_state(holder)
    assert read_state(holder) == before
    CHANGES[what](memory)
    assert read_state(holder) != before


def test_a_cached_property_is_no_change() -> None:
    class Lazy:
        @cached_property
        def packed(self) -> list[int]:
            return [1]

    lazy = Lazy()
    before = read_state(lazy)
    assert lazy.packed == [1]
    assert read_state(lazy) == before


def test_answers_do_not_depend_on_the_cells_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that collects something is fitted again for the next cell of its fit."""

    def collecting(self: Any, queries: Any) -> torch.Tensor:
        found = WHOLE(self, queries)
        self.class_features.add_(0.5)
        return found

    monkeypatch.setattr(zero_shot.ZeroShotClassifier, "logits", collecting)
    spec = cells("zero-shot")[0]
    first, second = run_group([spec, spec], Session())
    assert first.record.status == second.record.status == "done", second.record.error
    assert first.logits is not None
    assert second.logits is not None
    assert torch.equal(first.logits, second.logits)
    assert [incident["text"] for incident in first.record.incidents] == [
        "zero-shot.logits changed what fit returned; fitted again for the next cell of this fit"
    ]
    assert second.record.incidents == ()


def test_a_fit_that_is_left_alone_is_shared() -> None:
    outcomes = list(run_group(cells("zero-shot", classes=("base", "new")), Session()))
    assert [outcome.record.incidents for outcome in outcomes] == [(), ()]
