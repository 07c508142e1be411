"""Tip-Adapter and Tip-Adapter-F against their mathematics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fsbench_methods import cache_model
from fsbench_methods.cache_model import Cache, grid, search
from fsbench_methods.tip_adapter import TipAdapter, TipAdapterF

from fewshot_bench import Augment, Task
from fewshot_bench.training import unit
from tests.reference import tip_adapter as reference
from tests.reference.toy import context, random_backbone, random_shots, random_task, relative_gap

TOLERANCE = 1e-5


def random_search(classes: int, shots: int, queries: int) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(classes)
    centers = torch.randn(classes, 16, generator=rng)
    labels = torch.arange(classes).repeat(shots)
    targets = torch.randint(classes, (queries,), generator=rng)
    noisy = [
        unit(centers[index] + 1.5 * torch.randn(len(index), 16, generator=rng))
        for index in (labels, targets)
    ]
    text = unit(centers + 2 * torch.randn(classes, 16, generator=rng))
    return {
        "keys": noisy[0],
        "labels": labels,
        "features": noisy[1],
        "targets": targets,
        "text": text,
    }


@pytest.mark.parametrize(("classes", "shots", "queries"), [(7, 3, 60), (2, 1, 9), (1, 2, 3)])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("block", [2**24, 200])
def test_the_search_finds_what_two_plain_loops_find(
    classes: int, shots: int, queries: int, balanced: bool, block: int, monkeypatch: Any
) -> None:
    monkeypatch.setitem(cache_model.BLOCKS, "cpu", block)
    data = random_search(classes, shots, queries)
    if not balanced:
        data["keys"], data["labels"] = data["keys"][:-1], data["labels"][:-1]
    cache = Cache.build(data["keys"], data["labels"], classes)
    zero_shot = 20.0 * data["features"] @ data["text"].T
    found = search(
        cache, data["features"], data["targets"], zero_shot, grid(12.0, 200), grid(10.0, 20)
    )
    beta, alpha, counts = reference.search(
        data["features"],
        data["targets"],
        data["text"],
        data["keys"],
        data["labels"],
        20.0,
        (12, 10),
    )
    assert (found.beta, found.alpha, found.correct) == (beta, alpha, max(counts))


@pytest.mark.parametrize("method", [TipAdapter(), TipAdapterF(epochs=1)], ids=lambda m: m.name)
def test_logits_and_keys_equal_the_reference(method: Any) -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    training_free = TipAdapter().fit(task, backbone, context())
    raw = task.train.views(10, Augment(scale=(0.5, 1.0)), normalize=False)
    keys = reference.cache_keys(raw)
    order = torch.argsort(task.train.labels, stable=True)
    assert relative_gap(training_free.cache.keys, keys[order]) < TOLERANCE
    classifier = method.fit(task, backbone, context())
    expected = reference.logits(
        task.val.features,  # type: ignore[union-attr]
        backbone.class_features(task),
        classifier.cache.keys,
        classifier.cache.labels,
        backbone.logit_scale,
        classifier.beta,
        classifier.alpha,
    )
    assert relative_gap(classifier.logits(task.val), expected) < TOLERANCE  # type: ignore[arg-type]


def test_training_the_keys_equals_plain_training_on_the_same_views() -> None:
    backbone = random_backbone()
    task = random_task(backbone, shots=5)
    method = TipAdapterF(epochs=3, batch_size=16, lr=0.01)
    trained = method.fit(task, backbone, context())
    ctx = context()
    augment = Augment(scale=(0.5, 1.0))
    keys = reference.cache_keys(task.train.views(10, augment, normalize=False))
    views, shuffle = task.train.views(3, augment, start=10), ctx.rng("order")
    orders = [list(torch.randperm(30, generator=shuffle).split(16)) for _ in range(3)]
    expected = reference.train_keys(
        list(views),
        orders,
        backbone.class_features(task),
        keys,
        task.train.labels,
        backbone.logit_scale,
        1.0,
        2.0,
        0.01,
        1e-4,
    )
    order = torch.argsort(task.train.labels, stable=True)
    assert (expected - keys).abs().max() > 0.01
    assert relative_gap(trained.cache.keys, expected[order]) < TOLERANCE


@pytest.mark.parametrize("balanced", [True, False])
def test_gradient_of_the_keys_equals_the_reference(balanced: bool) -> None:
    data = random_search(5, 4, 30)
    if not balanced:
        data["keys"], data["labels"] = data["keys"][1:], data["labels"][1:]
    cache = Cache.build(data["keys"], data["labels"], 5)
    ours = cache.keys.clone().requires_grad_()
    theirs = cache.keys.clone().requires_grad_()
    method = TipAdapterF(init_beta=3.0)
    loss = method.loss(
        cache.with_keys(ours), data["text"], 100.0, data["features"], data["targets"]
    )
    loss.backward()
    logits = reference.logits(data["features"], data["text"], theirs, cache.labels, 100.0, 3.0, 2.0)
    expected = torch.nn.functional.cross_entropy(logits, data["targets"])
    expected.backward()
    assert relative_gap(loss, expected) < TOLERANCE
    assert ours.grad is not None
    assert theirs.grad is not None
    assert relative_gap(ours.grad, theirs.grad) < TOLERANCE


@pytest.mark.parametrize("method", [TipAdapter(), TipAdapterF(epochs=2, select_epoch="val")])
def test_without_validation_the_constants_are_used(method: Any) -> None:
    backbone = random_backbone()
    ctx = context()
    classifier = method.fit(random_task(backbone, val=0), backbone, ctx)
    assert (classifier.beta, classifier.alpha) == (1.0, 2.0)
    assert ctx.notes == {"beta": 1.0, "alpha": 2.0}
    assert ctx.selection == {"configurations": 0, "labels": 0}


def test_selection_is_counted() -> None:
    backbone = random_backbone()
    task, ctx = random_task(backbone), context()
    TipAdapterF(epochs=3, select_epoch="val").fit(task, backbone, ctx)
    assert ctx.selection == {"configurations": 4003, "labels": 24}
    assert 0 <= ctx.notes["epoch"] < 3


def test_the_epoch_that_is_best_on_validation_is_kept() -> None:
    """With labels that contradict the support set, the best epoch is often not the last one."""
    backbone = random_backbone()
    task = random_task(backbone)
    wrong = random_shots(backbone, 6, 4, seed=1)
    wrong.labels = (wrong.labels + 1) % 6
    hostile: Task = replace(task, val=wrong)
    epochs = []
    for lr in (0.1, 0.3, 1.0):
        ctx = context()
        kept = TipAdapterF(epochs=6, lr=lr, select_epoch="val").fit(hostile, backbone, ctx)
        last = TipAdapterF(epochs=6, lr=lr).fit(hostile, backbone, context())
        epochs.append(ctx.notes["epoch"])
        assert torch.equal(kept.cache.keys, last.cache.keys) == (epochs[-1] == 5)
        assert not kept.cache.keys.requires_grad
    assert min(epochs) < 5
