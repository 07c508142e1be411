"""Whole cells of every method on this machine's accelerator, close to the CPU's in float32.

Where there is no accelerator, they run on the rehearsal device, each in one precision. Steps that
wait are found by `tests/accelerator/test_methods_rehearsed.py`, on CUDA too.
"""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from fewshot_bench.api.method import hyperparameters
from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import ALONE
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.utils.devices import accelerator_kind
from tests.support.helpers import cells
from tests.support.rehearsal import NAMES, SHORT, low_scale, tolerance

pytestmark = pytest.mark.gpu
PRECISIONS = ("fp32", "bf16", "fp16")
COMPANY = {"batch": "all", "stream": "stream"}
# Three precisions of every method would take a CPU minutes.
PAIRS = (
    [(name, precision) for name in NAMES for precision in PRECISIONS]
    if accelerator_kind()
    else list(zip(NAMES, itertools.cycle(PRECISIONS), strict=False))
)


@functools.cache
def session(device: str) -> Session:
    """One session per device, so that its cells share encoded images."""
    return Session(device=device)


def answer(method: str, device: str, precision: str) -> tuple[torch.Tensor, dict[str, object]]:
    """Logits and footprint of a short fit."""
    own = {one.name for one in hyperparameters(registry().method_class(method))}
    options = [f"{method}.{name}={SHORT[name]}" for name in sorted(own & SHORT.keys())]
    card = card_of(registry().method_class(method)())
    assert card is not None
    needs = {"queries": COMPANY.get(card.sees, ALONE), "views": card.views_per_query}
    (spec,) = cells(method, options=options, devices=(device,), precision=precision, **needs)
    with low_scale():
        outcome = run_one(spec, session(device))
    assert outcome.record.status == "done", outcome.record.error
    assert outcome.logits is not None
    assert outcome.record.environment["device"] == device
    return outcome.logits, outcome.record.footprint


@pytest.mark.parametrize(("method", "precision"), PAIRS)
def test_method(accelerator: str, method: str, precision: str) -> None:
    expected, _ = answer(method, "cpu", "fp32")
    logits, footprint = answer(method, accelerator, precision)
    assert (logits - expected).abs().mean() / expected.std() < tolerance(method, precision)
    assert footprint["peak_memory_mb"] > 0
