"""CLIP-LoRA against its mathematics: logits, gradients, dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.clip_lora import ClipLora
from fsbench_methods.lora_layers import LowRank
from fsbench_methods.lora_model import LoraModel
from torch import Tensor

from fewshot_bench.backbones import Site
from tests.reference import clip_lora as reference
from tests.reference.toy import CPU, context, random_backbone, random_task, relative_gap
from tests.support.lora_cases import FedMasks, with_random_b

TOLERANCE = 1e-5


def copied(adapter: LowRank) -> dict[Site, tuple[Tensor, Tensor]]:
    return {
        site: (a.detach().clone().requires_grad_(), b.detach().clone().requires_grad_())
        for site, (a, b) in adapter.factors.items()
    }


def batch_of(backbone: Any, task: Any, model: LoraModel) -> tuple[Tensor, Tensor]:
    index = torch.arange(0, len(task.train), 2)
    if model.vision is None:
        return task.train.features[index], task.train.labels[index]
    return task.train.pixels[index], task.train.labels[index]


def assert_same_gradients(adapter: LowRank, factors: dict[Site, tuple[Tensor, Tensor]]) -> None:
    for site, pair in adapter.factors.items():
        for ours, theirs in zip(pair, factors[site], strict=True):
            assert theirs.grad.abs().max() > 0
            assert relative_gap(ours.grad, theirs.grad) < TOLERANCE, site


@pytest.mark.parametrize(
    "method",
    [
        ClipLora(dropout=0),
        ClipLora(dropout=0, rank=3, scaling="linear", alpha=2.0, matrices="vo"),
        ClipLora(dropout=0, matrices="qkvom", position="top"),
        ClipLora(dropout=0, encoder="vision", position="bottom-half"),
        ClipLora(dropout=0, encoder="text"),
    ],
    ids=lambda method: f"{method.encoder}-{method.matrices}-{method.position}",
)
@pytest.mark.parametrize("templates", [("a photo of a {}.",), ("{} texture.", "art of the {}.")])
@pytest.mark.usefixtures("layout")
def test_loss_and_gradients_equal_the_reference(method: ClipLora, templates: Any) -> None:
    backbone = random_backbone(width=48, layers=3, quick_gelu=method.encoder == "vision")
    task = random_task(backbone, templates=templates)
    model = method.model(task, backbone, context())
    adapter = with_random_b(method.adapter(model, CPU, context()))
    factors = copied(adapter)
    batch, labels = batch_of(backbone, task, model)
    loss = model.loss(batch, labels, adapter.for_step(torch.float32))
    loss.backward()
    tokens = [backbone.tokenize(task.prompts(template)) for template in templates]
    divisor = method.rank**0.5 if method.scaling == "sqrt" else method.rank
    pixels = task.train.pixels[::2]  # type: ignore[attr-defined]
    expected, logits = reference.loss(
        backbone.module, pixels, labels, tokens, factors, method.alpha / divisor
    )
    expected.backward()
    ours = model.logits(batch, model.class_features(adapter), adapter)
    assert relative_gap(ours, logits) < TOLERANCE
    assert relative_gap(loss, expected) < TOLERANCE
    assert_same_gradients(adapter, factors)


@pytest.mark.usefixtures("layout")
def test_dropout_with_the_same_masks_equals_the_reference() -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    method = ClipLora(dropout=0.25)
    model = method.model(task, backbone, context())
    plain = with_random_b(method.adapter(model, CPU, context()))
    rng = torch.Generator().manual_seed(1)
    order = [Site(e, layer, m) for e in ("text", "vision") for layer in range(2) for m in "qkv"]
    masks = {site: (torch.rand(32, generator=rng) > 0.25).float() for site in order}
    fed = FedMasks(0.25, [masks[site] for site in order])
    adapter = LowRank(plain.factors, plain.scaling, fed)  # type: ignore[arg-type]
    factors = copied(adapter)
    batch, labels = batch_of(backbone, task, model)
    loss = model.loss(batch, labels, adapter.for_step(torch.float32))
    loss.backward()
    tokens = [backbone.tokenize(task.prompts(task.templates[0]))]
    expected, _ = reference.loss(
        backbone.module, batch, labels, tokens, factors, 2**-0.5, masks, 0.25
    )
    expected.backward()
    assert next(fed.calls) == len(order)
    assert relative_gap(loss, expected) < TOLERANCE
    assert_same_gradients(adapter, factors)


def test_dropout_is_off_at_prediction_and_gone_when_zero() -> None:
    method = ClipLora()
    backbone = random_backbone()
    model = method.model(random_task(backbone), backbone, context())
    assert method.adapter(model, CPU, context()).dropout is not None
    assert method.adapter(model, CPU, context()).detached().dropout is None
    assert ClipLora(dropout=0).adapter(model, CPU, context()).dropout is None


def test_the_untrained_model_is_exactly_clip() -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    model = ClipLora().model(task, backbone, context())
    adapter = ClipLora().adapter(model, CPU, context())
    ours = model.class_features(adapter)
    assert relative_gap(ours, backbone.class_features(task)) < 1e-6


@pytest.mark.parametrize("encoder", ["both", "text"])
def test_where_memory_is_short_the_same_numbers_come_out(
    encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = random_backbone()
    task = random_task(backbone, templates=("a photo of a {}.", "{} texture."))
    method = ClipLora(encoder=encoder, iterations=3, lr=0.01)
    plain = method.fit(task, backbone, context()).tensors()
    monkeypatch.setattr("fewshot_bench.training.memory.free_bytes", lambda device: 1000)
    ctx = context()
    spared = method.fit(task, backbone, ctx).tensors()
    assert ctx.notes["recomputed"] == (["text", "vision"] if encoder == "both" else ["text"])
    assert all(torch.equal(plain[name], spared[name]) for name in plain)


@pytest.mark.parametrize("encoder", ["both", "vision", "text"])
def test_prediction_equals_an_open_clip_model_with_merged_weights(encoder: Any) -> None:
    backbone, other = random_backbone(), random_backbone()
    task = random_task(backbone)
    method = ClipLora(encoder=encoder, iterations=5, lr=0.02, matrices="qkvom")
    classifier = method.fit(task, backbone, context())
    module = reference.merged_module(
        other.module, classifier.adapter.factors, classifier.adapter.scaling
    )
    texts = F.normalize(
        module.encode_text(backbone.tokenize(task.prompts(task.templates[0]))), dim=-1
    )
    images = F.normalize(module.encode_image(task.val.pixels), dim=-1)  # type: ignore[union-attr]
    expected = module.logit_scale.exp() * images @ texts.T
    assert relative_gap(classifier.logits(task.val), expected) < TOLERANCE  # type: ignore[arg-type]
    assert any(b.abs().max() > 1e-3 for _, b in classifier.adapter.factors.values())
