"""All built-in methods pass the conformance kit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from fewshot_bench.api.registry import registry
from fewshot_bench.testing import parametrize_with_checks, quick

# Few steps: most rules concern conduct.
FEW = {"epochs": 2, "iterations": 2}
LEARNS = "check_learns_a_separable_task"
# Methods that start where prompts or towers say nothing, and so learn the toy in more steps. CoOp
# starts from words, as sixteen random tokens would hide the class name from a random encoder.
PATIENT: dict[str, dict[str, Any]] = {
    "coop": {"epochs": 40, "context_init": "a photo of a"},
    **{name: {} for name in ("cocoop", "full-ft", "ivlp", "maple", "mmrl", "plot++", "prograd")},
    **{name: {} for name in ("tcp", "vpt-deep")},
}
# ProGrad's texts act where gradients conflict, which the first steps on the toy do not.
MORE_STEPS = {LEARNS: PATIENT, "check_texts_of_classes_move_the_logits": {"prograd": {}}}


def _builtin() -> list[Any]:
    catalog = registry().methods
    names = [name for name in catalog.names() if catalog.find(name).is_built_in]
    return [_short(registry().method_class(name)()) for name in names]


def _short(method: Any) -> Any:
    fields = {field.name for field in dataclasses.fields(method)}
    few = {name: value for name, value in FEW.items() if name in fields}
    return dataclasses.replace(quick(method), **few)


@parametrize_with_checks(_builtin())
def test_builtin_method(method: Any, check: Callable[[Any], None]) -> None:
    patient = MORE_STEPS.get(check.name, {})  # type: ignore[attr-defined]
    if method.name in patient:
        method = dataclasses.replace(quick(type(method)()), **patient[method.name])
    check(method)
