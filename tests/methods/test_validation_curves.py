"""Methods that look at validation images while they fit log what they saw."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewshot_bench.api.registry import registry
from fewshot_bench.runner.fit import Context
from fewshot_bench.testing.bench import Setting, prepare
from fewshot_bench.testing.toy import toy_backbone
from fewshot_bench.utils.rng import isolate

LOGGED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "lp++": ({"epochs": 5}, {"loss", "rate", "val_accuracy"}),
    "tip-adapter-f": ({"epochs": 3, "select_epoch": "val"}, {"loss", "rate", "val_accuracy"}),
    "cross-modal": ({"iterations": 2}, {"loss", "rate", "val_accuracy"}),
    "linear-probe": ({"search_steps": 1}, {"c", "val_accuracy"}),
    "linear-probe from text": ({"init": "text", "search_steps": 0}, {"c", "loss", "val_accuracy"}),
}


@pytest.mark.parametrize("case", LOGGED)
def test_accuracies_on_validation_images_are_logged(case: str) -> None:
    options, expected = LOGGED[case]
    method: Any = registry().method_class(case.split()[0])(**options)
    made = prepare(Setting(validation=2), toy_backbone("cpu", "fp32"))
    context = Context(1, torch.device("cpu"), step="eager")
    with isolate(1):
        method.fit(made.task, made.backbone, context)
    curves = context.curves.finish()
    assert curves.keys() == expected
    assert all(0 <= value <= 100 for value in curves["val_accuracy"]["values"])
    assert max(curves["val_accuracy"]["values"]) > 30
    if case == "lp++":
        assert curves["val_accuracy"]["steps"] == curves["loss"]["steps"] == [1, 2, 3, 4, 5]
    if "c" in expected:
        tried = context.selection["configurations"]
        assert curves["c"]["steps"] == curves["val_accuracy"]["steps"] == [*range(1, tried + 1)]
