"""CoCoOp against its mathematics, and images in blocks against images one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fsbench_methods.cocoop import CoCoOp, Conditioned
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewshot_bench import Augment
from fewshot_bench.profiling.cost import Cost, counting
from fewshot_bench.runner.fit import Context
from fewshot_bench.training.conditioned import conditioned_backward, conditioned_logits, for_images
from fewshot_bench.training.prompts import build_prompts
from tests.reference import cocoop as reference
from tests.reference.coop import dassl_rates
from tests.reference.toy import CPU, context, random_backbone, random_task, relative_gap

TOLERANCE = 1e-5
BACKBONE = random_backbone(width=32, layers=2)
TASK = random_task(BACKBONE)
TOKENS = "fewshot_bench.training.conditioned.TOKENS_AT_ONCE"
TOWER = BACKBONE.text_tower()
PLAIN = (BACKBONE.module, BACKBONE.tokenizer, TASK.classnames)


def start(seed: int = 3, tokens: int = 4) -> dict[str, Tensor]:
    """A context, and a network whose shifts differ between images."""
    rng = torch.Generator().manual_seed(seed)
    network = CoCoOp().network(BACKBONE, TOWER.width, Context(seed, CPU))
    network = {name: 3 * one for name, one in network.items()}
    return {"context": 0.3 * torch.randn(tokens, TOWER.width, generator=rng), **network}


@pytest.mark.parametrize("at_once", [1, 2 * 81, 10**6], ids=["one", "two", "all"])
@pytest.mark.parametrize("parts", [1, 2, 6])
def test_gradients_and_logits_equal_the_reference(
    at_once: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TOKENS, at_once)
    features, labels = TASK.train.features[:7], TASK.train.labels[:7]
    ours = {name: torch.nn.Parameter(one) for name, one in start().items()}
    theirs = {name: torch.nn.Parameter(one.clone()) for name, one in start().items()}
    ctx = Context(3, CPU, parts=parts)
    model = CoCoOp().model(TASK, BACKBONE, TOWER, 4, ctx)
    steps, contexts = for_images(model, CPU, ctx), Conditioned(ours)
    conditioned_backward(steps, contexts, features, labels, lambda loss: loss)
    loss, logits = reference.loss(*PLAIN, theirs, features, labels=labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert relative_gap(conditioned_logits(model, contexts, features), logits) < TOLERANCE
    for name, one in ours.items():
        assert one.grad is not None
        assert theirs[name].grad is not None
        assert relative_gap(one.grad, theirs[name].grad) < TOLERANCE, name  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_whole_fit_equals_plain_training_step_by_step(batch_size: int) -> None:
    method = CoCoOp(epochs=3, lr=0.05, batch_size=batch_size)
    ctx, steps, found = context(), [], []
    words = method.initial_context(TASK, BACKBONE, TOWER, ctx)
    assert words.shape == (4, 32), "a photo of a"
    learned = {"context": words, **method.network(BACKBONE, 32, ctx)}
    learned = {name: torch.nn.Parameter(one.clone()) for name, one in learned.items()}
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer, order = torch.optim.SGD(learned.values(), **settings), ctx.rng("order")  # type: ignore[arg-type]
    views = TASK.train.views(3, Augment())
    for features, rate in zip(views, dassl_rates(0.05, 1e-5, 3), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        batches = torch.randperm(18, generator=order).split(batch_size)
        for index in batches[: 18 // batch_size]:
            labels = TASK.train.labels[index]
            loss, _ = reference.loss(*PLAIN, learned, features[index], labels=labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps.append({name: one.detach().clone() for name, one in learned.items()})

    def spy(*case: Any) -> None:
        found.append({name: one.detach().clone() for name, one in case[1].learned.items()})
        conditioned_backward(*case)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fsbench_methods.cocoop.conditioned_backward", spy)
        classifier = method.fit(TASK, BACKBONE, context())
    for ours, theirs in zip([*found[1:], classifier.tensors()], steps, strict=True):
        for name, one in theirs.items():
            assert relative_gap(ours[name], one) < 1e-4, name
    assert (steps[-1]["context"] - words).abs().max() > 1e-3
    queries = random_task(BACKBONE, shots=10).train
    expected = reference.logits(*PLAIN, learned, queries.features)
    assert int((classifier.logits(queries).argmax(1) != expected.argmax(1)).sum()) == 0


@given(
    names=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    runs=st.integers(1, 6),
    tokens=st.integers(1, 5),
    parts=st.integers(1, 4),
)
@settings(max_examples=25, deadline=None)
def test_several_contexts_are_as_each_alone(
    names: list[int], runs: int, tokens: int, parts: int
) -> None:
    classnames = [" ".join(["cat"] * length) for length in names]
    prompts = build_prompts(
        classnames, BACKBONE, TOWER, tokens=tokens, position="end", class_specific=False
    )
    contexts = torch.randn(runs, tokens, 32, generator=torch.Generator().manual_seed(1))
    for part in (None, *prompts.packing.divide(parts)):
        together, alone = Cost(), Cost()
        with counting(together):
            found = prompts.features(TOWER, contexts, part)
        with counting(alone):
            expected = torch.stack([prompts.features(TOWER, one, part) for one in contexts])
        assert found.shape == expected.shape
        assert relative_gap(found, expected) < TOLERANCE
        assert together == alone, "the same work is billed"


@pytest.mark.parametrize(("classes", "images"), [(1, 3), (2, 1), (1000, 2)])
def test_memory_is_that_of_a_block(classes: int, images: int) -> None:
    """Tensors kept for the backward pass of a step do not grow with the batch."""
    names = tuple(f"thing {index}" for index in range(classes))
    task = random_task(BACKBONE, classnames=names, shots=1, val=0)
    model = CoCoOp().model(task, BACKBONE, TOWER, 4, context())
    contexts = Conditioned({name: torch.nn.Parameter(one) for name, one in start().items()})
    kept = []
    for count in (images, 4 * images):
        sizes: list[int] = []

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        labels = torch.zeros(count, dtype=torch.long)
        features = TASK.train.features[:count]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            conditioned_backward(model, contexts, features, labels, lambda loss: loss)
        kept.append(max(sizes))
    bound = max(6 * 2**10, model.prompts.packing.tokens) * 4 * 32
    assert max(kept) <= bound, "the hidden layer of one block"
