"""Subjects of timings: CLIP-sized models with random weights, class names, both steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from fsbench_methods.clip_lora import ClipLora
from fsbench_methods.coop import CoOp
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor

from benchmarks import official
from fewshot_bench import Vocabulary
from fewshot_bench.backbones.open_clip import OpenClipBackbone
from fewshot_bench.runner.fit import Context

TEMPLATE = "a photo of a {}."
BATCH = 32
CPU = torch.device("cpu")


def backbone_of(name: str, device: torch.device = CPU, precision: str = "fp32") -> OpenClipBackbone:
    """An open_clip model with random weights and OpenAI's activation."""
    logging.getLogger().setLevel(logging.ERROR)
    torch.manual_seed(0)
    module = open_clip.create_model(name, force_quick_gelu=True)
    transform = image_transform_v2(PreprocessCfg(size=224), is_train=False)
    tokenizer = open_clip.get_tokenizer(name)
    return OpenClipBackbone(
        name, module, tokenizer, transform, device=str(device), precision=precision
    )


def classnames(count: int) -> tuple[str, ...]:
    """The first `count` class names of ImageNet."""
    lines = (resources.files("fsbench_datasets") / "imagenet_classes.txt").read_text("utf-8")
    return tuple(line.split(None, 1)[1].strip() for line in lines.splitlines()[:count])


@dataclass(frozen=True)
class Step:
    """One training step of ours and of the official code, on the same batch and weights.

    gaps: largest relative difference of logits and of gradients, without dropout.
    """

    ours: Callable[[], Any]
    official: Callable[[], Any]
    gaps: Callable[[], tuple[float, float]]


def relative(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the reference's largest absolute value."""
    return float((ours - reference).abs().max() / reference.abs().max().clamp_min(1e-12))


def batch_of(
    backbone: OpenClipBackbone, classes: int, images: int | None = None
) -> tuple[Tensor, Tensor]:
    """A batch of random pixels and labels; images: their number, `BATCH` if None."""
    rng, count = torch.Generator().manual_seed(1), images or BATCH
    pixels = torch.randn(count, 3, *backbone.image_size, generator=rng).to(backbone.device)
    return pixels, torch.randint(classes, (count,), generator=rng).to(backbone.device)


def clip_lora(
    backbone: OpenClipBackbone,
    names: tuple[str, ...],
    images: int | None = None,
    dropout: float = 0.25,
) -> Step:
    """CLIP-LoRA with its defaults, except for `dropout`."""
    vocabulary, context = (
        Vocabulary(names, (TEMPLATE,)),
        Context(1, backbone.device, backbone.precision),
    )
    method = ClipLora(dropout=dropout)
    model = method.model(vocabulary, backbone, context)  # type: ignore[arg-type]
    adapter = method.adapter(model, backbone.device, context)
    rng = torch.Generator().manual_seed(2)
    for _, b in adapter.factors.values():
        b.data.copy_(0.02 * torch.randn(b.shape, generator=rng))
    factors = {(s.encoder, s.layer, s.matrix): pair for s, pair in adapter.factors.items()}
    theirs = official.ClipLoraStep(
        backbone.module, backbone.tokenize, factors, adapter.scaling, dropout
    )
    pixels, labels = batch_of(backbone, len(names), images)
    prompts = vocabulary.prompts(TEMPLATE)
    mine_steps = torch.optim.AdamW(adapter.parameters(), lr=2e-4, fused=True)
    their_steps = torch.optim.AdamW(theirs.parameters(), lr=2e-4)
    take = context.train_step(partial(model.loss, adapter=adapter), mine_steps)

    def step() -> None:
        take(pixels, labels)

    def step_of_theirs() -> None:
        their_steps.zero_grad()
        theirs.backward(pixels, labels, prompts)
        their_steps.step()

    def gaps() -> tuple[float, float]:
        theirs.train(False)
        plain = adapter.detached()
        mine = ClipLora(dropout=0).adapter(model, backbone.device, context)
        for site, pair in mine.factors.items():
            for one, other in zip(pair, plain.factors[site], strict=True):
                one.data.copy_(other)
        model.loss(pixels, labels, mine).backward()  # type: ignore[no-untyped-call]
        theirs.load(mine.factors)
        expected = theirs.logits(pixels, prompts)
        for parameter in theirs.parameters():
            parameter.grad = None
        F.cross_entropy(expected, labels).backward()  # type: ignore[no-untyped-call]
        logits = model.logits(pixels, model.class_features(mine), mine)
        pairs = zip(mine.parameters(), theirs.in_order(mine.factors), strict=True)
        worst = max(relative(a.grad, b.grad) for a, b in pairs)  # type: ignore[arg-type]
        theirs.train(True)
        return relative(logits.detach(), expected.detach()), worst

    return Step(step, step_of_theirs, gaps)


def coop(
    backbone: OpenClipBackbone,
    names: tuple[str, ...],
    images: int | None = None,
    *,
    encode: bool = False,
) -> Step:
    """CoOp with 16 shared context tokens before the class name.

    The official step encodes its images. Ours takes features, as when an earlier run encoded these
    views; with `encode`, it encodes them too, as in a first run.
    """
    context, method = Context(1, backbone.device, backbone.precision), CoOp()
    tower = backbone.text_tower()
    vocabulary = Vocabulary(names, (TEMPLATE,))
    start = method.initial_context(vocabulary, backbone, tower, context)  # type: ignore[arg-type]
    model = method.model(vocabulary, backbone, tower, 16, context)  # type: ignore[arg-type]
    mine = torch.nn.Parameter(start.clone())
    frozen = official.frozen_copy(backbone.module)
    theirs = official.CoOpStep(frozen, backbone.tokenize, names, start)
    pixels, labels = batch_of(backbone, len(names), images)
    features = F.normalize(backbone.encode_image(pixels), dim=-1)
    settings = {"lr": 2e-3, "momentum": 0.9, "weight_decay": 5e-4}
    mine_steps = torch.optim.SGD([mine], **settings)  # type: ignore[arg-type]
    their_steps = torch.optim.SGD([theirs.context], **settings)  # type: ignore[arg-type]
    losses = method.losses(vocabulary, backbone)  # type: ignore[arg-type]
    take = context.train_step_by(partial(method.backward, model, mine, losses), mine_steps)

    def step() -> None:
        found = F.normalize(backbone.encode_image(pixels), dim=-1) if encode else features
        take(found, labels)

    def step_of_theirs() -> None:
        their_steps.zero_grad()
        theirs.backward(pixels, labels)
        their_steps.step()

    def gaps() -> tuple[float, float]:
        theirs.context.data.copy_(mine.data)
        mine.grad = theirs.context.grad = None
        batch = model.batch(mine, features, labels)
        batch.cross_entropy().backward()  # type: ignore[no-untyped-call]
        expected = theirs.logits(pixels)
        F.cross_entropy(expected, labels).backward()  # type: ignore[no-untyped-call]
        assert mine.grad is not None
        assert theirs.context.grad is not None
        gap = relative(mine.grad, theirs.context.grad)
        return relative(batch.logits.detach(), expected.detach()), gap

    return Step(step, step_of_theirs, gaps)


def is_block_norm(name: str) -> bool:
    """True for the LayerNorms within blocks, which LN-tuning trains."""
    return ".ln_1." in name or ".ln_2." in name


def is_bias(name: str) -> bool:
    """True for every bias, which BitFit trains."""
    return name.endswith("bias")


def official_tuned(
    backbone: OpenClipBackbone,
    names: tuple[str, ...],
    images: int | None = None,
    *,
    choice: Callable[[str], bool],
) -> Callable[[], None]:
    """The official step that trains the chosen tensors of both encoders."""
    tokens = backbone.tokenize(Vocabulary(names, (TEMPLATE,)).prompts(TEMPLATE))
    theirs = official.TunedStep(backbone.module, tokens, choice)
    pixels, labels = batch_of(backbone, len(names), images)
    steps = torch.optim.AdamW(theirs.parameters(), lr=2e-4)

    def step() -> None:
        steps.zero_grad()
        theirs.backward(pixels, labels)
        steps.step()

    return step


def given_to(step: official.Step, images: int) -> tuple[Tensor, Tensor]:
    """A batch as an official step takes it: pixels, unit features or rows, and labels."""
    setting = step.setting
    if step.whole:
        images = len(setting.labels)
    pixels, labels = batch_of(setting.backbone, len(setting.names), images)
    if step.whole:
        labels = setting.labels
    if step.given == "pixels":
        return pixels, labels
    with torch.no_grad():
        rows = setting.backbone.encode_image(pixels, projected=step.given == "features").float()
    return F.normalize(rows, dim=-1) if step.given == "features" else rows, labels


def official_step(step: official.Step, images: int) -> Callable[[], None]:
    """The official step on a batch of random images."""
    batch, optimizer = given_to(step, images), step.optimizer()
    return lambda: step.take(optimizer, *batch)
