"""`Step`: one training step of a published method, on weights, prompts and batches like ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.official import clip
from fewshot_bench.runner.fit import AUTOCAST

TEMPLATE = "a photo of a {}."
Given = Literal["pixels", "features", "unprojected"]
Halved = Literal["nothing", "frozen", "all"]


@dataclass(frozen=True)
class Setting:
    """The input of a step: a backbone, class names, and the labels of a support set."""

    backbone: Any
    names: Sequence[str]
    labels: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """That of products in a run of the backbone's precision."""
        return AUTOCAST.get(self.backbone.precision, torch.float32)

    @property
    def words(self) -> list[str]:
        """The class names as they stand in prompts."""
        return [name.replace("_", " ") for name in self.names]


class Step:
    """A frozen copy of the model, and parameters in the order of ours.

    given: what a batch of images is: pixels, or what the official code encodes ahead of training
    (unit features, or rows before the projection). whole: every batch is the whole support set.
    halved: what the official code stores in 16 bits in runs of 16 bits; the rest is under autocast.
    """

    given: ClassVar[Given] = "pixels"
    whole: ClassVar[bool] = False
    halved: ClassVar[Halved] = "frozen"
    template: ClassVar[str] = TEMPLATE

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        frozen = torch.float32 if self.halved == "nothing" else setting.dtype
        self.dtype = setting.dtype if self.halved == "all" else torch.float32
        self.module = clip.frozen_copy(setting.backbone.module, frozen)
        self.vision: clip.Attentions = clip.plain_attentions(self.module.visual.transformer)
        self.text: clip.Attentions = clip.plain_attentions(self.module.transformer)
        self.scale = setting.backbone.module.logit_scale.detach().exp()
        self.device = self.scale.device
        self.learned: list[Tensor] = []

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """The terms whose gradients a step adds."""
        raise NotImplementedError

    def backward(self, images: Tensor, labels: Tensor) -> None:
        """Set the gradients of one batch."""
        torch.autograd.backward(sum(self.losses(images, labels)))  # type: ignore[arg-type]

    def optimizer(self) -> torch.optim.Optimizer:
        """Dassl's SGD."""
        return torch.optim.SGD(self.learned, lr=2e-3, momentum=0.9, weight_decay=5e-4)

    def after(self) -> None:
        """Work after the optimizer's step."""

    def take(self, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
        """Take a step."""
        optimizer.zero_grad()
        self.backward(images, labels)
        optimizer.step()
        self.after()

    @torch.no_grad()
    def load(self, values: Sequence[Tensor]) -> None:
        """Copy values of ours, in which parameters of several layers may be stacked."""
        flat = torch.cat([value.detach().flatten().float() for value in values])
        sizes = [parameter.numel() for parameter in self.learned]
        for parameter, part in zip(self.learned, torch.split(flat, sizes), strict=True):
            parameter.copy_(part.view_as(parameter))

    def normal(self, *shape: int, std: float = 0.02) -> nn.Parameter:
        """A parameter with normal values."""
        return self.parameter(std * torch.randn(shape, device=self.device))

    def parameter(self, value: Tensor) -> nn.Parameter:
        """A parameter with these values."""
        return nn.Parameter(value.detach().clone().to(self.dtype))

    def linear(self, inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
        """A layer with torch's initial values."""
        return nn.Linear(inputs, outputs, bias=bias, device=self.device, dtype=self.dtype)

    def tokens(self, template: str | None = None) -> Tensor:
        """(classes, 77) token ids of the filled template."""
        filled = [(template or self.template).replace("{}", word) for word in self.setting.words]
        return self.setting.backbone.tokenize(filled)  # type: ignore[no-any-return]

    def raw_images(self, pixels: Tensor, **edits: Any) -> Tensor:
        """(b, embed) image features, not normalized."""
        return clip.raw_image_features(self.module, pixels, self.vision, **edits)

    def images(self, pixels: Tensor, **edits: Any) -> Tensor:
        """(b, embed) unit image features."""
        return F.normalize(self.raw_images(pixels, **edits), dim=-1)

    def classes_of(self, tokens: Tensor, **edits: Any) -> Tensor:
        """(classes, embed) unit features of token ids."""
        embedded = self.module.token_embedding(tokens)
        return clip.text_features(self.module, embedded, tokens.argmax(dim=-1), self.text, **edits)

    @torch.no_grad()
    def raw_written(self, template: str | None = None) -> Tensor:
        """(classes, embed) features of the frozen text encoder, not normalized."""
        tokens = self.tokens(template)
        embedded = self.module.token_embedding(tokens)
        ends = tokens.argmax(dim=-1)
        return clip.raw_text_features(self.module, embedded, ends, self.text).float()

    def written(self) -> Tensor:
        """(classes, embed) unit features of the frozen text encoder."""
        return F.normalize(self.raw_written(), dim=-1)

    def cross_entropy(self, images: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of scaled cosines of unit features."""
        return F.cross_entropy(self.scale * images @ classes.T, labels)


class Context:
    """Prompts of 77 tokens with rows behind the start token that are replaced by a context."""

    def __init__(self, step: Step, count: int, words: str = "") -> None:
        """words: those before the class name, of which `count` are replaced; else placeholders."""
        tokens = step.tokens(f"{words or ' '.join(['X'] * count)} {{}}.")
        embedded = step.module.token_embedding(tokens).detach()
        self.start, self.first = embedded[:, :1], embedded[0, 1 : 1 + count]
        self.rest, self.ends = embedded[:, 1 + count :], tokens.argmax(dim=-1)

    def __call__(self, context: Tensor) -> Tensor:
        """(classes, 77, width) embeddings with a context (count, width)."""
        own = context.expand(len(self.rest), -1, -1)
        return torch.cat([self.start, own, self.rest], dim=1)
