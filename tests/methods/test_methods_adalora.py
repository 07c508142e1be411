"""AdaLoRA against a plain loop: gradients, budget, whole fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fsbench_methods.adalora import AdaLora, Step, Triplets, parameters_of, penalty
from torch import Tensor

from fewshot_bench.profiling.optimizer import ParameterObserver
from tests.reference import adalora as reference
from tests.reference import clip_lora
from tests.reference.toy import CPU, context, random_backbone, random_task, relative_gap
from tests.support.lora_cases import recorded, tokens_of

TOLERANCE = 1e-5


def started(method: AdaLora, backbone: Any, task: Any, parts: int = 1) -> tuple[Any, Step]:
    """The model and the step with the initial values of `fit`."""
    model = method.model(task, backbone, context()).within_memory(9, CPU, parts)
    plain = method.adapter(model, CPU, context())
    allocation = method.allocation(method.stacks(plain, context()), task.shots)
    triplets = parameters_of(allocation.stacks)
    return model, Step(model, triplets, plain, allocation, method.orthogonality)


def ranks(triplets: Triplets) -> int:
    return sum(int((e != 0).sum()) for *_, e in triplets.values())


@pytest.mark.parametrize("parts", [1, 8])
def test_loss_penalty_and_gradients_equal_the_reference(parts: int) -> None:
    backbone = random_backbone(width=48, layers=3, quick_gelu=True)
    task = random_task(backbone)
    _, step = started(AdaLora(dropout=0, matrices="qvom"), backbone, task, parts)
    rng = torch.Generator().manual_seed(2)
    for q, p, e in step.triplets.values():
        for one in (q, p, e):
            one.data.normal_(std=0.2, generator=rng)
    theirs = {
        site: tuple(x.detach().clone().requires_grad_() for x in triplet)
        for site, triplet in step.triplets.items()
    }
    batch, labels = task.train.pixels[::2], task.train.labels[::2]  # type: ignore[attr-defined]
    step(batch, labels, lambda loss: loss)
    tokens = tokens_of(backbone, task)
    expected, _ = clip_lora.loss(
        backbone.module, batch, labels, [tokens], reference.factors(theirs), 2**-0.5
    )
    distance = reference.orthogonality(theirs)
    assert relative_gap(penalty(step.allocation.stacks), distance) < TOLERANCE
    (expected + 0.5 * distance).backward()
    for site, triplet in step.triplets.items():
        for ours, other in zip(triplet, theirs[site], strict=True):
            assert other.grad.abs().max() > 0
            # E has three numbers per matrix, each a sum over all tokens that nearly cancels.
            gap = relative_gap(ours.grad, other.grad)  # type: ignore[arg-type]
            assert gap < (3 if ours.dim() == 1 else 1) * TOLERANCE, site


def test_a_whole_fit_equals_a_plain_loop() -> None:
    backbone = random_backbone()
    task, shots = recorded(backbone)
    method = AdaLora(dropout=0, iterations=8, lr=5e-3, batch_size=6)
    observer = ParameterObserver()
    with observer.watch():
        classifier = method.fit(task, backbone, context())
    assert observer.trained == sum(x.numel() for x in classifier.tensors().values())
    _, step = started(method, backbone, task)
    assert ranks(classifier.adapter.triplets) == 2 * len(step.triplets)
    steps, tokens = method.iterations * task.shots, tokens_of(backbone, task)
    kept = reference.fitted(
        backbone.module,
        shots.read[:steps],
        tokens,
        step.triplets,
        2**-0.5,
        warm=int(0.1 * steps),
        final=int(0.3 * steps),
        last=2 * len(step.triplets),
        rate=5e-3,
        weight=0.5,
    )
    for site, (*_, e) in classifier.adapter.triplets.items():
        assert torch.equal(e != 0, kept[site][2] != 0), "other triplets have a rank"
    pixels = task.val.pixels  # type: ignore[union-attr]
    _, expected = clip_lora.loss(
        backbone.module,
        pixels,
        torch.zeros(len(pixels)).long(),
        [tokens],
        reference.factors(kept),  # type: ignore[arg-type]
        2**-0.5,
    )
    ours = classifier.logits(task.val)  # type: ignore[arg-type]
    assert relative_gap(ours, expected) < 1e-3
    assert torch.equal(ours.argmax(dim=1), expected.argmax(dim=1))


def test_the_budget_falls_from_all_ranks_to_those_of_clip_lora() -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    _, step = started(AdaLora(iterations=10), backbone, task)
    allowed = [step.allocation.allowed(done) for done in range(31)]
    sites = len(step.triplets)
    assert allowed[:4] == [3 * sites] * 4
    assert allowed[21:] == [2 * sites] * 10
    assert allowed == sorted(allowed, reverse=True)
    expected = [reference.budget(done, 30, 3, 9, 3 * sites, 2 * sites) for done in range(31)]
    assert allowed == expected


def test_a_skipped_step_leaves_importance_as_it_is() -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    _, step = started(AdaLora(dropout=0), backbone, task)
    trained = [x for stack in step.allocation.stacks for x in stack.tensors]
    step.allocation.observe([torch.randn(one.shape) for one in trained], torch.ones(()))
    before = step.allocation.scores()
    assert before.isfinite().all()
    assert before.any()
    infinite = [torch.full_like(one, float("inf")) for one in trained]
    step.allocation.observe(infinite, torch.ones(()))
    assert step.allocation.scores().equal(before)


def test_gradients_that_a_scaler_scaled_say_the_same() -> None:
    def scores(factor: float) -> Tensor:
        backbone = random_backbone()
        task = random_task(backbone)
        _, step = started(AdaLora(dropout=0), backbone, task)
        for *_, e in step.triplets.values():
            e.data.fill_(0.5)
        batch, labels = task.train.pixels, task.train.labels  # type: ignore[attr-defined]
        step(batch, labels, lambda loss: factor * loss)
        return step.allocation.scores()

    assert relative_gap(scores(1024.0), scores(1.0)) < TOLERANCE
