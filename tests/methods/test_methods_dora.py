"""DoRA against its mathematics: logits, gradients, dropout, whole fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.dora import Dora
from fsbench_methods.magnitudes import Decomposed, decomposed
from torch import Tensor

from fewshot_bench.backbones import Site
from fewshot_bench.profiling.optimizer import ParameterObserver
from tests.reference import dora as reference
from tests.reference.toy import (
    CPU,
    context,
    random_backbone,
    random_task,
    relative_gap,
)
from tests.support.lora_cases import FedMasks, recorded, with_random_b

TOLERANCE = 1e-5


def started(method: Dora, backbone: Any, task: Any) -> tuple[Any, Decomposed]:
    """The model and the weights with the initial values of `fit`."""
    model = method.model(task, backbone, context())
    return model, decomposed(method.adapter(model, CPU, context()), model)


def moved(adapter: Decomposed) -> Decomposed:
    """Randomize updates and magnitudes."""
    with_random_b(adapter.low)
    rng = torch.Generator().manual_seed(6)
    for magnitude in adapter.magnitudes.values():
        magnitude.data.mul_(1 + 0.2 * torch.rand(magnitude.shape, generator=rng))
    return adapter.for_step(torch.float32)


def parts_of(adapter: Decomposed) -> dict[Site, tuple[Tensor, Tensor, Tensor]]:
    return {
        site: tuple(  # type: ignore[misc]
            x.detach().clone().requires_grad_() for x in (a, b, adapter.magnitudes[site])
        )
        for site, (a, b) in adapter.low.factors.items()
    }


def assert_same_gradients(adapter: Decomposed, parts: Any) -> None:
    for site, (a, b) in adapter.low.factors.items():
        for ours, theirs in zip((a, b, adapter.magnitudes[site]), parts[site], strict=True):
            assert theirs.grad.abs().max() > 0
            assert relative_gap(ours.grad, theirs.grad) < TOLERANCE, site  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method",
    [
        Dora(dropout=0),
        Dora(dropout=0, rank=3, alpha=2.0, matrices="qkvom"),
        Dora(dropout=0, matrices="vo", encoder="both"),
    ],
    ids=lambda method: method.matrices,
)
@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.usefixtures("layout")
def test_loss_and_gradients_equal_the_reference(method: Dora, chunks: int) -> None:
    backbone = random_backbone(width=48, layers=3, quick_gelu=True)
    task = random_task(backbone)
    model, adapter = started(method, backbone, task)
    model = model.within_memory(9, CPU, 2 * chunks if chunks > 1 else 1)
    adapter = moved(adapter)
    parts = parts_of(adapter)
    batch, labels = task.train.pixels[::2], task.train.labels[::2]  # type: ignore[attr-defined]
    model.backward(batch, labels, adapter, lambda loss: loss)
    tokens = backbone.tokenize(task.prompts(task.templates[0]))
    expected, logits = reference.loss(backbone.module, batch, labels, tokens, parts, method.gain)
    expected.backward()
    ours = model.logits(batch, model.class_features(adapter), adapter)
    assert relative_gap(ours, logits) < TOLERANCE
    assert_same_gradients(adapter, parts)


@pytest.mark.usefixtures("layout")
def test_dropout_acts_on_the_input_of_the_update_alone() -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    model, adapter = started(Dora(), backbone, task)
    order = [Site(e, layer, m) for e in ("text", "vision") for layer in range(2) for m in "qkv"]
    rng = torch.Generator().manual_seed(1)
    masks = {site: (torch.rand(32, generator=rng) > 0.25).float() for site in order}
    fed = FedMasks(0.25, [masks[site] for site in order])
    adapter = moved(adapter).masked(lambda _: fed)  # type: ignore[arg-type, return-value]
    parts = parts_of(adapter)
    batch, labels = task.train.pixels, task.train.labels  # type: ignore[attr-defined]
    model.loss(batch, labels, adapter).backward()
    tokens = backbone.tokenize(task.prompts(task.templates[0]))
    expected, _ = reference.loss(
        backbone.module, batch, labels, tokens, parts, 2**-0.5, masks, 0.25
    )
    expected.backward()
    assert next(fed.calls) == len(order)
    assert_same_gradients(adapter, parts)


def test_the_untrained_model_is_exactly_clip() -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    model, adapter = started(Dora(), backbone, task)
    plain = model.class_features(None)
    assert torch.equal(model.class_features(adapter.detached()), plain)
    assert all(delta.abs().max() < 1e-6 for delta in adapter.merged().values())


def test_an_adapter_that_is_not_fused_adds_the_same() -> None:
    _, adapter = started(Dora(), backbone := random_backbone(), random_task(backbone))
    adapter = moved(adapter).detached()
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    for matrix in "qkv":
        site = Site("vision", 1, matrix)
        delta = adapter.delta(site, x)
        assert delta is not None
        expected = x @ adapter.merged()[site].T
        assert relative_gap(delta, expected) < TOLERANCE, "biases stay as they are"
    assert adapter.delta(Site("vision", 1, "o"), x) is None


def test_a_whole_fit_equals_a_plain_loop() -> None:
    backbone, method = random_backbone(), Dora(dropout=0, iterations=8, lr=5e-3, batch_size=6)
    task, shots = recorded(backbone)
    observer = ParameterObserver()
    with observer.watch():
        classifier = method.fit(task, backbone, context())
    assert observer.trained == sum(x.numel() for x in classifier.tensors().values())
    _, first = started(method, backbone, task)
    tokens = backbone.tokenize(task.prompts(task.templates[0]))
    steps = method.iterations * task.shots
    read = shots.read[:steps]
    kept = reference.fitted(backbone.module, read, tokens, parts_of(first), 2**-0.5, rate=5e-3)
    queries = task.val.pixels  # type: ignore[union-attr]
    expected = reference.loss(
        backbone.module, queries, torch.zeros(len(queries)).long(), tokens, kept, 2**-0.5
    )[1]
    ours = classifier.logits(task.val)  # type: ignore[arg-type]
    assert relative_gap(ours, expected) < 1e-3
    assert torch.equal(ours.argmax(1), expected.argmax(1))
    untrained = (
        F.normalize(backbone.encode_image(queries), dim=-1) @ backbone.class_features(task).T
    )
    assert not torch.equal(untrained.argmax(1), expected.argmax(1)), "nothing was learned"
