"""KgCoOp and ProGrad against their mathematics: logits, gradients, whole fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fsbench_methods.kgcoop import KgCoOp
from fsbench_methods.prograd import ProGrad
from torch import Tensor

from fewshot_bench import Augment
from fewshot_bench.runner.fit import Context
from fewshot_bench.training import PromptLearner
from tests.reference import coop, kgcoop, prograd
from tests.reference.toy import CPU, context, random_backbone, random_task, relative_gap

TOLERANCE = 1e-5
TEMPLATE = "a photo of a {}, a type of thing."
BACKBONE = random_backbone(width=32, layers=2)
TASK = random_task(BACKBONE, templates=(TEMPLATE,))
# The labels least likely under zero-shot CLIP, so that ProGrad has a component to remove.
TASK.train.labels = (TASK.train.features @ BACKBONE.class_features(TASK).T).argmin(dim=1)  # type: ignore[misc]
Gradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def plain(method: PromptLearner) -> Gradient:
    """A function from context, features and labels to the reference's gradient and logits."""
    start = (BACKBONE.module, BACKBONE.tokenizer, TASK.classnames, TEMPLATE)

    def of_kgcoop(vectors: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss, logits = kgcoop.loss(*start, vectors, features, labels, method.weight)  # type: ignore[attr-defined]
        return torch.autograd.grad(loss, vectors)[0], logits

    def of_prograd(vectors: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        strength = method.strength  # type: ignore[attr-defined]
        return prograd.gradient(strength, *start, vectors, features, labels)[:2]

    return of_kgcoop if isinstance(method, KgCoOp) else of_prograd


def ours(method: PromptLearner, vectors: Tensor, parts: int = 1) -> tuple[Tensor, Tensor]:
    """The shipped method's gradient and logits for the whole support set."""
    ctx, tower, vectors = Context(3, CPU, parts=parts), BACKBONE.text_tower(), vectors.clone()
    model = method.model(TASK, BACKBONE, tower, len(vectors), ctx).within_memory(CPU, ctx)
    learned, losses = torch.nn.Parameter(vectors), method.losses(TASK, BACKBONE)
    features, labels = TASK.train.features, TASK.train.labels
    method.backward(model, learned, losses, features, labels, lambda loss: loss)
    assert learned.grad is not None
    return learned.grad, model.batch(learned, features, labels).logits


@pytest.mark.parametrize("parts", [1, 2, 6])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", [KgCoOp(), ProGrad(strength=0.8)], ids=["kgcoop", "prograd"])
def test_gradients_and_logits_equal_the_reference(
    method: PromptLearner, seed: int, parts: int
) -> None:
    vectors = 0.3 * torch.randn(5, 32, generator=torch.Generator().manual_seed(seed))
    gradient, logits = ours(method, vectors, parts)
    expected, scores = plain(method)(
        vectors.requires_grad_(), TASK.train.features, TASK.train.labels
    )
    assert relative_gap(logits, scores) < TOLERANCE
    assert relative_gap(gradient, expected) < TOLERANCE


def test_gradients_agree_and_disagree_in_these_cases() -> None:
    """This ensures that the test above covers both branches of ProGrad."""
    case = (BACKBONE.module, BACKBONE.tokenizer, TASK.classnames, TEMPLATE)
    seen = set()
    for seed in (0, 1):
        vectors = 0.3 * torch.randn(5, 32, generator=torch.Generator().manual_seed(seed))
        batch = (vectors.requires_grad_(), TASK.train.features, TASK.train.labels)
        seen.add(prograd.gradient(1.0, *case, *batch)[2])
    assert seen == {True, False}


@pytest.mark.parametrize(
    "method",
    [KgCoOp(epochs=5, batch_size=8, lr=0.05), ProGrad(epochs=5, batch_size=8, lr=0.05)],
    ids=["kgcoop", "prograd"],
)
def test_whole_fits_equal_plain_training_step_by_step(method: PromptLearner) -> None:
    ctx, tower, steps = context(), BACKBONE.text_tower(), []
    start = method.initial_context(TASK, BACKBONE, tower, ctx)
    vectors = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([vectors], lr=0.05, momentum=0.9, weight_decay=5e-4)
    views = TASK.train.views(5, Augment())
    order = ctx.rng("order")
    for features, rate in zip(views, coop.dassl_rates(0.05, 1e-5, 5), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for index in torch.randperm(18, generator=order).split(8)[:2]:
            vectors.grad, _ = plain(method)(vectors, features[index], TASK.train.labels[index])
            optimizer.step()
            steps.append(vectors.detach().clone())
    found = []
    backward = type(method).backward

    def spy(self: PromptLearner, model: Any, learned: Tensor, *rest: Any) -> None:
        found.append(learned.detach().clone())
        backward(self, model, learned, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(method), "backward", spy)
        classifier = method.fit(TASK, BACKBONE, context())
    found.append(classifier.tensors()["context"])
    for one, expected in zip(found[1:], steps, strict=True):
        assert relative_gap(one, expected) < 1e-4
    assert (steps[-1] - start).abs().max() > 1e-3
    queries = random_task(BACKBONE, shots=50).train.features
    _, logits = plain(method)(vectors, queries, torch.arange(6).repeat(50))
    predicted = classifier.logits(random_task(BACKBONE, shots=50).train).argmax(dim=1)
    assert int((predicted != logits.argmax(dim=1)).sum()) == 0


def test_kgcoop_starts_as_the_prompt() -> None:
    tower = BACKBONE.text_tower()
    start = KgCoOp().initial_context(TASK, BACKBONE, tower, context())
    ids = BACKBONE.tokenize(["a photo of a"])
    assert torch.equal(start, tower.embed(ids[0, 1:5]))


@pytest.mark.parametrize(
    ("template", "words"),
    [(TEMPLATE, "a photo of a"), ("a type of food, a photo of {}.", "a type of food, a photo of")],
)
def test_prograd_starts_at_zeros_and_the_words_of_the_template(template: str, words: str) -> None:
    task, tower = random_task(BACKBONE, templates=(template,)), BACKBONE.text_tower()
    start = ProGrad().initial_context(task, BACKBONE, tower, context())
    ids = BACKBONE.tokenize([words])[0]
    count = int(ids.argmax()) - 1
    assert start.shape == (16, 32)
    assert torch.equal(start[16 - count :], tower.embed(ids[1 : count + 1]))
    assert not start[: 16 - count].any()
    short = ProGrad(context_tokens=2).initial_context(task, BACKBONE, tower, context())
    assert torch.equal(short, start[-2:])


def test_prograd_has_nothing_to_contradict_with_one_class() -> None:
    """Both gradients are zero: the step is only weight decay."""
    zero = torch.zeros(3, 4)
    assert torch.equal(ProGrad().combined([zero, zero]), zero)
    overflow = ProGrad().combined([torch.ones(3, 4), torch.full((3, 4), torch.inf)])
    assert not overflow.isfinite().any(), "a gradient scaler has to see it"


def test_options_with_effect_are_taken() -> None:
    tower, task = BACKBONE.text_tower(), random_task(BACKBONE)
    for method in (KgCoOp(context_tokens=8, context_init=""), ProGrad(context_tokens=8)):
        assert len(method.initial_context(task, BACKBONE, tower, context())) == 8
