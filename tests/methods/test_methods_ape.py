"""APE and APE-T against their mathematics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fsbench_methods import cache_model
from fsbench_methods.ape import Ape
from fsbench_methods.ape_search import choose_channels, search
from fsbench_methods.ape_t import ApeT, Refinement
from fsbench_methods.cache_model import Cache, grid

from fewshot_bench import Task
from fewshot_bench.training import unit
from tests.reference import ape as reference
from tests.reference.toy import (
    MemoryShots,
    context,
    random_backbone,
    random_shots,
    random_task,
    relative_gap,
)

TOLERANCE = 1e-5


def random_data(classes: int, shots: int, queries: int) -> dict[str, torch.Tensor]:
    """Noisy features around random centers, in float64, where no two sums meet by rounding."""
    rng = torch.Generator().manual_seed(classes)
    centers = torch.randn(classes, 16, generator=rng, dtype=torch.float64)
    labels = torch.arange(classes).repeat(shots)
    targets = torch.randint(classes, (queries,), generator=rng)

    def noisy(rows: torch.Tensor, noise: float) -> torch.Tensor:
        rows = rows + noise * torch.randn(rows.shape, generator=rng, dtype=rows.dtype)
        return torch.nn.functional.normalize(rows, dim=-1)

    text, keys = noisy(centers, 2.0), noisy(centers[labels], 1.5)
    features = noisy(centers[targets], 1.5)
    return {"text": text, "keys": keys, "labels": labels, "features": features, "targets": targets}


@pytest.mark.parametrize("missing", [0, 1, 5])
@pytest.mark.parametrize("similarity", [0.0, 0.3, 1.0])
def test_the_closed_form_scores_channels_as_four_loops_do(missing: int, similarity: float) -> None:
    data = random_data(5, 4, 1)
    keys, labels = data["keys"][missing:], data["labels"][missing:]
    scores = reference.channel_scores(data["text"], keys, labels, similarity)
    cache = Cache.build(keys, labels, 5)
    for share, most in ((0.5, 8), (0.7, 11), (0.01, 1), (1.0, 16)):
        chosen = choose_channels(data["text"], cache, share, similarity)
        assert chosen.tolist() == sorted(scores.topk(most).indices.tolist())


@pytest.mark.parametrize(("classes", "shots", "queries"), [(7, 3, 60), (2, 1, 9), (1, 2, 3)])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("block", [2**24, 50])
def test_the_search_finds_what_three_plain_loops_find(
    classes: int, shots: int, queries: int, balanced: bool, block: int, monkeypatch: Any
) -> None:
    monkeypatch.setitem(cache_model.BLOCKS, "cpu", block)
    data = random_data(classes, shots, queries)
    if not balanced:
        data["keys"], data["labels"] = data["keys"][1:], data["labels"][1:]
    cache = Cache.build(data["keys"], data["labels"], classes)
    order = torch.argsort(data["labels"], stable=True)
    # The last column has weights below zero, as those of APE-T may become.
    scores = torch.rand(len(order), 6, dtype=torch.float64) * torch.tensor([0.5, 1, 2, 9, 40, -3])
    zero_shot = 20.0 * data["features"] @ data["text"].T
    grids = grid(12.0, 12), grid(5.0, 20)
    found = search(cache, scores[order], data["features"], data["targets"], zero_shot, *grids)
    expected = reference.search(
        *(data["features"], data["targets"], zero_shot, data["keys"], data["labels"], scores),
        grids,
    )
    assert found == expected


def test_equal_logits_count_as_correct() -> None:
    """Identical classes: their lead is zero and neither gains on the other."""
    cache = Cache.build(torch.eye(2), torch.tensor([0, 1]), 2)
    features, labels = torch.full((4, 2), 0.5**0.5), torch.tensor([0, 1, 0, 1])
    found = search(cache, torch.ones(2, 3), features, labels, torch.zeros(4, 2), [1.0], [0.1, 2])
    assert found == (1.0, 0.1, 0, 4)


def keys_of(task: Task) -> torch.Tensor:
    raw = task.train.views(10, Ape().augment, normalize=False)
    return unit(raw.float().mean(dim=0))


@pytest.mark.parametrize("val", [0, 4])
def test_ape_equals_the_reference(val: int) -> None:
    backbone = random_backbone()
    task, ctx = random_task(backbone, val=val), context()
    method = Ape(channels=0.5, similarity=0.4)
    classifier = method.fit(task, backbone, ctx)
    text, keys, labels = backbone.class_features(task), keys_of(task), task.train.labels
    channels = reference.channel_scores(text, keys, labels, 0.4).topk(12).indices.sort().values
    assert torch.equal(classifier.channels, channels)
    constants = tuple(ctx.notes[name] for name in ("beta", "alpha", "gamma"))
    queries = random_shots(backbone, 6, 4, seed=5)
    expected = reference.logits(
        queries.features, text, keys, labels, channels, backbone.logit_scale, constants
    )
    assert relative_gap(classifier.logits(queries), expected) < TOLERANCE
    if val:
        assert ctx.selection == {"configurations": 80_000, "labels": 24}
    else:
        assert constants == (1.0, 2.0, 0.1)
        assert ctx.selection == {"configurations": 0, "labels": 0}


@pytest.mark.parametrize("balanced", [True, False])
def test_training_equals_plain_training_on_the_same_views(balanced: bool) -> None:
    backbone = random_backbone()
    task = random_task(backbone, shots=5, val=0)
    if not balanced:
        train = task.train
        task = replace(task, train=MemoryShots(train.pixels[1:], train.labels[1:], backbone))
    method = ApeT(epochs=3, batch_size=16, lr=0.05)
    trained, ctx = method.fit(task, backbone, context()), context()
    text, keys, labels = backbone.class_features(task), keys_of(task), task.train.labels
    views, shuffle = task.train.views(3, method.augment, start=10), ctx.rng("order")
    orders = [list(torch.randperm(len(labels), generator=shuffle).split(16)) for _ in range(3)]
    channels = reference.channel_scores(text, keys, labels, 0.2).topk(19).indices.sort().values
    constants = backbone.logit_scale, 1.0, 2.0
    residual, weights = reference.train(
        list(views), orders, text, keys, labels, channels, constants, 0.05
    )
    order = torch.argsort(labels, stable=True)
    assert residual.abs().max() > 0.01
    assert (weights - 1).abs().max() > 0.001
    assert relative_gap(trained.refinement.weights, weights[order]) < TOLERANCE
    queries = random_shots(backbone, 6, 4, seed=5)
    parts = text, keys, labels, channels, residual, weights, constants
    expected = reference.trained_logits(queries.features, *parts)
    assert relative_gap(trained.logits(queries), expected) < TOLERANCE


@pytest.mark.parametrize("missing", [0, 1])
def test_gradients_of_residual_and_weights_equal_the_reference(missing: int) -> None:
    data = {name: tensor[missing:] for name, tensor in random_data(5, 4, 30).items()}
    data["text"] = random_data(5, 4, 30)["text"]
    cache = Cache.build(data["keys"], data["labels"], 5)
    rng, channels = torch.Generator().manual_seed(0), torch.tensor([1, 4, 9])
    start = 0.1 * torch.randn(5, 3, generator=rng, dtype=torch.float64), torch.rand(20 - missing)
    ours, theirs = ([each.double().requires_grad_() for each in start] for _ in range(2))
    constants = 20.0, 3.0, 2.0
    loss = Refinement(cache, data["text"], channels, *ours).loss(
        *constants, data["features"], data["targets"]
    )
    loss.backward()
    parts = data["text"], cache.keys, cache.labels, channels, *theirs, constants
    logits = reference.trained_logits(data["features"], *parts)
    expected = torch.nn.functional.cross_entropy(logits, data["targets"])
    expected.backward()
    assert relative_gap(loss, expected) < TOLERANCE
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert plain.grad is not None
        assert relative_gap(mine.grad, plain.grad) < TOLERANCE


def test_ape_t_selects_epoch_and_constants_on_validation() -> None:
    """With labels that contradict the support set, the best epoch is not the last one."""
    backbone = random_backbone()
    task = random_task(backbone)
    wrong = random_shots(backbone, 6, 4, seed=1)
    wrong.labels = (wrong.labels + 1) % 6
    hostile, ctx = replace(task, val=wrong), context()
    method = ApeT(epochs=6, lr=0.3)
    kept = method.fit(hostile, backbone, ctx)
    last = method.fit(replace(task, val=None), backbone, context())
    assert ctx.notes["epoch"] < 5
    assert ctx.selection == {"configurations": 4006, "labels": 24}
    assert not torch.equal(kept.refinement.residual, last.refinement.residual)
    assert (last.beta, last.alpha) == (1.0, 2.0)


@pytest.mark.parametrize("method", [Ape(), ApeT(epochs=2)], ids=lambda m: m.name)
@pytest.mark.parametrize("val", [0, 4])
def test_order_of_queries_and_of_classes_does_not_matter(method: Any, val: int) -> None:
    backbone = random_backbone()
    task = random_task(backbone, val=val)
    queries, turned = random_shots(backbone, 6, 4, seed=5), torch.randperm(24)
    logits = method.fit(task, backbone, context()).logits(queries)
    permuted = MemoryShots(queries.pixels[turned], queries.labels[turned], backbone)
    assert relative_gap(method.fit(task, backbone, context()).logits(permuted), logits[turned]) < (
        TOLERANCE
    )
    names = task.classnames[::-1]
    sets = [
        each and MemoryShots(each.pixels, 5 - each.labels, backbone)  # type: ignore[attr-defined]
        for each in (task.train, task.val)
    ]
    mirrored = Task(names, task.templates, *sets)
    found = method.fit(mirrored, backbone, context()).logits(queries)
    assert relative_gap(found.flip(-1), logits) < 1e-3
