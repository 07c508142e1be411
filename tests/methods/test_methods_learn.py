"""Every method end to end on colored squares, through the harness's own views and context."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from fsbench_methods.clip_lora import ClipLora
from fsbench_methods.coop import CoOp
from fsbench_methods.linear_probe import LinearProbe
from fsbench_methods.tip_adapter import TipAdapter, TipAdapterF
from fsbench_methods.zero_shot import ZeroShot

from fewshot_bench.api.method import hyperparameters
from fewshot_bench.testing.bench import SHOTS, Setting, fit
from tests.reference.encoders import image_features, text_features
from tests.reference.toy import random_backbone, random_task, relative_gap

METHODS = [
    ZeroShot(),
    LinearProbe(),
    LinearProbe(init="text"),
    TipAdapter(),
    TipAdapterF(),
    CoOp(context_tokens=4, epochs=100),
    CoOp(context_tokens=4, epochs=100, position="middle", class_specific=True),
    ClipLora(iterations=15, lr=5e-3),
    ClipLora(iterations=15, lr=5e-3, encoder="text"),
    ClipLora(iterations=15, lr=5e-3, encoder="vision", matrices="om", position="top"),
]


CHANCE = 0.25
# Options that the kit does not try, with few steps.
VARIANTS = [
    LinearProbe(init="text"),
    CoOp(context_tokens=4, epochs=2, position="middle", class_specific=True),
    ClipLora(iterations=2, encoder="text"),
    ClipLora(iterations=2, encoder="vision", matrices="om", position="top"),
]


def label(method: Any) -> str:
    return repr(method).split("(")[0] + "-" + str(METHODS.index(method))


@functools.cache
def top1(method: Any, shots: int = 8) -> float:
    """The share of queries that a fit answers rightly; two tests ask for each."""
    made = fit(method, Setting(shots=shots), "cpu")
    return float((made.logits.argmax(dim=-1) == made.labels).float().mean())


@pytest.mark.parametrize("method", METHODS, ids=label)
def test_each_method_is_far_above_chance(method: Any) -> None:
    assert top1(method) > CHANCE + 0.2


@pytest.mark.parametrize("method", [m for m in METHODS if not isinstance(m, CoOp)][1:], ids=label)
def test_each_method_but_coop_improves_on_zero_shot(method: Any) -> None:
    """CoOp's prompts start at random tokens, which an untrained text encoder cannot interpret."""
    assert top1(method) > top1(ZeroShot(), SHOTS)


@pytest.mark.parametrize("method", VARIANTS, ids=lambda method: method.name)
def test_few_classes_without_validation_and_equal_seeds(method: Any) -> None:
    for classes in ((2,), (3, 1)):
        setting = Setting(1, 0, classes)
        state = torch.get_rng_state()
        first, second = (fit(method, setting, "cpu").logits for _ in range(2))
        assert first.shape == (16 * len(classes), len(classes))
        assert first.isfinite().all()
        assert torch.equal(first, second)
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", {type(method): 0 for method in METHODS}, ids=lambda k: k.name)
def test_every_hyperparameter_has_help_and_a_source(kind: type) -> None:
    for parameter in hyperparameters(kind):
        assert parameter.help, parameter.name
        assert parameter.source, parameter.name


def test_zero_shot_is_the_scaled_cosine() -> None:
    backbone = random_backbone()
    task = random_task(backbone, templates=("{} texture.", "a photo of a {}."))
    classifier = ZeroShot().fit(task, backbone, None)  # type: ignore[arg-type]
    per_template = [
        text_features(backbone.module, backbone.tokenize(task.prompts(template)))
        for template in task.templates
    ]
    text = torch.nn.functional.normalize(sum(per_template), dim=-1)  # type: ignore[arg-type]
    images = image_features(backbone.module, task.train.pixels)  # type: ignore[attr-defined]
    assert (
        relative_gap(classifier.logits(task.train), backbone.logit_scale * images @ text.T) < 1e-5
    )
    assert classifier.tensors() == {}


def test_the_written_out_encoders_equal_open_clip() -> None:
    backbone = random_backbone(quick_gelu=True)
    task = random_task(backbone)
    pixels = task.train.pixels  # type: ignore[attr-defined]
    tokens = backbone.tokenize(task.prompts("a photo of a {}."))
    module: Any = backbone.module
    images = image_features(module, pixels)
    assert relative_gap(images, module.encode_image(pixels, normalize=True)) < 1e-5
    texts = text_features(module, tokens)
    assert relative_gap(texts, module.encode_text(tokens, normalize=True)) < 1e-5
