"""Fits are freed, and a task can be used without the bench that made it."""

from __future__ import annotations

import copy
import gc

from fewshot_bench.backbones.open_clip import OpenClipBackbone
from fewshot_bench.testing import Bench, run_checks
from tests.support.breakers import Head


def backbones() -> int:
    """The number of backbones in memory."""
    gc.collect()
    return sum(type(value) is OpenClipBackbone for value in gc.get_objects())


def test_checks_keep_no_backbone_in_memory() -> None:
    before = backbones()
    run_checks(Head())
    assert backbones() <= before


def test_a_task_and_its_copies_can_be_read_without_their_bench() -> None:
    train = copy.deepcopy(Bench(Head()).first.task.train)
    gc.collect()
    assert train.features.shape[0] == len(train.labels) == 16
