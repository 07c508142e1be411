"""Methods on frozen features against their mathematics: gradients, and whole fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.clip_adapter import ClipAdapter
from fsbench_methods.gda import ALPHAS, Gda
from fsbench_methods.lp_plus_plus import LpPlusPlus
from fsbench_methods.taskres import TaskRes
from torch import Tensor

from fewshot_bench import Augment
from fewshot_bench.training import raw_class_features
from tests.reference import frozen as reference
from tests.reference.toy import context, random_backbone, random_shots, random_task, relative_gap

TOLERANCE = 1e-5
BACKBONE = random_backbone()
TASK = random_task(BACKBONE, shots=5, templates=("a photo of a {}.", "{} texture."))
TEXT = BACKBONE.class_features(TASK)
SCALE = BACKBONE.logit_scale
QUERIES = random_shots(BACKBONE, 6, 30, seed=9)
HALF = Augment(scale=(0.5, 1.0))


def same_answers(ours: Tensor, expected: Tensor) -> None:
    """Assert equal logits within rounding, and identical predictions."""
    assert relative_gap(ours, expected) < 10 * TOLERANCE
    assert torch.equal(ours.argmax(dim=-1), expected.argmax(dim=-1))


def batches(views: Tensor, labels: Tensor, size: int) -> list[reference.Batches]:
    """Minibatches of every view, in the shuffled order of a fit with this context."""
    order, epochs = context().rng("order"), []
    for view in views:
        indices = torch.randperm(len(labels), generator=order).split(size)
        full = [index for index in indices if len(index) == size] or indices
        epochs.append([(view[index], labels[index]) for index in full])
    return epochs


def gradients_agree(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor]) -> None:
    """Compare losses and gradients at two points."""
    start = 0.3 * torch.randn(TEXT.shape, generator=torch.Generator().manual_seed(3))
    for point in (start, -2 * start):
        first, second = (point.clone().requires_grad_() for _ in range(2))
        losses = ours(first), theirs(second)
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
        assert relative_gap(*losses) < TOLERANCE
        assert first.grad is not None
        assert second.grad is not None
        assert relative_gap(first.grad, second.grad) < TOLERANCE


@pytest.mark.parametrize("batch_size", [8, 256])
def test_taskres(batch_size: int) -> None:
    method = TaskRes(epochs=12, batch_size=batch_size, lr=0.02)
    raw = raw_class_features(BACKBONE, TASK)
    labels = TASK.train.labels
    epochs = batches(TASK.train.views(12, Augment()), labels, batch_size)
    residual = reference.taskres_fit(epochs, raw, 0.5, SCALE, 0.02)
    expected = reference.taskres_logits(QUERIES.features, raw, residual, 0.5, SCALE)
    same_answers(method.fit(TASK, BACKBONE, context()).logits(QUERIES), expected)
    assert residual.abs().max() > 0.05
    gradients_agree(
        lambda x: method.loss(raw, x, SCALE, *epochs[0][0]),
        lambda x: F.cross_entropy(
            reference.taskres_logits(epochs[0][0][0], raw, x, 0.5, SCALE), epochs[0][0][1]
        ),
    )


def test_clip_adapter() -> None:
    method = ClipAdapter(epochs=12, batch_size=8)
    start = method.start(BACKBONE, TEXT, context().rng("init"))
    module = reference.adapter(start.down.detach(), start.up.detach())
    bound = float(start.down.detach().abs().max())
    assert bound == pytest.approx(TEXT.shape[1] ** -0.5, rel=0.1)
    raw = QUERIES.raw_features
    expected = reference.adapter_logits(raw, TEXT, module, 0.2, SCALE)
    assert relative_gap(start.score(raw), expected) < TOLERANCE
    views = TASK.train.views(12, Augment(), normalize=False)
    epochs = batches(views, TASK.train.labels, 8)
    features, labels = epochs[0][0]
    F.cross_entropy(start.score(features), labels).backward()  # type: ignore[no-untyped-call]
    F.cross_entropy(reference.adapter_logits(features, TEXT, module, 0.2, SCALE), labels).backward()  # type: ignore[no-untyped-call]
    for ours, theirs in zip((start.down, start.up), module.parameters(), strict=True):
        assert relative_gap(ours.grad, theirs.grad) < TOLERANCE  # type: ignore[arg-type]
    before = start.score(raw)
    reference.adapter_fit(epochs, TEXT, module, 0.2, SCALE)
    expected = reference.adapter_logits(raw, TEXT, module, 0.2, SCALE)
    assert relative_gap(before, expected) > 1e-3
    same_answers(method.fit(TASK, BACKBONE, context()).logits(QUERIES), expected)


@pytest.mark.parametrize("val", [4, 0])
def test_gda(val: int) -> None:
    task = replace(TASK, val=TASK.val if val else None)
    ctx = context()
    ours = Gda(views=3).fit(task, BACKBONE, ctx).logits(QUERIES)
    points = TASK.train.views(3, HALF).flatten(0, 1)
    weight, bias = reference.gaussians(points, TASK.train.labels.repeat(3), 6)
    # The official median at four shots, the nearest number below five.
    alpha = 0.1
    if task.val is not None:
        alpha = reference.gda_alpha(task.val.features, task.val.labels, TEXT, weight, bias, SCALE)
        assert ctx.selection == {"configurations": len(ALPHAS), "labels": 24}
    assert ctx.notes == {"alpha": alpha}
    same_answers(
        ours, reference.gda_logits(QUERIES.features, TEXT, weight, bias, alpha, SCALE).float()
    )


@pytest.mark.parametrize(
    ("shots", "alpha"), [(1, 1e-3), (2, 0.1), (3, 0.1), (4, 0.1), (8, 1.0), (16, 10.0), (99, 10.0)]
)
def test_alpha_of_gda_without_validation_data_is_by_shots(shots: int, alpha: float) -> None:
    """Medians of ten data sets and three seeds in the official fewshots.log."""
    task, ctx = replace(TASK, val=None, asked=shots), context()
    Gda(views=2).fit(task, BACKBONE, ctx)
    assert ctx.notes == {"alpha": alpha}


@pytest.mark.parametrize("val", [4, 0])
def test_alpha_of_gda_is_the_given_one(val: int) -> None:
    task, ctx = replace(TASK, val=TASK.val if val else None, asked=5), context()
    Gda(views=2, alpha=3.0).fit(task, BACKBONE, ctx)
    assert ctx.notes == {"alpha": 3.0}
    assert ctx.selection == {"configurations": 0, "labels": 0}


@pytest.mark.parametrize("val", [4, 0])
def test_lp_plus_plus(val: int) -> None:
    task = replace(TASK, val=TASK.val if val else None)
    ctx = context()
    classifier = LpPlusPlus().fit(task, BACKBONE, ctx)
    (features,) = TASK.train.views(1, HALF)
    start = LpPlusPlus().start(features, TASK.train.labels, TEXT, context().rng("init"))
    kept, epoch = reference.lp_plus_plus(
        features,
        TASK.train.labels,
        TEXT,
        start.bias.detach(),
        (task.val.features, task.val.labels) if task.val else None,
    )
    unit = QUERIES.features
    same_answers(classifier.logits(QUERIES), unit @ kept[0].T + kept[1] + kept[2] * (unit @ TEXT.T))
    assert ctx.notes == ({"epoch": epoch} if val else {})
