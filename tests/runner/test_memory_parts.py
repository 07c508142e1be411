"""Steps in parts give the gradients of the whole step, for every division, dropout included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fsbench_methods.clip_lora import ClipLora
from fsbench_methods.coop import CoOp
from fsbench_methods.lora_layers import LowRank
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewshot_bench.backbones.packing import pack
from fewshot_bench.runner.fit import Context
from tests.reference.toy import random_backbone, random_task, relative_gap

CPU = torch.device("cpu")
TOLERANCE = 1e-5
BACKBONE = random_backbone(width=48, layers=3)


def context(parts: int = 1) -> Context:
    """A cell's context as in a retry with this many parts."""
    return Context(3, CPU, parts=parts)


def same(loss: Tensor) -> Tensor:
    """Identity, in place of a gradient scaler."""
    return loss


def lora_step(method: ClipLora, task: Any, parts: int) -> tuple[LowRank, Any]:
    """Gradients after one step, and the next draws of the dropout generator."""
    ctx = context()
    model = method.model(task, BACKBONE, ctx).within_memory(7, CPU, parts)
    adapter = method.adapter(model, CPU, ctx)
    rng = torch.Generator().manual_seed(5)
    for _, b in adapter.factors.values():
        b.data.normal_(std=0.1, generator=rng)
    index = torch.arange(7)
    seen = task.train.features if model.vision is None else task.train.pixels
    model.backward(seen[index], task.train.labels[index], adapter.for_step(torch.float32), same)
    after = adapter.dropout.mask(torch.empty(50)) if adapter.dropout else torch.zeros(1)
    return adapter, after


def assert_equal_steps(method: ClipLora, task: Any, parts: int) -> None:
    """Assert equal gradients and an equal state of the dropout generator."""
    (whole, after), (divided, then) = (lora_step(method, task, n) for n in (1, parts))
    assert torch.equal(after, then)
    for one, other in zip(whole.parameters(), divided.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert one.grad.abs().max() > 0
        assert relative_gap(other.grad, one.grad) < TOLERANCE


@pytest.mark.parametrize("parts", [2, 64])
@pytest.mark.parametrize("encoder", ["both", "vision", "text"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.usefixtures("layout")
def test_clip_lora_has_the_gradients_of_the_whole(encoder: Any, dropout: float, parts: int) -> None:
    task = random_task(BACKBONE)
    assert_equal_steps(ClipLora(encoder=encoder, dropout=dropout), task, parts)


@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize(
    "options",
    [{}, {"position": "middle"}, {"class_specific": True}],
    ids=["end", "middle", "own"],
)
def test_coop_has_the_gradient_of_the_whole(options: dict[str, Any], parts: int) -> None:
    task, method = random_task(BACKBONE), CoOp(context_tokens=4, **options)
    tower = BACKBONE.text_tower()
    found = []
    for count in (1, parts):
        ctx = context(count)
        model = method.model(task, BACKBONE, tower, 4, ctx)
        model = replace(model, recompute=count > 1)
        start = method.initial_context(task, BACKBONE, tower, ctx)
        learned = torch.nn.Parameter(start)
        losses = method.losses(task, BACKBONE)
        method.backward(model, learned, losses, task.train.features, task.train.labels, same)
        assert learned.grad is not None
        found.append(learned.grad)
    assert relative_gap(found[1], found[0]) < TOLERANCE


@pytest.mark.parametrize("method", [ClipLora(iterations=3), CoOp(epochs=2, context_tokens=4)])
@pytest.mark.parametrize("parts", [8])
def test_whole_fits_agree(method: Any, parts: int) -> None:
    task = random_task(BACKBONE)
    ctx = context(parts)
    whole, divided = method.fit(task, BACKBONE, context()), method.fit(task, BACKBONE, ctx)
    assert ctx.divisible
    with torch.no_grad():
        assert relative_gap(divided.logits(task.train), whole.logits(task.train)) < 1e-4
    for name, kept in whole.tensors().items():
        # AdamW turns the rounding of single gradients near zero into steps of full size.
        assert (divided.tensors()[name] - kept).abs().mean() / kept.abs().mean() < 1e-3, name


@given(
    prefix=st.integers(1, 6),
    ends=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    parts=st.integers(1, 12),
)
@settings(max_examples=80)
def test_every_prompt_is_in_one_part(prefix: int, ends: Sequence[int], parts: int) -> None:
    width = max(ends) + 1
    packing = pack(prefix, torch.tensor(ends), width)
    found = packing.divide(parts)
    assert len(found) <= parts
    assert sorted(torch.cat([part.members for part in found]).tolist()) == list(range(len(ends)))
    assert torch.cat([part.pooled for part in found]).tolist() == list(range(len(ends)))
    largest = max(group.length for group in packing.layout.groups)
    for part in found:
        small = part.packed
        assert part.rows[:prefix].tolist() == list(range(prefix))
        assert len(part.rows) == small.tokens
        assert torch.equal(part.rows[small.layout.pooled], packing.layout.pooled[part.pooled])
        expected = [int(m) * width + ends[int(m)] for m in part.members]
        assert small.rows[small.layout.pooled - prefix].tolist() == expected
        rows = part.rows[prefix:] - prefix
        assert torch.equal(packing.rows[rows], small.rows)
        assert torch.equal(packing.positions[rows], small.positions)
        assert small.layout.groups[-1].rows.stop == small.tokens
        assert len(small.rows) <= len(packing.rows) / parts + largest
